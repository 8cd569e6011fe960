"""The augmentations that a spec can name: what each does, and which of several joined by `+` are done.

`train.augmentation` has the operations, `docs/keys.md` prints the meanings. No torch.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError

from ray_robust.spec.values import short_repr

AUGMENTATIONS = {  # in the order in which they are done
    "none": "the image as it is",
    "flip": "left to right with probability 1/2",
    "vflip": "upside down with probability 1/2",
    "rotate90": "one of the eight flips and quarter turns, all equally probable: for images seen from above or through "
    "a microscope, which have no upright (the group of Cohen and Welling, ICML 2016)",
    "crop": "`flip`, then a shift of up to an eighth of the side in each direction with reflected borders: usual for "
    "small images (He et al., CVPR 2016)",
    "strong": "random-resized crop (area 0.3 to 1, ratio 3/4 to 4/3), `flip`, brightness, contrast and saturation "
    "±40 %, grey with probability 0.2, a rectangle of up to a quarter of the image erased with probability 0.25: after "
    "SimCLR (Chen et al., ICML 2020) and random erasing (Zhong et al., AAAI 2020)",
    "randaugment": "`crop`, then two operations drawn from fourteen (contrast, shear, ...) at magnitude 9 of 30: "
    "torchvision's RandAugment (Cubuk et al., NeurIPS 2020)",
    "trivialaugment": "`crop`, then one operation drawn from fourteen, at a magnitude drawn as well: torchvision's "
    "TrivialAugmentWide (Müller and Hutter, ICCV 2021)",
}
POLICIES = ("randaugment", "trivialaugment")  # drawn for every image by torchvision
INCLUDED = {  # what is part of another, and is not done a second time beside it
    "rotate90": {"flip", "vflip"},
    "crop": {"flip"},
    "strong": {"flip", "crop"},
    **{policy: {"flip", "crop"} for policy in POLICIES},
}


def parse_augmentation(raw: Any) -> str:
    """Return names joined by `+` in the one form that means the same: in their order, each once, without what is part
    of another (`flip+crop` is `crop`). Raise PydanticCustomError for anything else."""
    names = {name.strip() for name in raw.split("+")} if isinstance(raw, str) else {""}
    if names - set(AUGMENTATIONS) or (len(names) > 1 and "none" in names):
        what = f"must be one of {', '.join(AUGMENTATIONS)}, or some joined as in rotate90+crop, not {short_repr(raw)}"
        raise PydanticCustomError("augmentation", "{what}", {"what": what})
    included = set[str]().union(*(INCLUDED.get(name, ()) for name in names))
    return "+".join(name for name in AUGMENTATIONS if name in names - included)


def steps_of(augmentation: str) -> tuple[str, ...]:
    """Return the operations, in their order, of what `parse_augmentation` returned: a policy follows `crop` unless it
    follows `strong`."""
    names = set(augmentation.split("+")) - {"none"}
    if names & set(POLICIES) and "strong" not in names:
        names.add("crop")
    return tuple(name for name in AUGMENTATIONS if name in names)
