"""Makes sources in small, in their real layouts: ImageNet, iNaturalist, shards, and a diffusion pipeline, for tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tests import make_images as make

WNIDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}
IMAGENET_ID = "{}_{:d}.JPEG"


def imagenet(root: Path, per_class: int = 4, below: str = "train", mapping: bool = True) -> Path:
    """`per_class` images of three classes, and the list of classes of the Kaggle download."""
    for k, wnid in enumerate(WNIDS):
        for i in range(per_class):
            make.write(root / below / wnid / IMAGENET_ID.format(wnid, 10 + i), seed=k * 7 + i)
    if mapping:
        (root / "LOC_synset_mapping.txt").write_text("".join(f"{w} {name}\n" for w, name in WNIDS.items()))
    return root


SPECIES = (  # kingdom ... genus, species, common name, supercategory; the two Aotus are a plant and a monkey
    (
        "Animalia",
        "Chordata",
        "Mammalia",
        "Primates",
        "Aotidae",
        "Aotus",
        "Aotus trivirgatus",
        "night monkey",
        "Mammals",
    ),
    ("Animalia", "Chordata", "Mammalia", "Carnivora", "Felidae", "Puma", "Puma concolor", "cougar", "Mammals"),
    ("Animalia", "Chordata", "Aves", "Gruiformes", "Gruidae", "Grus", "Grus grus", "common crane", "Birds"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Fabales", "Fabaceae", "Aotus", "Aotus ericoides", "", "Plants"),
)
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")


def inaturalist(root: Path, version: str = "2021", per_class: int = 4) -> Path:
    """`per_class` images of four species. In 2017 the tree holds images of the validation set as well."""
    categories, images = [], []
    for k, species in enumerate(SPECIES):
        name, common, above = species[6:]
        category = {"id": k, "name": name, "supercategory": above}
        if version == "2017":
            folder = f"train_val_images/{above}/{name}"
        else:
            place = "_".join((f"{k:05d}", *species[:6], name.partition(" ")[2]))
            folder = f"{'train_mini' if version == '2021-mini' else 'train'}/{place}"
            category |= {"common_name": common, "image_dir_name": place, **dict(zip(RANKS, species[:6], strict=True))}
        categories.append(category)
        for i in range(per_class):
            file = f"{folder}/{k}{i:04x}.jpg"
            make.write(root / file, seed=k * 7 + i)
            if version != "2017" or i > 0:
                by = 'someone who writes "categories": [ and \\ "file_name": "x"'
                images.append({"id": len(images), "file_name": file, "license": 0, "rights_holder": by})
    told = {"info": {"year": version[:4]}, "images": images, "categories": categories, "annotations": []}
    name = {"2017": "train2017.json", "2021": "train.json", "2021-mini": "train_mini.json"}[version]
    (root / name).write_text(json.dumps(told))
    return root


def tar_shards(root: Path, shards: int = 3, per_shard: int = 6, **parts: str) -> Path:
    """WebDataset shards of images in four classes (labels 0-3); `parts`: further members, formats with {i}."""
    root.mkdir(parents=True, exist_ok=True)
    for s in range(shards):
        with tarfile.open(root / f"train-{s:04d}.tar", "w") as archive:
            for i in range(s * per_shard, (s + 1) * per_shard):
                told = {"cls": str(i % 4), **{kind: text.format(i=i, k=i % 4) for kind, text in parts.items()}}
                members = {"jpg": make.encoded(make.picture(seed=i)), **{k: t.encode() for k, t in told.items()}}
                for kind, data in members.items():
                    member = tarfile.TarInfo(f"{i:06d}.{kind}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root


def parquet_shards(root: Path, shards: int = 3, per_shard: int = 6, names: tuple[str, ...] = ()) -> Path:
    """Parquet shards as the package `datasets` writes them: a struct of bytes and path, and labels with their names."""
    root.mkdir(parents=True, exist_ok=True)
    for s in range(shards):
        numbers = range(s * per_shard, (s + 1) * per_shard)
        images = [{"bytes": make.encoded(make.picture(seed=i)), "path": f"{i}.jpg"} for i in numbers]
        table = pa.table(
            {"image": images, "label": [i % 4 for i in numbers], "text": [f"picture {i}" for i in numbers]}
        )
        if names:
            told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
        parquet.write_table(table, root / f"train-{s:05d}-of-{shards:05d}.parquet", row_group_size=4)
    return root
