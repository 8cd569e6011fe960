"""Ready-made weights by tag or path: where they are, which model they belong to, and their identity.

Reads names and files only, without torch, so that a plan can be made; `train/methods/weights.py` loads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ray_robust import registry
from ray_robust.errors import UserError, did_you_mean, unexpanded
from ray_robust.plan.plan import WeightsFacts
from ray_robust.registry import OPEN_CLIP
from ray_robust.spec.class_selection import absolute

HUB = ("hf-hub:", "hf_hub:")
FILES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
FIRST_FILES = ("model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")


POINTER = b"version https://git-lfs.github.com/spec"
PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<error")
SEEN = 512  # bytes of a file's beginning that tell what it is


@dataclass(frozen=True)
class Weights:
    """`name` is a model's name with its tag (`hub`) or the path of a file (`file`); `model` the name under which the
    model that they are of is built, "" where a file does not say."""

    kind: Literal["hub", "file"]
    name: str
    model: str = ""


def find_weights(text: str) -> Weights:
    """Return what `pretrain.weights` names: a file or folder that is there, else a tag of timm or open_clip.

    Raises UserError, in one line, when it is none of them.
    """
    path = Path(absolute(text))
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        _check_begin(path)
        return Weights("file", str(path))
    if text.startswith(HUB):
        return Weights("hub", text, text)
    model, _, tag = text.removeprefix(OPEN_CLIP).partition("/")
    if model in registry.open_clip_models() and tag and "/" not in tag:
        name = f"{OPEN_CLIP}{model}/{tag}"
        return Weights("hub", name, name)
    if text.startswith(OPEN_CLIP):
        hint = did_you_mean(model, registry.open_clip_models())
        raise UserError(f"pretrain.weights: {text!r} must read open_clip:MODEL/TAG{hint}")
    base = text.partition(".")[0]
    if base in registry.timm_models():
        tagged = [name for name in registry.timm_weights() if name.startswith(f"{base}.")]
        if "." not in text or not tagged or text in tagged:
            return Weights("hub", text, text)
        raise UserError(f"pretrain.weights: timm has no weights {text!r}{did_you_mean(text, tagged)}")
    if path.suffix in FILES or text.startswith(("/", ".", "~", "$")):
        raise UserError(f"pretrain.weights: there is no file or folder {text}{unexpanded(path)}")
    raise UserError(
        f"pretrain.weights: {text!r} is no tag of timm (resnet50.a1_in1k) or open_clip (ViT-B-32/openai), and no file "
        f"or folder{did_you_mean(text, registry.timm_weights())}"
    )


def weights_facts(text: str) -> WeightsFacts:
    """Return what a plan needs to know of them. A file is known by its bytes, wherever it lies."""
    weights = find_weights(text)
    if weights.kind == "hub":
        return WeightsFacts(weights.name, weights.model)
    try:
        with open(weights.name, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    except OSError as error:
        raise UserError(f"pretrain.weights: {weights.name} cannot be read: {error.strerror or error}") from None
    return WeightsFacts(f"file-{digest.hexdigest()}", weights.model)


def _in_folder(folder: Path) -> Weights:
    """Return the weights in a folder, as timm and open_clip leave them; timm's config.json names the model."""
    files = sorted(file for file in folder.iterdir() if file.suffix in FILES)
    first = [folder / name for name in FIRST_FILES if folder / name in files]
    if not files:
        raise UserError(f"pretrain.weights: folder {folder} holds no weights ({', '.join(FILES)})")
    if len(files) > 1 and not first:
        names = ", ".join(file.name for file in files[:4])
        raise UserError(f"pretrain.weights: folder {folder} holds {len(files)} files of weights ({names}); name one")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        base, tag = str(config.get("architecture", "")), str((config.get("pretrained_cfg") or {}).get("tag") or "")
    except (FileNotFoundError, ValueError, AttributeError):
        base, tag = "", ""
    _check_begin((first or files)[0])
    named = f"{base}.{tag}" if f"{base}.{tag}" in registry.timm_weights() else base
    return Weights("file", str((first or files)[0]), named if base in registry.timm_models() else "")


def _check_begin(file: Path) -> None:
    """Raises UserError for a file that stands in the place of weights which were never fetched."""
    try:
        with open(file, "rb") as opened:
            begin = opened.read(SEEN)
    except OSError as error:
        raise UserError(f"pretrain.weights: {file} cannot be read: {error.strerror or error}") from None
    plain = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not begin:
        what = "is empty: the download or copy broke off"
    elif plain.startswith(POINTER):
        size = re.search(rb"^size (\d+)", plain, re.MULTILINE)
        of = f" of {int(size[1]):,} bytes" if size else ""
        what = f"is a Git LFS pointer to a file{of}, not the file; fetch it with git lfs pull"
    elif b"/annex/objects/" in plain[:200]:
        what = "is a git-annex pointer, not the file; fetch it with git annex get"
    elif plain[:20].lower().startswith(PAGES):
        what = "is a web page, not weights: its download was answered with a page (a login, a notice, an error)"
    elif plain.startswith(b"{") and file.suffix != ".safetensors":
        what = "is a JSON text, not weights: an index of files, or a server's answer"
    else:
        return
    raise UserError(f"pretrain.weights: {file} {what}")
