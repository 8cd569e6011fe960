"""An animal in the picture: traits and a pose become tapered limbs, and limbs become masks and a coat.

Hands on `Animal` (numbers per image, made by `pose`) and `paint` (per pixel). Lengths are parts of the picture's side,
x to the right and y down; the animal itself is built facing right with y up, in units of a deer's trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_robust.data.world.draws import F32, normal, ramp, rgb, rotation, uniform, wave

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


def pose(ids: np.ndarray, traits: dict[str, np.ndarray], scale: np.ndarray, ground: np.ndarray) -> Animal:
    """Place an animal of these traits in each image: `scale` is the picture's share of one trunk, `ground` the y of its
    feet (both [n]). Side, turn, slope, step, height of the head and position vary with the image."""
    t = traits
    zero = np.zeros_like(scale)
    lowered = ramp(normal(ids, "head lowered") * 0.8 - 0.5)
    step = (uniform(ids, "step") - 0.5) * 0.5
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
    swing = step * t["leg"]

    def leg(x, y, forward):
        return x, y, x + forward, floor + zero, t["leg_r"] * 1.5, t["leg_r"] * 0.8

    body = [
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

    # To the picture: turned away from the camera (squeezed), on a slope (rotated), mirrored, scaled, set down.
    scale = scale * t["size"]
    squeeze = 1 - 0.4 * uniform(ids, "turn") ** 2
    side = np.where(uniform(ids, "side") < 0.5, F32(-1), F32(1))
    cos, sin = rotation(normal(ids, "slope") * 0.018)
    along_x, along_y = side * squeeze * cos * scale, squeeze * sin * scale  # where body x goes (y down follows below)
    up_x, up_y = side * sin * scale, -cos * scale  # where body y goes
    x0 = 0.5 + 0.13 * normal(ids, "across")
    y0 = ground - t["leg"] * scale

    def place(x, y):
        return x0 + x * along_x + y * up_x, y0 + x * along_y + y * up_y

    limbs = []
    for ax, ay, bx, by, ra, rb in body:
        (px, py), (qx, qy) = place(ax, ay), place(bx, by)
        limbs.append(np.stack([px, py, qx - px, qy - py, ra * scale, (rb - ra) * scale], axis=1))

    det = along_x * up_y - up_x * along_y
    f1, f2, f4, f5 = up_y / det, -up_x / det, -along_y / det, along_x / det
    frame = np.stack([-f1 * x0 - f2 * y0, f1, f2, -f4 * x0 - f5 * y0, f4, f5], axis=1)
    eye_x, eye_y = place(head_x + t["head"] * 0.25, head_y + t["head_r"] * 0.25)
    foot_x, _ = place(zero, floor)
    width = (t["trunk"] + t["chest"] + t["hip"]) * 0.55 * scale
    shade = 1 + 0.06 * normal(ids, "coat shade")
    return Animal(
        limbs=np.stack(limbs, axis=1).astype(F32),
        frame=frame.astype(F32),
        coat=np.stack([t["along"], t["across"], t["cut"], t["contrast"]], axis=1),
        phase=np.stack([uniform(ids, "pattern x"), uniform(ids, "pattern y")], axis=1),
        marks=np.stack([t["belly"], t["socks"], t["mask"]], axis=1),
        bounds=np.stack([np.minimum(t["hip"], t["chest"]) * -0.45, t["leg"] * -0.62, chest_x + t["chest"]], axis=1),
        first=rgb(t["hue"], t["saturation"], t["value"] * shade),
        second=rgb(t["hue2"], t["saturation2"], t["value2"] * shade),
        eye=np.stack([eye_x, eye_y], axis=1).astype(F32),
        eye_r=(0.03 * scale).astype(F32),
        foot=np.stack([foot_x, ground, width, width * 0.22], axis=1).astype(F32),
    )


def paint(animal: Animal, x: np.ndarray, y: np.ndarray, pixel: float) -> tuple[np.ndarray, ...]:
    """(cover, shade, mix, eye, shadow), float32 [n, size, size] each: how much of a pixel is animal, how bright it is
    lit, how much of the second colour it has, the eye, and the shadow on the ground. x [1, 1, size], y [1, size, 1]."""

    def at(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    def limb(row: np.ndarray) -> np.ndarray:
        """Signed distance to a tapered capsule (a segment with a radius that changes along it)."""
        ax, ay, bx, by, ra, dr = (at(row[:, k]) for k in range(6))
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

    count = animal.limbs.shape[1]
    far = limb(animal.limbs[:, 0])
    for k in range(1, FAR):
        np.minimum(far, limb(animal.limbs[:, k]), out=far)
    near = limb(animal.limbs[:, FAR])
    for k in range(FAR + 1, count):
        np.minimum(near, limb(animal.limbs[:, k]), out=near)

    f = [at(animal.frame[:, k]) for k in range(6)]
    u = (f[0] + f[1] * x) + f[2] * y
    v = (f[3] + f[4] * x) + f[5] * y

    along, across, cut, contrast = (at(animal.coat[:, k]) for k in range(4))
    # A pattern that does not vary in one direction starts at the crest of that wave, so that it is 1 there.
    begin = np.where(animal.coat[:, 0] > 0, animal.phase[:, 0], F32(0.25))
    under = np.where(animal.coat[:, 1] > 0, animal.phase[:, 1], F32(0.25))
    mix = wave(u * along + at(begin))
    mix *= wave(v * across + at(under))
    mix -= cut
    mix *= 3
    mix += 0.5
    ramp(mix)
    mix *= contrast
    belly, knee, shoulder = (at(animal.bounds[:, k]) for k in range(3))
    for mark, edge in ((0, (belly - v) * 8), (1, (knee - v) * 8), (2, (u - shoulder) * 8)):
        part = ramp(edge)
        part *= at(animal.marks[:, mark])
        np.maximum(mix, part, out=mix)

    inside = ramp(near * (-1 / pixel) + F32(0.5))
    behind = ramp(far * (-1 / pixel) + F32(0.5))
    shade = ramp(near * F32(-20) + F32(0.1))  # a soft dark rim makes the body round
    shade *= F32(0.22)
    shade += ramp(v * F32(0.6) + F32(0.5)) * F32(0.3) + F32(0.68)
    shade *= inside * F32(0.4) + F32(0.6)  # the far legs show only where no near part does
    cover = np.maximum(inside, behind)

    ex, ey = x - at(animal.eye[:, 0]), y - at(animal.eye[:, 1])
    radius = at(animal.eye_r)
    eye = ramp((radius * radius - ex * ex - ey * ey) / (2 * radius * F32(pixel)) + F32(0.5))
    eye *= np.minimum(radius * F32(2 / pixel), 1)  # smaller than a pixel: fainter
    sx = (x - at(animal.foot[:, 0])) / at(animal.foot[:, 2])
    sy = (y - at(animal.foot[:, 1])) / at(animal.foot[:, 3])
    shadow = ramp(1 - sx * sx - sy * sy)
    return cover, shade, mix, eye, shadow
