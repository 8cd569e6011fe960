"""Task `camera-traps`: animals of the built-in world before fixed cameras; the OOD cameras are at other sites.

Owns which camera sees which species how often, and how far the OOD cameras are from the ID ones (`shift`). Each camera
sees a few species, so that the background predicts the animal in distribution and misleads where the camera is new.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from pydantic import Field

from ray_robust.data import pool
from ray_robust.data.tasks.shift_options import CorruptedOptions
from ray_robust.data.world.draws import F32, normal, uniform
from ray_robust.data.world.scene import RENDERER, render
from ray_robust.data.world.sites import describe
from ray_robust.data.world.taxonomy import SOURCE_SPECIES, TASK_SPECIES, make_taxonomy
from ray_robust.errors import Problem, UserError

HAND = (0.55, 0.25, 0.12, 0.08)  # shares of the species that a camera mainly sees
STRAY = 0.03  # share of all other sightings
SIDES = {"train": "id", "id_val": "id", "id_test": "id", "ood_val": "val", "ood_test": "test"}  # split -> its cameras


class CameraTraps(pool.Task):
    """`species` classes that no source has, seen by `cameras`; group = camera; metric macro-F1.

    `shift` 0: no shift; OOD cameras have the sites and species mixes of the ID ones (other images); 1: new sites with
    species mixes of their own; above 1: sites in the tails of the distribution of ID sites, and more uneven mixes;
    between 0 and 1: in between.
    """

    class Options(CorruptedOptions):
        shift: float = Field(
            default=1.0,
            ge=0,
            le=10,
            description="how far the OOD cameras are from those of training; 0: from the same distribution",
            examples=["shift: {grid: [0, 1]}"],
        )
        species: int = Field(default=16, ge=2, le=TASK_SPECIES, description="classes", examples=["species: 12"])
        cameras: int = Field(
            default=24, ge=2, le=1000, description="cameras of train, id_val and id_test", examples=["cameras: 12"]
        )
        ood_val_cameras: int = Field(
            default=12, ge=2, le=1000, description="cameras of ood_val", examples=["ood_val_cameras: 6"]
        )
        ood_test_cameras: int = Field(
            default=24, ge=2, le=1000, description="cameras of ood_test", examples=["ood_test_cameras: 48"]
        )
        train_images: int = Field(
            default=4000, ge=2, le=10_000_000, description="images of train", examples=["train_images: 2k"]
        )
        id_val_images: int = Field(
            default=1000, ge=2, le=10_000_000, description="images of id_val", examples=["id_val_images: 500"]
        )
        id_test_images: int = Field(
            default=1500, ge=2, le=10_000_000, description="images of id_test", examples=["id_test_images: 3k"]
        )
        ood_val_images: int = Field(
            default=1000, ge=2, le=10_000_000, description="images of ood_val", examples=["ood_val_images: 500"]
        )
        ood_test_images: int = Field(
            default=1500, ge=2, le=10_000_000, description="images of ood_test", examples=["ood_test_images: 3k"]
        )
        seed: int = Field(
            default=0, ge=0, description="of the world: its species, cameras and images", examples=["seed: 1"]
        )

    options: Options

    rendered = True
    own_metric = "macro_f1"

    def list_images(self) -> pool.Catalog:
        o = self.options
        sides = {"id": o.cameras, "val": o.ood_val_cameras, "test": o.ood_test_cameras}
        first = dict(zip(sides, np.cumsum([0, *sides.values()]), strict=False))
        taxonomy = make_taxonomy(SOURCE_SPECIES, o.species, o.seed)
        columns, problems = [], []
        meant = o.model_dump(exclude={"metric", "corruptions"})  # what decides the images
        for split, side in SIDES.items():
            mix = self._mixes[first[side] : first[side] + sides[side]]
            images = getattr(o, f"{split}_images")
            species, camera, index = _deal(mix, images, pool.seed_of("deal", split, o.seed))
            seen = np.bincount(species, minlength=o.species)
            if not seen.all():
                problems.append(
                    Problem("", f"camera-traps: {split}_images: {images} images leave {int((seen == 0).sum())} of "
                            f"{o.species} species without one; ask for more images or fewer species")
                )  # fmt: skip
            which = np.full(len(species), pool.SPLITS.index(split))
            columns.append(np.stack([which, camera + first[side], species, index]))
        if problems:
            raise UserError(*problems)
        split, camera, species, index = np.concatenate(columns, axis=1).astype(np.uint64)
        number = (split << np.uint64(60)) | (camera << np.uint64(44)) | (species << np.uint64(30)) | index
        self._index = index.astype(np.int64)
        return pool.Catalog(
            labels=species.astype(np.int32),
            classes=taxonomy.classes,
            ids=pool.mix_bits(number, pool.seed_of("camera-traps", RENDERER, o.seed)),
            hierarchy=taxonomy.hierarchy,
            split=split.astype(np.int8),
            group=camera.astype(np.int32),
            groups=tuple(f"{side}-{k:02d}" for side, count in sides.items() for k in range(1, count + 1)),
            fingerprint=f"{pool.seed_of('camera-traps', RENDERER, *sorted(meant.items())):016x}",
            licence="rendered by this project (Apache-2.0)",
            notes=(
                "A rendered world, not photographs: animals before fixed cameras.",
                f"Shift {o.shift:g}: the OOD cameras "
                + ("are at the sites of the ID ones." if o.shift == 0 else "are elsewhere, with other species mixes."),
            ),
        )  # fmt: skip

    @cached_property
    def _cameras(self) -> tuple[np.ndarray, np.ndarray]:
        """(id of every camera, id of the ID camera whose site it has at shift 0), uint64 [all cameras]."""
        o = self.options
        home = np.concatenate(
            [np.arange(count) % o.cameras for count in (o.cameras, o.ood_val_cameras, o.ood_test_cameras)]
        )
        own = np.concatenate(
            [home[: o.cameras], 100_000 + np.arange(o.ood_val_cameras), 200_000 + np.arange(o.ood_test_cameras)]
        )
        key = pool.seed_of("cameras", o.seed)
        return pool.mix_bits(own, key), pool.mix_bits(home, key)

    @cached_property
    def _mixes(self) -> np.ndarray:
        """How often each camera sees each species: float64 [all cameras, species]."""
        o = self.options
        home = _draw_mixes(o.cameras, o.species, 1.0, pool.seed_of("mix", "id", o.seed))
        share, mixes = min(1.0, o.shift), [home]
        for side, count in (("val", o.ood_val_cameras), ("test", o.ood_test_cameras)):
            own = _draw_mixes(count, o.species, max(1.0, o.shift), pool.seed_of("mix", side, o.seed))
            mixes.append((1 - share) * home[np.arange(count) % o.cameras] + share * own)
        return np.concatenate(mixes)

    def keys(self, rows: np.ndarray) -> list[str]:
        c = self.catalog
        assert c.group is not None
        assert c.split is not None
        return [
            f"{c.groups[c.group[i]]}/{pool.SPLITS[c.split[i]]}/{c.classes[c.labels[i]]}/{self._index[i]:04d}"
            for i in np.asarray(rows)
        ]

    def read(self, rows: np.ndarray, size: int) -> pool.Pixels:
        c, o = self.catalog, self.options
        assert c.group is not None
        camera = c.group[rows]
        own, home = (ids[camera] for ids in self._cameras)
        share = F32(min(1.0, o.shift))
        # ID cameras are their own home; for the others the mixture of two normals is brought back to unit variance.
        size_of_mix = F32(np.sqrt((1 - share) ** 2 + share**2))
        beyond = np.where(camera < o.cameras, F32(1), F32(max(1.0, o.shift)))

        def latent(name: str) -> np.ndarray:
            there, here = normal(own, "place", name), normal(home, "place", name)  # the word is part of a seed
            mixed = ((1 - share) * here + share * there) / size_of_mix
            return np.where(camera < o.cameras, here, mixed) * beyond

        taxonomy = make_taxonomy(SOURCE_SPECIES, o.species, o.seed)
        return pool.Pixels(render(c.ids[rows], taxonomy.of(c.labels[rows]), describe(latent), size), {})


def _draw_mixes(cameras: int, species: int, unevenness: float, seed: int) -> np.ndarray:
    """Return weights [cameras, species]: species are dealt to the cameras from shuffled decks, a hand each, with
    long-tailed shares; every species also strays everywhere now and then. Cameras differ in how much they see at all.
    """
    decks = -(-cameras * len(HAND) // species)
    cards = np.arange(species, dtype=np.uint64)
    order = [np.argsort(pool.mix_bits(cards, pool.seed_of("deck", seed, deck))) for deck in range(decks)]
    hands = np.concatenate(order)[: cameras * len(HAND)].reshape(cameras, len(HAND))
    shares = np.asarray(HAND) ** unevenness
    mixes = np.full((cameras, species), STRAY / species)
    np.add.at(mixes, (np.arange(cameras)[:, None], hands), (1 - STRAY) * shares / shares.sum())
    activity = 0.5 + uniform(np.arange(cameras, dtype=np.uint64), "activity", seed)
    return mixes * activity[:, None]


def _deal(mix: np.ndarray, images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (species, camera, index within both) of exactly `images` images, shared out in proportion to `mix`.

    A cell (species and camera) gets floor(share * t + u), u its own random number and t such that the total is right:
    every count is within one of its share, a rare cell is not always empty, and more images only ever add some.
    """
    cells = (mix / mix.sum()).T.ravel()  # species-major
    offsets = pool.in_unit_interval(pool.mix_bits(np.arange(len(cells), dtype=np.uint64), seed))
    low, high = 0.0, float(images + len(cells))
    while True:  # the total is a staircase in t whose steps lie apart, so halving finds the right one
        middle = (low + high) / 2
        counts = np.floor(cells * middle + offsets).astype(np.int64)
        if counts.sum() == images:
            break
        low, high = (middle, high) if counts.sum() < images else (low, middle)
    cell = np.repeat(np.arange(len(cells)), counts)
    index = np.arange(images) - np.repeat(np.cumsum(counts) - counts, counts)
    return cell // len(mix), cell % len(mix), index
