"""The sources imagenet and inaturalist, on miniatures in the real layouts: listed, trained on, and what is wrong with
them."""
# ruff: noqa: E501 - what is said stands whole here, as people read it

from __future__ import annotations

import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from make_pools import open_pool
from scipy.io import savemat

from ray_robust.data.sources.imagenet import OBTAIN
from ray_robust.data.sources.inaturalist import RELEASES
from ray_robust.errors import DataAbsent, UserError
from ray_robust.launch.ingest.ingest import ingest
from tests import make_sources as make
from tests.make_images import write


def source(name: str, root, **options):
    plain = {"hierarchy": None} if name == "imagenet" else {}  # no test needs WordNet on the machine
    return open_pool("source", name, {"root": str(root), **plain, **options})


def said(name: str, root, **options) -> list[str]:
    with pytest.raises(UserError) as caught:
        _ = source(name, root, **options).catalog
    return str(caught.value).replace(str(root), "ROOT").splitlines()


# --- imagenet


@pytest.mark.parametrize("below", ["train", "ILSVRC/Data/CLS-LOC/train", "."])
def test_imagenet_is_found_in_each_of_its_layouts(below, tmp_path):
    seen = source("imagenet", make.imagenet(tmp_path, below=below)).catalog
    assert seen.classes == ("n01440764", "n02012849", "n03126707")
    assert seen.names == ("tench", "crane", "crane")
    assert np.bincount(seen.labels).tolist() == [4, 4, 4]
    assert seen.licence.startswith("ImageNet terms of access")
    assert source("imagenet", make.imagenet(tmp_path / "b")).catalog.fingerprint == seen.fingerprint


def mapping(root):
    (root / "synset_words.txt").write_text("".join(f"{w} {name}\n" for w, name in make.WNIDS.items()))


def words(root):
    more = {"n00001740": "entity", **make.WNIDS}
    (root / "words.txt").write_text("".join(f"{w}\t{name}\n" for w, name in more.items()))


def torchvision(root):
    torch.save(({w: tuple(name.split(", ")) for w, name in make.WNIDS.items()}, ["n01440764"]), root / "meta.bin")


def meta_mat() -> bytes:
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "i4")]
    rows = [(i, w, name, "", 0) for i, (w, name) in enumerate(make.WNIDS.items(), 1)]
    file = io.BytesIO()
    savemat(file, {"synsets": np.array([*rows, (4, "n00001740", "entity", "", 3)], dtype=kinds)})
    return file.getvalue()


def devkit(root):
    write(root / "ILSVRC2012_devkit_t12/data/meta.mat", meta_mat())


def devkit_packed(root):
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("ILSVRC2012_devkit_t12/data/meta.mat")
        member.size = len(meta_mat())
        archive.addfile(member, io.BytesIO(meta_mat()))


@pytest.mark.parametrize("listed", [mapping, words, torchvision, devkit, devkit_packed])
def test_imagenet_has_its_names_from_any_list(listed, tmp_path):
    root = make.imagenet(tmp_path, mapping=False)
    listed(root)
    seen = source("imagenet", root).catalog
    assert dict(zip(seen.classes, seen.names, strict=True)) == {w: n.split(",")[0] for w, n in make.WNIDS.items()}


def test_imagenet_is_not_there(tmp_path):
    with pytest.raises(DataAbsent):
        _ = source("imagenet", tmp_path / "none").catalog
    assert said("imagenet", tmp_path / "none") == [f"ROOT: no such folder. {OBTAIN}"]
    wanted = "holds no class folders; wanted: train/n01440764/*.JPEG or ILSVRC/Data/CLS-LOC/train/n01440764/*.JPEG"
    assert said("imagenet", tmp_path) == [f"ROOT: {wanted}. {OBTAIN}"]
    write(tmp_path / "train/cats/1.jpg")
    assert said("imagenet", tmp_path) == [f"ROOT: {wanted}"]


def test_imagenet_without_its_devkit(tmp_path):
    root = make.imagenet(tmp_path, mapping=False)
    assert said("imagenet", root) == [
        "ROOT: has no list of its classes: put LOC_synset_mapping.txt (or synset_words.txt, words.txt, meta.bin, "
        "ILSVRC2012_devkit_t12.tar.gz) there; it comes with the images"
    ]
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"half a file")
    (line,) = said("imagenet", root)
    assert line.startswith(
        "ROOT/ILSVRC2012_devkit_t12.tar.gz: is no list of ImageNet's classes that can be read (ReadError"
    )
    (root / "synset_words.txt").write_text("n01440764 tench\nbass\n")
    assert said("imagenet", root) == ["ROOT/synset_words.txt:2: is no line like 'n01440764 tench, Tinca tinca'"]


def test_a_renamed_class_of_imagenet(tmp_path):
    root = make.imagenet(tmp_path)
    (root / "train/n01440764").rename(root / "train/tench")
    (root / "train/n02012849").rename(root / "train/n0201284")
    lacks = "2 of the 3 classes of LOC_synset_mapping.txt have no images (n01440764, n02012849)"
    assert said("imagenet", root) == [
        "ROOT/train/n0201284: is no class of LOC_synset_mapping.txt; did you mean n02012849?",
        "ROOT/train/tench: is no class of LOC_synset_mapping.txt; did you mean n01440764?",
        f"ROOT/train: {lacks}; copy the rest, or say `absent: drop`",
    ]


def test_half_a_copy_of_imagenet(tmp_path):
    root = make.imagenet(tmp_path)
    shutil.rmtree(root / "train/n02012849")
    lacks = "1 of the 3 classes of LOC_synset_mapping.txt have no images (n02012849)"
    assert said("imagenet", root) == [f"ROOT/train: {lacks}; copy the rest, or say `absent: drop`"]
    seen = source("imagenet", root, absent="drop").catalog
    assert seen.classes == ("n01440764", "n03126707")
    assert seen.notes == (f"Not the official images: {lacks}.",)
    write(root / "train/n02012849.tar", b"tar")
    assert said("imagenet", root) == [
        "ROOT/train: 1 archives of classes are not unpacked (n02012849.tar); each makes a folder of its name"
    ]


def test_images_that_lack_in_every_class_of_imagenet_are_counted(tmp_path):
    names = {f"n{i:08d}": f"thing {i}" for i in range(1000)}
    for wnid in names:
        write(tmp_path / f"train/{wnid}/{wnid}_1.JPEG", b"one")
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{w} {name}\n" for w, name in names.items()))
    what = "1,000 of ILSVRC2012's 1,281,167 images are there"
    assert said("imagenet", tmp_path) == [f"ROOT/train: {what}; copy the rest, or say `absent: drop`"]


def test_imagenet_has_a_hierarchy(tmp_path, monkeypatch):
    root = make.imagenet(tmp_path / "images")
    tree = {"n01440764": "n00015388", "n02012849": "n00015388", "n03126707": "n00021939"}
    pairs = [*((above, wnid) for wnid, above in tree.items()), ("n00001740", "n00015388"), ("n00001740", "n00021939")]
    (tmp_path / "is_a.txt").write_text("".join(f"{above} {below}\n" for above, below in pairs))
    names = {"n00001740": "entity", "n00015388": "animal", "n00021939": "artifact", **make.WNIDS}
    (tmp_path / "words.txt").write_text("".join(f"{node}\t{name}\n" for node, name in names.items()))
    seen = source("imagenet", root, hierarchy=str(tmp_path / "is_a.txt")).catalog
    assert seen.classes == tuple(make.WNIDS)
    assert seen.hierarchy["depth 1"].tolist() == ["animal", "animal", "artifact"]
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    (line,) = said("imagenet", root, hierarchy="wordnet")
    assert line.startswith("hierarchy: wordnet: there is no data.noun in ")
    assert line.endswith("; or say `hierarchy: null`, to do without one")


# --- inaturalist


def test_inaturalist_2021_has_seven_ranks(tmp_path):
    seen = source("inaturalist", make.inaturalist(tmp_path), version="2021").catalog
    assert seen.classes == ("Aotus ericoides", "Aotus trivirgatus", "Grus grus", "Puma concolor")
    assert seen.names == ("Aotus ericoides", "night monkey", "common crane", "cougar")
    ranks = seen.hierarchy
    assert list(ranks.columns) == ["kingdom", "phylum", "taxon_class", "order", "family", "genus", "species"]
    assert list(ranks.index) == list(ranks["species"]) == list(seen.classes)
    assert ranks["genus"].tolist() == ["Aotus (Fabaceae)", "Aotus (Aotidae)", "Grus", "Puma"]
    assert ranks.nunique().tolist() == [2, 2, 3, 4, 4, 4, 4]
    assert seen.notes == ("Not the official images: 16 of 2,686,843 are listed.",)


def test_inaturalist_2017_lists_training_images_alone(tmp_path):
    pool = source("inaturalist", make.inaturalist(tmp_path, "2017"))
    seen = pool.catalog
    assert len(seen) == 12  # of 16 in the folders: the others are of the validation set
    assert list(seen.hierarchy.columns) == ["supercategory", "genus", "species"]
    assert seen.hierarchy.loc["Aotus ericoides"].tolist() == ["Plants", "Aotus (Plants)", "Aotus ericoides"]
    assert seen.names == ()
    assert pool.keys(np.array([0])) == ["train_val_images/Birds/Grus grus/20001.jpg"]
    assert seen.licence.startswith("each image under its photographer's licence")


def test_inaturalist_is_not_there(tmp_path):
    obtain = RELEASES["2021"].obtain
    assert said("inaturalist", tmp_path / "none", version="2021") == [
        f"ROOT: no such folder, or an empty one. {obtain}"
    ]
    root = make.inaturalist(tmp_path, "2021-mini")
    assert said("inaturalist", root, version=2021) == [
        "ROOT: has no train.json (version 2021); did you mean version: 2021-mini?"
    ]
    (root / "train_mini.json").rename(root / "other.json")
    assert said("inaturalist", root, version=2021) == [f"ROOT: has no train.json (version 2021). {obtain}"]


def test_a_renamed_class_of_inaturalist(tmp_path):
    root = make.inaturalist(tmp_path, "2017")
    (root / "train_val_images/Birds/Grus grus").rename(root / "train_val_images/Birds/Grus_grus")
    assert said("inaturalist", root) == [
        "ROOT/train_val_images/Birds/Grus grus: this class folder is not there; did you mean Grus_grus?",
        "ROOT: 3 of the 12 images of train2017.json are not there (train_val_images/Birds/Grus grus/20001.jpg, ...); copy the rest, or say `absent: drop`",
    ]


def test_half_a_copy_of_inaturalist(tmp_path):
    root = make.inaturalist(tmp_path, "2017")
    (root / "train_val_images/Birds/Grus grus/20001.jpg").unlink()
    assert said("inaturalist", root) == [
        "ROOT: 1 of the 12 images of train2017.json are not there (train_val_images/Birds/Grus grus/20001.jpg); copy the rest, or say `absent: drop`"
    ]
    seen = source("inaturalist", root, absent="drop").catalog
    assert len(seen) == 11
    assert seen.notes == ("Not the official images: 11 of 12 are there.",)
    shutil.rmtree(root / "train_val_images")
    assert len(said("inaturalist", root, absent="drop")) == 5


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: text[: len(text) // 2], "is cut short; wanted: the official train.json"),
        (lambda text: b"", "is empty"),
        (lambda text: b"{}", "lists no categories; wanted: the official train.json"),
        (lambda text: text.replace(b'"file_name"', b'"file"'), "lists no images; wanted: the official train.json"),
        (
            lambda text: text.replace(b'"phylum"', b'"filum"'),
            "its categories have no phylum; is it of another version?",
        ),
        (
            lambda text: text.replace(b'"image_dir_name": "00002_', b'"image_dir_name": "00009_'),
            "train/00002_Animalia_Chordata_Aves_Gruiformes_Gruidae_Grus_grus is the folder of none of its categories",
        ),
    ],
)
def test_a_damaged_list_of_inaturalist(damage, what, tmp_path):
    root = make.inaturalist(tmp_path)
    (root / "train.json").write_bytes(damage((root / "train.json").read_bytes()))
    assert said("inaturalist", root, version="2021") == [f"ROOT/train.json: {what}"]


# --- both


@pytest.mark.parametrize(("name", "options"), [("imagenet", {}), ("inaturalist", {"version": "2021"})])
def test_pixels_are_read(name, options, tmp_path):
    pool = source(name, getattr(make, name)(tmp_path / "images"), **options)
    (store,) = ingest([(pool, 16, None)], tmp_path / "store")
    assert len(store.missing()) == 0
    assert store.take(np.arange(len(pool.catalog))).std() > 20
