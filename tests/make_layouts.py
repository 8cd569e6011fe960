"""Makes published data sets in small, in the layouts that they are published in: Tiny-ImageNet, mini-ImageNet,
Imagenette, and CIFAR as python and binary version, for tests."""

from __future__ import annotations

import pickle
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests import make_images as make

# two dogs, two cats, two vehicles; of each kind one more word for the hierarchy below
WNIDS = {
    "n02085620": "Chihuahua", "n02094433": "Yorkshire terrier", "n02123045": "tabby, tabby cat",
    "n02124075": "Egyptian cat", "n02814533": "beach wagon, station wagon", "n03100240": "convertible",
}  # fmt: skip
ABOVE = {
    "n02085620": "n02084071", "n02094433": "n02084071", "n02123045": "n02121808", "n02124075": "n02121808",
    "n02814533": "n02958343", "n03100240": "n02958343",
    "n02084071": "n00015388", "n02121808": "n00015388", "n00015388": "n00001740", "n02958343": "n00001740",
}  # fmt: skip
WORDS = {
    **WNIDS, "n02084071": "dog, domestic dog", "n02121808": "domestic cat", "n02958343": "car, auto",
    "n00015388": "animal", "n00001740": "entity",
}  # fmt: skip


def tiny(root: Path, train: int = 30, val: int = 4) -> Path:
    """Tiny-ImageNet: `train` images of each of six classes, `val` in the flat folder of val, some of test."""
    annotations = []
    for k, wnid in enumerate(WNIDS):
        for i in range(train):
            make.write(root / f"train/{wnid}/images/{wnid}_{i}.JPEG", seed=1000 * k + i)
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        for i in range(val):
            name = f"val_{k * val + i}.JPEG"
            make.write(root / "val/images" / name, seed=100_000 + 1000 * k + i)
            annotations.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    make.write(root / "test/images/test_0.JPEG", seed=7)
    (root / "val/val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in reversed(WNIDS)))
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    return root


def pairs(file: Path) -> Path:
    """A hierarchy of these classes: parent and child in each line, and words.txt beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{parent} {child}\n" for child, parent in ABOVE.items()))
    (file.parent / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    return file


def class_folders(root: Path, parts: dict[str, Sequence[str]], each: int = 3) -> Path:
    """`<part>/<wnid>/*.JPEG`, or `<wnid>/*.JPEG` in the part "."."""
    for p, (part, wnids) in enumerate(parts.items()):
        for k, wnid in enumerate(wnids):
            for i in range(each):
                make.write(root / part / wnid / f"{wnid}_{p}{i}.JPEG", seed=10_000 * p + 100 * k + i)
    return root


def mini_by_csv(root: Path, parts: dict[str, Sequence[str]], each: int = 3) -> Path:
    """`images/*.jpg`, and a CSV for each part."""
    for part, wnids in parts.items():
        lines = ["filename,label"]
        for wnid in wnids:
            for i in range(each):
                name = f"{wnid}{i:08d}.jpg"
                make.write(root / "images" / name, seed=int(wnid[1:]) + i)
                lines.append(f"{name},{wnid}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root


# --- CIFAR


def cifar_arrays(columns: int, seed: int, images: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(labels [n, columns], pixels [n, 3072]), uint8; of two columns the first are the superclasses."""
    from ray_robust.data.sources.cifar import Cifar100

    random = np.random.default_rng(seed)
    if columns == 1:
        labels = np.arange(images)[:, None] % 10
    else:
        names = Cifar100.names
        coarse = sorted(set(names.above.values()))
        fine = np.arange(images) * 7 % 100
        labels = np.stack([[coarse.index(names.above[names.classes[k]]) for k in fine], fine], axis=1)
    return labels.astype(np.uint8), random.integers(0, 256, (images, 3072), dtype=np.uint8)


def binary(labels: np.ndarray, pixels: np.ndarray) -> bytes:
    return np.concatenate([labels, pixels], axis=1).tobytes()


def python(labels: np.ndarray, pixels: np.ndarray, protocol: int = 2) -> bytes:
    """A batch as Python 3 pickles it."""
    keys = [b"labels"] if labels.shape[1] == 1 else [b"coarse_labels", b"fine_labels"]
    held = {key: column.tolist() for key, column in zip(keys, labels.T, strict=True)}
    names = [b"a_s_%06d.png" % i for i in range(len(labels))]
    return pickle.dumps({b"batch_label": b"batch", **held, b"data": pixels, b"filenames": names}, protocol=protocol)


def python2(labels: np.ndarray, pixels: np.ndarray) -> bytes:
    """A batch byte by byte as the published ones are, which Python 2's cPickle wrote."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    keys = [b"labels"] if labels.shape[1] == 1 else [b"coarse_labels", b"fine_labels"]
    held = b"".join(short(key) + b"](" + b"".join(b"K" + bytes([int(v)]) for v in column) + b"e"
                    for key, column in zip(keys, labels.T, strict=True))  # fmt: skip
    data, end = pixels.tobytes(), b"J\xff\xff\xff\xff"
    kind = b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R(K\x03" + short(b"|") + b"NNN" + 2 * end + b"K\x00tb"
    shape = b"M" + struct.pack("<H", len(pixels)) + b"M\x00\x0c\x86q\x01"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R(K\x01"
    array += shape + kind + b"\x89T" + struct.pack("<I", len(data)) + data + b"tb"
    return b"\x80\x02}(" + short(b"batch_label") + short(b"batch 1") + held + short(b"data") + array + b"u."


def cifar(root: Path, name: str, form: str, images: int = 20) -> Path:
    """Every batch of `images` images in a folder named as it is published; `form`: binary, python or python2."""
    from ray_robust import registry

    layout = registry.find("source", name).layout
    of_form = layout.forms[0 if form == "binary" else 1]
    write = {"binary": binary, "python": python, "python2": python2}[form]
    folder = root / of_form.folder
    folder.mkdir(parents=True)
    for part, names in of_form.files.items():
        for i, file in enumerate(names):
            (folder / file).write_bytes(write(*cifar_arrays(len(layout.labels), i + 10 * (part == "test"), images)))
    (folder / ("batches.meta.txt" if form == "binary" else "batches.meta")).write_bytes(b"whatever\n")
    return folder


def packed(folder: Path) -> Path:
    """The folder as the tar.gz that it is published in."""
    name = (
        f"{folder.name.split('-b')[0].removesuffix('-python')}-{'binary' if 'bin' in folder.name else 'python'}.tar.gz"
    )
    with tarfile.open(folder.parent / name, "w:gz") as archive:
        archive.add(folder, folder.name)
    return folder.parent / name
