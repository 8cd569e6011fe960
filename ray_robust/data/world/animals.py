"""An animal in the picture: traits and a pose become tapered limbs, and limbs become masks and a coat.

Defines `Animal` (numbers per image, made by `pose`) and `paint` (per pixel). Lengths are parts of the picture's side,
x to the right and y down; the animal itself is built facing right with y up, in units of a deer's trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_robust.data.world.draws import F32, normal, per_pixel, ramp, rgb, rotation, uniform, wave

FAR = 2  # the first limbs are the legs of the far side, drawn darker and behind


@dataclass(frozen=True, eq=False)
class Animal:
    """Animals, one per image (every array starts with n).

    limbs  [n, limbs, 6]: x, y, dx, dy, radius at the start, change of the radius at the end
    frame  [n, 6]: from picture to body: u = f0 + f1 x + f2 y (along the trunk), v = f3 + f4 x + f5 y (up)
    coat   [n, 4]: cycles along, cycles across, cut, contrast;  phase [n, 2]: where the pattern begins
    marks  [n, 3]: second colour on belly, legs and head;  bounds [n, 3]: belly line, knee line, shoulder line (u, v)
    first, second  [n, 3]: the coat's colours;  eye [n, 2], eye_r [n];  foot [n, 4]: the shadow's x, y, width, height
    """

    limbs: np.ndarray
    frame: np.ndarray
    coat: np.ndarray
    phase: np.ndarray
    marks: np.ndarray
    bounds: np.ndarray
    first: np.ndarray
    second: np.ndarray
    eye: np.ndarray
    eye_r: np.ndarray
    foot: np.ndarray


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The body in its own coordinates, each array [n].

    limbs     (x, y, end x, end y, radius, radius at the end) each, the first `FAR` of the far side
    eye       (x, y);  shoulder  x of the chest's front edge;  floor  y of the feet
    """

    limbs: list[tuple[np.ndarray, ...]]
    eye: tuple[np.ndarray, np.ndarray]
    shoulder: np.ndarray
    floor: np.ndarray


@dataclass(frozen=True, eq=False)
class Projection:
    """From the body to the picture, each array [n]: (x, y) = origin + along * body x + up * body y."""

    origin: tuple[np.ndarray, np.ndarray]
    along: tuple[np.ndarray, np.ndarray]
    up: tuple[np.ndarray, np.ndarray]
    scale: np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where a point of the body is in the picture."""
        (x0, y0), (along_x, along_y), (up_x, up_y) = self.origin, self.along, self.up
        return x0 + x * along_x + y * up_x, y0 + x * along_y + y * up_y

    def limb(
        self, x: np.ndarray, y: np.ndarray, end_x: np.ndarray, end_y: np.ndarray, r: np.ndarray, end_r: np.ndarray
    ) -> np.ndarray:
        """Return a limb as in `Animal.limbs`, [n, 6]."""
        (px, py), (qx, qy) = self(x, y), self(end_x, end_y)
        return np.stack([px, py, qx - px, qy - py, r * self.scale, (end_r - r) * self.scale], axis=1)

    def inverse(self) -> np.ndarray:
        """Return `Animal.frame`, [n, 6]."""
        (x0, y0), (along_x, along_y), (up_x, up_y) = self.origin, self.along, self.up
        det = along_x * up_y - up_x * along_y
        f1, f2, f4, f5 = up_y / det, -up_x / det, -along_y / det, along_x / det
        return np.stack([-f1 * x0 - f2 * y0, f1, f2, -f4 * x0 - f5 * y0, f4, f5], axis=1)


def pose(ids: np.ndarray, traits: dict[str, np.ndarray], scale: np.ndarray, ground: np.ndarray) -> Animal:
    """Put an animal of these traits into each image: `scale` is the picture's share of one trunk, `ground` the y of its
    feet (both [n]). Side, turn, slope, step, height of the head and position vary with the image."""
    t = traits
    skeleton = _skeleton(ids, t)
    scale = scale * t["size"]
    to_picture = _projection(ids, t["leg"], scale, ground)
    foot_x, _ = to_picture(np.zeros_like(scale), skeleton.floor)
    width = (t["trunk"] + t["chest"] + t["hip"]) * 0.55 * scale
    shade = 1 + 0.06 * normal(ids, "coat shade")
    return Animal(
        limbs=np.stack([to_picture.limb(*limb) for limb in skeleton.limbs], axis=1).astype(F32),
        frame=to_picture.inverse().astype(F32),
        coat=np.stack([t["along"], t["across"], t["cut"], t["contrast"]], axis=1),
        phase=np.stack([uniform(ids, "pattern x"), uniform(ids, "pattern y")], axis=1),
        marks=np.stack([t["belly"], t["socks"], t["mask"]], axis=1),
        bounds=np.stack([np.minimum(t["hip"], t["chest"]) * -0.45, t["leg"] * -0.62, skeleton.shoulder], axis=1),
        first=rgb(t["hue"], t["saturation"], t["value"] * shade),
        second=rgb(t["hue2"], t["saturation2"], t["value2"] * shade),
        eye=np.stack(to_picture(*skeleton.eye), axis=1).astype(F32),
        eye_r=(0.03 * scale).astype(F32),
        foot=np.stack([foot_x, ground, width, width * 0.22], axis=1).astype(F32),
    )


def _skeleton(ids: np.ndarray, t: dict[str, np.ndarray]) -> Skeleton:
    zero = np.zeros_like(t["trunk"])
    lowered = ramp(normal(ids, "head lowered") * 0.8 - 0.5)
    tail_lift = normal(ids, "tail") * 0.12
    hip_x, hip_y = -t["trunk"] / 2, -t["pitch"] / 2
    chest_x, chest_y = t["trunk"] / 2, t["pitch"] / 2
    head_x = chest_x + t["neck_x"] + lowered * t["neck_y"] * 0.5
    head_y = chest_y + t["neck_y"] * (1 - 1.7 * lowered) + normal(ids, "nod") * 0.03
    nose_x, nose_y = head_x + t["head"], head_y - t["drop"] * (1 + lowered)
    floor = -t["leg"]
    front_x = chest_x * (1 - t["biped"] * 0.9) + zero
    back_x = hip_x * (1 - t["biped"] * 0.9) + zero
    front_y, back_y = chest_y * (1 - t["biped"]), hip_y * (1 - t["biped"])
    tail_x, tail_y = hip_x - t["hip"] * 0.5, hip_y + t["hip"] * 0.35
    bend_x, bend_y = tail_x - t["tail"] * 0.5, tail_y + t["tail"] * (t["tail_up"] * 0.3 + tail_lift)
    end_x, end_y = bend_x - t["tail"] * 0.4, bend_y + t["tail"] * (t["tail_up"] + tail_lift)
    ear_x, ear_y = head_x - t["head_r"] * 0.45, head_y + t["head_r"] * 0.6
    horn_r = np.minimum(t["horn"], 0.035) * 1.0
    swing = (uniform(ids, "step") - 0.5) * 0.5 * t["leg"]

    def leg(x, y, forward):
        return x, y, x + forward, floor + zero, t["leg_r"] * 1.5, t["leg_r"] * 0.8

    limbs = [
        leg(front_x + 0.06, front_y, -swing),
        leg(back_x + 0.06, back_y, swing),
        leg(front_x - 0.03, front_y, swing),
        leg(back_x - 0.03, back_y, -swing),
        (hip_x, hip_y, chest_x, chest_y, t["hip"], t["chest"]),
        (chest_x, chest_y + t["chest"] * 0.2, head_x, head_y, t["neck_r"] * 1.25, t["neck_r"] * 0.9),
        (head_x, head_y, nose_x, nose_y, t["head_r"], t["snout_r"]),
        (ear_x, ear_y, ear_x - t["ear"] * 0.35, ear_y + t["ear"], t["ear_r"], t["ear_r"] * 0.5),
        (head_x, head_y + t["head_r"] * 0.5, head_x + t["horn"] * 0.25, head_y + t["head_r"] + t["horn"],
         horn_r, horn_r * 0.5),
        (tail_x, tail_y, bend_x, bend_y, t["tail_r"], t["tail_r"]),
        (bend_x, bend_y, end_x, end_y, t["tail_r"], t["tail_tip"]),
    ]  # fmt: skip
    eye = head_x + t["head"] * 0.25, head_y + t["head_r"] * 0.25
    return Skeleton(limbs, eye, chest_x + t["chest"], floor)


def _projection(ids: np.ndarray, leg: np.ndarray, scale: np.ndarray, ground: np.ndarray) -> Projection:
    """Turned away from the camera (squeezed), on a slope (rotated), mirrored, scaled, and set down on the ground."""
    squeeze = 1 - 0.4 * uniform(ids, "turn") ** 2
    side = np.where(uniform(ids, "side") < 0.5, F32(-1), F32(1))
    cos, sin = rotation(normal(ids, "slope") * 0.018)
    return Projection(
        origin=(0.5 + 0.13 * normal(ids, "across"), ground - leg * scale),
        along=(side * squeeze * cos * scale, squeeze * sin * scale),
        up=(side * sin * scale, -cos * scale),  # the picture's y points down
        scale=scale,
    )


def paint(animal: Animal, x: np.ndarray, y: np.ndarray, pixel: float) -> tuple[np.ndarray, ...]:
    """Return (cover, shade, mix, eye, shadow), float32 [n, size, size] each: how much of a pixel is animal, how bright
    it is lit, how much of the second colour it has, the eye, and the shadow on the ground. x [1, 1, size],
    y [1, size, 1]."""
    far, near = _nearest(animal.limbs[:, :FAR], x, y), _nearest(animal.limbs[:, FAR:], x, y)
    f = [per_pixel(animal.frame[:, k]) for k in range(6)]
    u = (f[0] + f[1] * x) + f[2] * y
    v = (f[3] + f[4] * x) + f[5] * y
    mix = _coat(animal, u, v)

    inside = ramp(near * (-1 / pixel) + F32(0.5))
    behind = ramp(far * (-1 / pixel) + F32(0.5))
    shade = ramp(near * F32(-20) + F32(0.1))  # a soft dark rim makes the body round
    shade *= F32(0.22)
    shade += ramp(v * F32(0.6) + F32(0.5)) * F32(0.3) + F32(0.68)
    shade *= inside * F32(0.4) + F32(0.6)  # the far legs show only where no near part does
    cover = np.maximum(inside, behind)

    ex, ey = x - per_pixel(animal.eye[:, 0]), y - per_pixel(animal.eye[:, 1])
    radius = per_pixel(animal.eye_r)
    eye = ramp((radius * radius - ex * ex - ey * ey) / (2 * radius * F32(pixel)) + F32(0.5))
    eye *= np.minimum(radius * F32(2 / pixel), 1)  # smaller than a pixel: fainter
    sx = (x - per_pixel(animal.foot[:, 0])) / per_pixel(animal.foot[:, 2])
    sy = (y - per_pixel(animal.foot[:, 1])) / per_pixel(animal.foot[:, 3])
    shadow = ramp(1 - sx * sx - sy * sy)
    return cover, shade, mix, eye, shadow


def _nearest(limbs: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance of every pixel to the nearest of these limbs [n, limbs, 6]."""
    nearest = _distance(limbs[:, 0], x, y)
    for k in range(1, limbs.shape[1]):
        np.minimum(nearest, _distance(limbs[:, k], x, y), out=nearest)
    return nearest


def _distance(limb: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance to a tapered capsule [n, 6] (a segment with a radius that changes along it)."""
    ax, ay, bx, by, ra, dr = (per_pixel(limb[:, k]) for k in range(6))
    dx, dy = x - ax, y - ay
    inverse = 1 / (bx * bx + by * by + F32(1e-9))
    along = ramp(dx * (bx * inverse) + dy * (by * inverse))
    gap = along * bx
    np.subtract(dx, gap, out=gap)
    gap *= gap
    other = along * by
    np.subtract(dy, other, out=other)
    other *= other
    gap += other
    np.sqrt(gap, out=gap)
    along *= dr
    gap -= along
    gap -= ra
    return gap


def _coat(animal: Animal, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the share of the second colour at (u, v) of the body: a pattern, and marks on belly, legs and head."""
    along, across, cut, contrast = (per_pixel(animal.coat[:, k]) for k in range(4))
    # A pattern that does not vary in one direction starts at the crest of that wave, so that it is 1 there.
    begin = np.where(animal.coat[:, 0] > 0, animal.phase[:, 0], F32(0.25))
    under = np.where(animal.coat[:, 1] > 0, animal.phase[:, 1], F32(0.25))
    mix = wave(u * along + per_pixel(begin))
    mix *= wave(v * across + per_pixel(under))
    mix -= cut
    mix *= 3
    mix += 0.5
    ramp(mix)
    mix *= contrast
    belly, knee, shoulder = (per_pixel(animal.bounds[:, k]) for k in range(3))
    for mark, edge in ((0, (belly - v) * 8), (1, (knee - v) * 8), (2, (u - shoulder) * 8)):
        part = ramp(edge)
        part *= per_pixel(animal.marks[:, mark])
        np.maximum(mix, part, out=mix)
    return mix
