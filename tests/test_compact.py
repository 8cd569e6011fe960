"""The compact store: what it holds of a file, that damage and crashes are noticed, which crops are cut from it."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from make_folders import pool_at
from PIL import Image
from test_plan import Pools
from test_store import die_at_write

from ray_robust import ingest
from ray_robust.data.images import store as store_module
from ray_robust.data.images.form import Form, Jpeg, View, form_of
from ray_robust.data.images.jpegs import cut, encode, whole_views
from ray_robust.data.images.store import ImageStore
from ray_robust.data.images.stored_jpegs import StoredJpegs
from ray_robust.data.opened import images_of
from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError
from ray_robust.launch.ingest.ingest import read_files
from ray_robust.plan.plan import make_plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import ModelSection, load_spec
from ray_robust.train import callbacks
from ray_robust.train.context import Context
from ray_robust.train.crops import RandomCrops
from ray_robust.train.exceptions import Preempted
from ray_robust.train.images import ImageBank
from ray_robust.train.models import eval_view
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests import make_images as make

CPU = torch.device("cpu")
FORM = Form(32, 48, 95)


def picture(seed: int, wide: int, high: int) -> Image.Image:
    """A smooth picture, as photographs are: what JPEG keeps to within a few steps."""
    rng = np.random.default_rng(seed)
    few = Image.fromarray(rng.integers(70, 190, (6, 8, 3), dtype=np.uint8))
    return few.resize((wide, high), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def tree(root: Path, count: int = 24) -> Path:
    for i in range(count):
        data = saved(picture(i, 64 + 7 * (i % 5), 50 + 9 * (i % 4)), ("JPEG", "PNG")[i % 3 == 2])
        make.write(root / ("cat", "dog")[i % 2] / f"{i:03d}.{('jpg', 'png')[i % 3 == 2]}", data)
    return root


def opened(tmp_path: Path, form: Form = FORM, **options) -> ImageStore:
    store = ImageStore.open(tmp_path / "store", pool_at(tree(tmp_path / "images"), **options), form)
    store.fill(store.missing())
    return store


def pixels_of(jpeg: Jpeg) -> np.ndarray:
    return simplejpeg.decode_jpeg(jpeg.data, "RGB")


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


# --- what is stored


def test_a_file_is_scaled_to_its_short_side_upright_and_in_rgb():
    picture_of = picture(1, 300, 200)
    stored = encode(saved(picture_of), Form(32, 48), "crop")
    assert (stored.height, stored.width) == (48, 72) == pixels_of(stored).shape[:2]
    small = np.asarray(picture_of.resize((72, 48), Image.Resampling.BILINEAR))
    assert far(pixels_of(stored), small) < 2
    turned = encode(saved(picture_of, exif=Image.Exif()), FORM, "crop")
    assert (turned.height, turned.width) == (48, 72)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = encode(saved(picture_of, exif=exif), FORM, "crop")
    assert (turned.height, turned.width) == (72, 48)
    assert far(pixels_of(turned), np.asarray(Image.fromarray(small).transpose(Image.Transpose.ROTATE_270))) < 2
    for fit in ("squash", "pad"):
        square = encode(saved(picture_of), FORM, fit)
        assert (square.height, square.width) == (48, 48)
    grey = encode(saved(picture_of.convert("L")), FORM, "crop")
    assert pixels_of(grey).shape == (48, 72, 3)


def test_a_jpeg_that_is_not_larger_is_stored_as_it_is_and_no_other_file_is():
    small = picture(2, 60, 40)
    data = saved(small, quality=80)
    assert encode(data, FORM, "crop").data is data
    larger = encode(saved(picture(2, 120, 96), quality=80), FORM, "crop")  # its decoder can leave out half at once
    assert (larger.height, larger.width) == (48, 60)
    exif = Image.Exif()
    exif[0x0112] = 3
    for other in (saved(small, progressive=True), saved(small, exif=exif), saved(small, "PNG")):
        stored = encode(other, FORM, "crop")
        assert stored.data is not other
        assert (stored.height, stored.width) == (40, 60)


def test_what_is_broken_has_its_reason(tmp_path):
    root = tree(tmp_path / "images", 4)
    make.write(root / "cat" / "bad.jpg", b"<html>")
    store = ImageStore.open(tmp_path / "store", pool_at(root, broken="drop"), FORM)
    store.fill(store.missing())
    assert list(store.broken.values()) == [
        "is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image; it begins as a web page or XML does"
    ]
    assert (store.state == 1).sum() == 4


def test_forms_have_folders_of_their_own_and_raw_the_one_that_it_always_had(tmp_path):
    names = [opened(tmp_path, form).folder.name for form in (Form(32), FORM, Form(24, 48), Form(32, 48, 90))]
    assert names == ["images-crop-32-v3", *["images-crop-jpeg-q95-48-v3"] * 2, "images-crop-jpeg-q90-48-v3"]


def test_squares_are_those_of_the_files(tmp_path):
    store = opened(tmp_path)
    raw = store.pool.read(np.arange(store.n), 32).images
    assert far(store.take(np.arange(store.n)), raw) < 3
    squashed = opened(tmp_path, fit="squash")
    assert far(squashed.take(np.arange(store.n)), squashed.pool.read(np.arange(store.n), 32).images) < 3


# --- damage and crashes


def damage(store: ImageStore, row: int) -> None:
    _, places, _ = store.located(np.array([row]))
    with open(store.folder / "jpegs.bin", "r+b") as file:
        file.seek(int(places["start"][0]) + int(places["bytes"][0]) // 2)
        file.write(b"\0\1\2\3")


@pytest.mark.parametrize("name", ["jpegs.bin", "places.records"])
def test_what_is_damaged_on_disk_is_made_again(tmp_path, name):
    store = opened(tmp_path)
    right, rows = store.take(np.arange(store.n)), np.arange(store.n)
    if name == "jpegs.bin":
        damage(store, 5)
    else:
        with open(store.folder / name, "r+b") as file:
            file.seek(16 * int(store.slots(np.array([5]))[0]) + 12)
            file.write(b"\x05\0")
    again = ImageStore.open(store.root, store.pool, FORM)
    assert again.verify().tolist() == [5]
    again = ImageStore.open(store.root, store.pool, FORM)
    again.fill(rows)
    assert (again.take(rows) == right).all()


def test_a_bank_notices_damage_and_mends_it_from_the_file(tmp_path):
    store = opened(tmp_path)
    right = store.take(np.arange(store.n))
    images = images_of(store, np.arange(store.n))
    damage(store, 7)
    bank = ImageBank([images], CPU)
    assert (bank.take(torch.arange(store.n)).numpy() == right).all()
    for path in sorted(Path(store.pool.options.path).rglob("*.*")):
        path.unlink()
    damage(store, 8)
    images = StoredJpegs(ImageStore.open(store.root, store.pool, FORM), np.arange(store.n), View())
    with pytest.raises(UserError, match="cannot be read any more"):
        ImageBank([images], CPU).take(torch.arange(store.n))


def fill(root: Path, images: Path, kill_after: int) -> None:
    store = ImageStore.open(root, pool_at(images), FORM)
    die_at_write(store, kill_after)
    store.fill(store.missing())


@pytest.mark.parametrize("kill_after", [2, 3, 4, 6, 7])
def test_killed_at_any_write_it_can_be_filled_on(tmp_path, monkeypatch, kill_after):
    monkeypatch.setattr(store_module, "BATCH_IMAGES", 8)
    images = tree(tmp_path / "images")
    process = multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path / "store", images, kill_after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = ImageStore.open(tmp_path / "store", pool_at(images), FORM)
    assert len(store.missing()) == 24 - 8 * ((kill_after - 1) // 4)
    assert store.verify().tolist() == []
    for name in ("log.records", "places.records"):
        with open(store.folder / name, "ab") as file:
            file.write(b"half"[: kill_after - 1])
    store.fill(np.arange(24))
    fresh = opened(tmp_path / "fresh")
    assert (store.take(np.arange(24)) == fresh.take(np.arange(24))).all()


# --- what is cut


def test_crops_lie_in_the_image_have_the_area_of_strong_and_depend_on_the_seed_alone():
    shapes = np.tile([[256, 341], [400, 256], [256, 256]], (2000, 1))
    boxes = RandomCrops(7, 2).boxes(shapes)
    assert boxes.shape == (2, 6000, 4)
    assert (boxes == RandomCrops(7, 2).boxes(shapes)).all()
    assert (boxes != RandomCrops(8, 2).boxes(shapes)).any(-1).mean() > 0.99
    assert (boxes[0] != boxes[1]).any(-1).mean() > 0.99
    wide, high = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    assert (boxes[..., :2] >= 0).all()
    assert (boxes[..., 2] <= shapes[:, 1]).all()
    assert (boxes[..., 3] <= shapes[:, 0]).all()
    part = wide * high / shapes.prod(1)
    assert part.min() > 0.29
    assert part.max() > 0.97
    assert 0.52 < part.mean() < 0.66
    assert (wide / high).min() > 0.74
    assert (wide / high).max() < 1.35


def test_an_image_too_long_for_any_crop_shows_its_centre():
    (box,) = RandomCrops(1).boxes(np.array([[10, 200]]))[0]
    assert box.tolist() == [93, 0, 106, 10]  # 4 to 3
    (box,) = RandomCrops(1).boxes(np.array([[200, 10]]))[0]
    assert box.tolist() == [0, 93, 10, 106]  # 3 to 4
    assert RandomCrops(1).boxes(np.array([[1, 1]]))[0].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(("size", "close"), [(32, 0.6), (20, 4), (8, 7)])  # whole, and at half and a quarter by DCT
def test_a_crop_is_what_pillow_cuts_from_the_decoded_image(size, close):
    jpeg = encode(saved(picture(3, 96, 72)), Form(size, 72), "crop")
    boxes, squares = np.array([[10, 4, 74, 68], [0, 0, 50, 60]]), np.empty((2, size, size, 3), np.uint8)
    cut(jpeg, boxes, squares, "bilinear")
    whole = Image.fromarray(pixels_of(jpeg))
    for box, square in zip(boxes.tolist(), squares, strict=True):
        wanted = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box))
        assert far(square, wanted) <= close


def test_evaluation_shows_what_timm_would(tmp_path):
    view = eval_view(ModelSection(name="tf_efficientnet_lite0", image_size=224))
    assert view == View(0.875, "bicubic")
    assert eval_view(ModelSection(name="resnet50.a1_in1k", image_size=224)).part == 224 / 235
    assert eval_view(ModelSection(name="open_clip:ViT-B-32", image_size=224)) == View(1.0, "bicubic")
    assert whole_views(np.array([[256, 341], [300, 256]]), view, "crop").tolist() == [
        [[58, 16, 282, 240], [16, 38, 240, 262]]
    ]
    assert whole_views(np.array([[256, 256]]), view, "pad").tolist() == [[[0, 0, 256, 256]]]
    from timm.data import create_transform

    jpeg = encode(saved(picture(4, 300, 256)), Form(224, 256), "crop")
    shown = np.empty((1, 224, 224, 3), np.uint8)
    cut(jpeg, whole_views(np.array([[256, 300]]), view, "crop")[:, 0], shown, view.interpolation)
    transform = create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1))
    wanted = transform(Image.fromarray(pixels_of(jpeg))).permute(1, 2, 0).numpy() * 255
    assert (shown[0] == np.rint(wanted)).all()


def test_evaluation_squeezes_where_timm_would():
    from timm.data import create_transform

    assert eval_view(ModelSection(name="coat_lite_medium_384.in1k", image_size=384)) == View(1.0, "bicubic", True)
    view, shown = View(0.875, "bicubic", squash=True), np.empty((1, 224, 224, 3), np.uint8)
    jpeg = encode(saved(picture(4, 320, 256)), Form(224, 256), "crop")
    cut(jpeg, whole_views(np.array([[256, 320]]), view, "crop")[:, 0], shown, view.interpolation)
    squeezed = create_transform(224, False, view.interpolation, crop_pct=0.875, crop_mode="squash", normalize=False)
    wanted = np.asarray(squeezed(Image.fromarray(pixels_of(jpeg)))).transpose(1, 2, 0)
    assert far(shown[0], wanted) <= 1  # timm scales first, then cuts


def test_a_bank_gives_the_same_with_any_threads_from_memory_and_of_several_stores(tmp_path, monkeypatch):
    store, other = opened(tmp_path), opened(tmp_path / "other", fit="squash")
    view, order = View(0.875, "bicubic"), torch.randperm(30, generator=torch.Generator().manual_seed(1))
    bank = ImageBank([images_of(store, np.arange(20), view), images_of(other, np.arange(3, 13), view)], CPU)
    assert len(bank) == 30
    assert bank.whole
    crops = RandomCrops(5, 2)
    shown, cropped = bank.take(order), bank.take(order, crops)
    assert cropped.shape == (60, 32, 32, 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(bank.take(order), shown)
    assert torch.equal(bank.take(order, crops), cropped)
    for i in (0, 11, 29):  # each by itself
        alone = bank.take(order[i : i + 1])
        assert torch.equal(alone[0], shown[i])
    bank.decode()
    assert torch.equal(bank.take(order), shown)
    assert torch.equal(bank.take(order, crops), cropped)
    raw = store.pool.read(np.arange(20), 32).images
    assert far(bank.take(torch.arange(20)).numpy(), raw) > 3  # the centre, and not all of it


def test_what_a_spec_says_is_the_form():
    assert form_of(ModelSection()) == form_of(ModelSection(store="raw")) == Form(32)
    assert form_of(ModelSection(image_size=224, store="compact")) == Form(224, 256, 95)
    assert form_of(ModelSection(image_size=224, store={"size": 288, "quality": 90})) == Form(224, 288, 90)


IDS = """\
task: {name: camera-traps}
model: {image_size: 224%s}
pretrain: {sources: {species: 1.0}, epochs: 2}
finetune: {epochs: 5}
"""


def test_a_trial_is_named_by_the_form_unless_it_is_the_one_that_always_was(tmp_path):
    def keys(store: str) -> list[str]:
        file = tmp_path / "x.yaml"
        file.write_text(IDS % (store and f", store: {store}"))
        return [trial.key for trial in make_plan(load_spec(file), Pools(), Pools())]

    assert keys("") == keys("raw") == keys("auto") == keys("{codec: raw}")
    assert keys("compact") == keys("{size: 256}") == keys("{size: 256, quality: 95}") != keys("raw")
    assert len({tuple(keys(store)) for store in ("compact", "{size: 288}", "{quality: 90}")}) == 3


@pytest.mark.parametrize(
    ("store", "what"),
    [
        ("jpg", "model.store: must be auto, raw, compact, or a mapping such as {size: 288, quality: 95}, not 'jpg'"),
        ("{size: 288, codec: raw}", "codec: raw has neither size nor quality; it is stored at image_size"),
        ("{quality: 101}", "model.store.quality: must be at most 100, not 101"),
        ("{side: 288}", "model.store.side: unknown key; did you mean size?"),
        (
            "{size: 200}",
            "store.size: 200 px are fewer than the 224 of image_size that models see; store at least as many",
        ),
    ],
)
def test_what_is_wrong_with_a_form(tmp_path, store, what):
    file = tmp_path / "x.yaml"
    file.write_text(IDS % f", store: {store}")
    with pytest.raises(UserError) as error:
        load_spec(file)
    assert what in str(error.value)


TRIAL = """
task: {name: folder, path: %s, metric: accuracy}
model: {image_size: 32, store: {size: 40}, precision: float32}
pretrain: {sources: {pictures: {kind: folder, path: %s}}, epochs: 2, augment: strong, batch_size: 8}
finetune: {epochs: 2, augment: [AUG], batch_size: 8}
"""


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["strong", "crop"])
def test_a_trial_from_a_compact_store_goes_on_bit_for_bit(tmp_path, monkeypatch, augmentation):
    torch.set_num_threads(1)
    for split in SPLITS:
        tree(tmp_path / "task" / split, 12)
    tree(tmp_path / "images", 24)
    file = tmp_path / "x.yaml"
    file.write_text((TRIAL % (tmp_path / "task", tmp_path / "images")).replace("[AUG]", augmentation))
    monkeypatch.setattr(callbacks, "MIN_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "MAX_SAVE_SHARE", 1e9)
    sweep = open_sweep(load_spec(file))
    read_files([(pool, form, None) for _, pool in sweep.pools() for form in (Form(32, 40),)], None, ExitStack())
    trial = next(trial for trial in open_sweep(load_spec(file)).plan if trial.draws)

    def scores(name: str, context: Context) -> list[dict]:
        paths = RunPaths(str(tmp_path / name), str(tmp_path / f"{name} weights"), os.environ["RAY_ROBUST_STORE"])
        try:
            run_trial(trial, paths, context)
        except Preempted:
            run_trial(trial, paths, Context())
        rows = RunFolder(paths.run).trial(trial.id).rows()
        return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]

    steps = iter(range(100))
    cut_off = Context(preemption=lambda: "it leaves" if next(steps) == 3 else "")
    assert scores("again", cut_off) == scores("whole", Context())


def test_a_compact_store_is_filled_ahead_of_a_sweep(tmp_path, capsys):
    root = str(tree(tmp_path / "images"))
    command = ["folder", "--root", root, "--out", str(tmp_path / "store"), "--size", "32"]
    assert ingest.main([*command, "--store", "{size: 48}"]) == 0
    assert "24 in the store, 24 of them new" in capsys.readouterr().out
    store = ImageStore.open(tmp_path / "store", pool_at(root), form_of(ModelSection(store={"size": 48})))
    assert not len(store.missing())
    assert ingest.main([*command, "--store", "compact"]) == 0  # of 37 px
    assert "24 of them new" in capsys.readouterr().out
    assert ingest.main([*command, "--store", "compact", "--verify"]) == 0
    assert "checksums    0 images damaged" in capsys.readouterr().out
    with pytest.raises(UserError, match="--store jpg: must be auto, raw, compact, or a mapping"):
        ingest.main([*command, "--store", "jpg"])
