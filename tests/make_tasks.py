"""Makes small trees in the layouts of further tasks, for tests: RxRx1, Waterbirds and CelebA as WILDS has them,
DomainNet and PACS; and archives of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pandas as pd

from tests.make_images import encoded, picture, write


def rxrx1(root: Path) -> Path:
    """rxrx1_v1.0: two siRNAs in two experiments of train and one each of val and test, two sites per well."""
    folder = root / "rxrx1_v1.0"
    rows = [
        {"dataset": part, "experiment": experiment, "cell_type": experiment.split("-")[0], "plate": plate, "well": well}
        | {"site": site, "sirna_id": number}
        for part, experiment in (("train", "HEPG2-01"), ("train", "U2OS-01"), ("val", "HEPG2-02"), ("test", "U2OS-02"))
        for plate in (1, 2)
        for number, well in enumerate(("B03", "C04"))
        for site in (1, 2)
    ]
    for i, row in enumerate(rows):
        name = f"{row['experiment']}/Plate{row['plate']}/{row['well']}_s{row['site']}.png"
        write(folder / "images" / name, encoded(picture(seed=i), "PNG"))
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    (folder / "RELEASE_v1.0.txt").write_text("")
    return root


PAIRS = {(0, 0): 6, (0, 1): 1, (1, 0): 1, (1, 1): 4}  # training images by label and attribute: they go together


def _pairs() -> list[tuple[int, int, int]]:
    """(label, attribute, split) of every image: in val and test all pairs are alike."""
    train = [(y, a, 0) for (y, a), count in PAIRS.items() for _ in range(count)]
    return train + [(y, a, split) for split in (1, 2) for y, a in PAIRS for _ in range(2)]


def waterbirds(root: Path) -> Path:
    folder = root / "waterbirds_v1.0"
    rows = [
        {"img_filename": f"{y}.kind/{i}.jpg", "y": y, "place": a, "split": s} for i, (y, a, s) in enumerate(_pairs())
    ]
    for i, row in enumerate(rows):
        write(folder / row["img_filename"], seed=i)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    (folder / "RELEASE_v1.0.txt").write_text("")
    return root


def celeba(root: Path) -> Path:
    folder = root / "celebA_v1.0"
    names = [f"{i:06d}.jpg" for i in range(len(_pairs()))]
    faces = [
        {"image_id": n, "Blond_Hair": 2 * y - 1, "Male": 2 * a - 1}
        for n, (y, a, _) in zip(names, _pairs(), strict=True)
    ]
    for i, name in enumerate(names):
        write(folder / "img_align_celeba" / name, seed=i)
    pd.DataFrame(faces).to_csv(folder / "list_attr_celeba.csv", index=False)
    parts = {"image_id": names, "partition": [split for _, _, split in _pairs()]}
    pd.DataFrame(parts).to_csv(folder / "list_eval_partition.csv", index=False)
    (folder / "RELEASE_v1.0.txt").write_text("")
    return root


def domains(root: Path, names: tuple[str, ...], classes: tuple[str, ...] = ("dog", "cup"), count: int = 40) -> Path:
    """`count` images in each `<domain>/<class>/`."""
    for domain in names:
        for c, label in enumerate(classes):
            for i in range(count):
                write(root / domain / label / f"{domain}_{i:03d}.jpg", seed=c)
    return root


def lists(root: Path, names: tuple[str, ...], classes: tuple[str, ...] = ("dog", "cup"), every: int = 3) -> None:
    """DomainNet's lists of what `domains` made: of every `every` images the first is a test image."""
    for domain in names:
        for part in ("train", "test"):
            lines = [
                f"{domain}/{label}/{path.name} {c}"
                for c, label in enumerate(classes)
                for i, path in enumerate(sorted((root / domain / label).iterdir()))
                if (i % every == 0) == (part == "test")
            ]
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")


def archive(folder: Path, file: Path, top: str = "", kind: str = "gz") -> Path:
    """A tar of what is in `folder`, below the folder `top` inside; the file that marks it complete is in it too."""
    with tarfile.open(file, f"w:{kind}") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, f"{top}{path.relative_to(folder)}")
    return file
