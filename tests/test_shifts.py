"""Further test sets of a task: `shifts` of a spec as parts of its pool, their scores, and every error in them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ray_robust.data.duplicates.comparison import within
from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import forget_pools
from ray_robust.errors import UserError
from ray_robust.metrics import METRICS, tally
from ray_robust.plan.plan import Plan, hash_of
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.evaluate import predict_among
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.models import build_model, input_scale
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests.make_images import encoded, write

CLASSES = ("ant", "bee", "cat", "dog")
SPEC = """
task: {{name: folder, path: {root}/task{shifts}}}
model: {{image_size: 8}}
pretrain: none
finetune: {{epochs: 8, lr: 3e-3, evaluate_every: 4, batch_size: 32}}
seeds: 1
"""


def shot(label: int, number: int, part: int) -> bytes:
    """A noisy picture whose colour says its class, less clearly the higher `part`; no two are equal."""
    random = np.random.default_rng((label, number, part))
    pixels = random.normal(90 + 40 * part, 30, (8, 8, 3))
    pixels[..., label % 3] += 90 - 12 * part + 20 * (label == 3)
    return encoded(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), "PNG")


def images(folder: Path, classes: tuple[str, ...], count: int, part: int) -> Path:
    for label in classes:
        for i in range(count):
            write(folder / label / f"{i:03d}.png", shot(CLASSES.index(label) if label in CLASSES else 0, i, part))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, a shift `near` of all classes, and one of two classes and one that the task lacks, `few`."""
    folder = tmp_path_factory.mktemp("shifts")
    for part, (split, count) in enumerate(
        {"train": 24, "id_val": 6, "id_test": 30, "ood_val": 6, "ood_test": 20}.items()
    ):
        images(folder / "task" / split, CLASSES, count, part if part > 2 else 0 if part == 0 else 1)
    images(folder / "near", CLASSES, 26, 5)
    images(folder / "few", ("bee", "dog", "elk"), 30, 6)
    return folder


def sweep(root: Path, folder: Path, shifts: str = "", **more: str) -> Sweep:
    forget_pools()
    file = folder / "small.yaml"
    file.write_text(textwrap.dedent(SPEC).format(root=root, shifts=f", shifts: {shifts}" if shifts else ""))
    return open_sweep(load_spec(file, tuple(f"{key}={value}" for key, value in more.items())))


def both(root: Path) -> str:
    return f"{{near: {root}/near, few: {{path: {root}/few, unseen: drop}}}}"


def table_of(plan: Plan, folder: Path) -> tuple[RunFolder, pd.DataFrame]:
    torch.set_num_threads(1)
    paths = RunPaths(str(folder / "run"), str(folder / "checkpoints"), str(folder / "store"))
    for trial in plan:
        run_trial(trial, paths, Context())
    run = RunFolder(paths.run)
    run.write_plan(plan.rows())
    run.write_results()
    return run, pd.read_csv(folder / "run/results.csv")


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep, RunFolder, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("both")
    opened = sweep(root, folder, both(root))
    return folder, opened, *table_of(opened.plan, folder)


def test_shifts_are_parts_of_the_tasks_pool(root: Path, tmp_path: Path):
    opened = sweep(root, tmp_path, both(root))
    (task,) = opened.tasks.values()
    catalog = task.catalog
    assert catalog.classes == CLASSES
    assert catalog.parts[5:] == ("shift:near", "shift:few")
    assert [len(catalog.rows(part)) for part in catalog.parts] == [96, 24, 120, 24, 80, 104, 60]
    assert {name: only.tolist() for name, only in catalog.only.items()} == {"few": [1, 3]}
    few = catalog.rows("shift:few")
    assert sorted({key.split("/")[1] for key in task.keys(few)}) == ["bee", "dog"]
    assert {catalog.classes[k] for k in catalog.labels[few]} == {"bee", "dog"}
    assert "Shift few: 60 images of 2 of 4 classes" in catalog.notes[-1]
    assert "30 images of classes that the task lacks are left out" in catalog.notes[-1]
    assert any("shift few has 60 images" in note for note in opened.notes)


def test_a_row_for_each_shift_and_scores_of_its_predictions(ran):
    folder, _, run, table = ran
    assert table.groupby(["trial", "finetune", "epoch"])["shift"].agg(list).tolist() == 2 * [["ood", "near", "few"]]
    (name,), (finetune,) = table["trial"].unique(), table["finetune"].unique()
    predictions = pd.read_parquet(folder / f"run/trials/{name}/predictions/{finetune}.parquet").astype(str)
    number = {label: i for i, label in enumerate(CLASSES)}
    restricted = {"near": "id_test", "ood": "id_test", "few": "id_test:few"}
    for _, row in table.iterrows():
        parts = {
            "id": restricted[row["shift"]],
            "ood": "ood_test" if row["shift"] == "ood" else f"shift:{row['shift']}",
        }
        for side, part in parts.items():
            own = predictions[predictions["split"] == part]
            truth, guess = own["label"].map(number), own[f"epoch_{row['epoch']}"].map(number)
            assert row[f"{side}_images"] == len(own)
            assert row[f"{side}_accuracy"] == pytest.approx(np.mean(truth == guess), abs=1e-12)
            f1 = METRICS["macro_f1"].score(tally(truth.to_numpy(), guess.to_numpy()))
            assert row[side] == pytest.approx(f1, abs=1e-12)
    few = predictions[predictions["split"].isin(["shift:few", "id_test:few"])]
    assert set(few["label"]) == {"bee", "dog"}
    assert set(few["epoch_8"]) <= {"bee", "dog"}  # predictions are restricted to the shared classes
    own = table.set_index(["shift", "epoch"])
    assert own.loc[("few", 8), "shift_classes"] == 2
    assert own.loc["near", "shift_classes"].isna().all()
    assert own.loc[("few", 8), "id_images"] == 60
    assert own.loc[("few", 8), "id_val"] == own.loc[("ood", 8), "id_val"]
    assert run.results()["shift"].eq("ood").all()  # what everything else reads
    assert len(run.results()) == 2


def test_every_shift_scores_as_if_it_were_evaluated_alone(ran, root: Path, tmp_path: Path):
    """And the task's own scores are those of a sweep without shifts, bit for bit."""
    _, _, _, table = ran
    scores = ["id_val", "ood_val", *table.columns[table.columns.get_loc("id") : table.columns.get_loc("wise_alpha")]]
    alone = {"": "ood", f"{{near: {root}/near}}": "near",
             f"{{few: {{path: {root}/few, unseen: drop}}}}": "few"}  # fmt: skip
    ids = {table["finetune"].iloc[0]}
    for i, (shifts, name) in enumerate(alone.items()):
        (folder := tmp_path / str(i)).mkdir()
        _, other = table_of(sweep(root, folder, shifts).plan, folder)
        ids |= set(other["finetune"])
        for shift in {"ood", name}:
            left, right = (each[each["shift"] == shift][scores].reset_index(drop=True) for each in (table, other))
            pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert len(ids) == 4  # another set of tests is another fine-tuning's files
    assert len({trial.key for trial in sweep(root, tmp_path).plan} | set(table["trial"].str[-10:])) == 1


def test_the_logits_of_the_shared_classes_alone_decide():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    bank, section = ImageBank([(pixels, None)], torch.device("cpu")), ModelSection(image_size=8, precision="float32")
    model = build_model(section, 6, 0)
    only = np.array([1, 3, 4])
    free, bound = predict_among(model, bank, section, Context(), (None, only))
    with torch.inference_mode():
        mean, std = input_scale(model)
        scores = model(normalise(bank.take(torch.arange(40)), mean, std)).numpy().astype(np.float64)
    assert free.classes.tolist() == scores.argmax(1).tolist()
    assert bound.classes.tolist() == only[scores[:, only].argmax(1)].tolist()
    assert (free.classes != bound.classes).any()
    shares = np.exp(scores[:, only]) / np.exp(scores[:, only]).sum(1, keepdims=True)
    assert bound.confidence == pytest.approx(shares.max(1), abs=1e-6)


def test_classes_all_restricts_nothing(ran, root: Path, tmp_path: Path):
    """It gives the ID score of the whole test, and predictions among all classes."""
    _, _, _, table = ran
    shifts = f"{{few: {{path: {root}/few, unseen: drop, classes: all}}}}"
    _, other = table_of(sweep(root, tmp_path, shifts).plan, tmp_path)
    free, bound = (each[each["shift"] == "few"].set_index("epoch") for each in (other, table))
    own = table[table["shift"] == "ood"].set_index("epoch")
    assert free["id"].equals(own["id"])
    assert (free["ood_accuracy"] <= bound["ood_accuracy"]).all()
    assert free["shift_classes"].isna().all()


def test_a_plan_counts_the_images_of_shifts_and_keeps_the_training_s_name(root: Path, tmp_path: Path):
    with_shifts, without = (sweep(root, tmp_path, shifts).plan.trials[0] for shifts in (both(root), ""))
    (one,), (other,) = with_shifts.finetunings, without.finetunings
    assert (one.evaluated - other.evaluated) == 2 * (104 + 60)
    assert one.training == other.training == other.id != one.id
    assert with_shifts.key == without.key
    assert hash_of(one.training) != hash_of(one.id)


@pytest.mark.slow
def test_there_may_be_more_shifts_than_a_byte_counts(root: Path, tmp_path: Path):
    names = [f"s{i}" for i in range(130)]
    for i, name in enumerate(names):
        images(tmp_path / name, CLASSES[:2], 1 + i % 2, 2)
        write(tmp_path / name / CLASSES[0] / "own.png", shot(0, i, 2))
    listed = ", ".join(f"{name}: {tmp_path / name}" for name in names)
    (task,) = sweep(root, tmp_path, f"{{{listed}}}").tasks.values()
    assert [len(task.catalog.rows(f"shift:{name}")) for name in names] == [3, 5] * 65


def test_images_of_a_shift_that_are_trained_on_are_listed(root: Path, tmp_path: Path):
    images(tmp_path / "leak", CLASSES, 26, 5)
    write(tmp_path / "leak/ant/leaked.png", shot(0, 0, 0))
    opened = sweep(root, tmp_path, f"{{leak: {tmp_path}/leak}}")
    (task,) = opened.tasks.values()
    store = ImageStore.open(tmp_path / "store", task, 8)
    store.fill(store.missing())
    table = within(store).table
    (row,) = table[(table["split"] == "shift:leak") & (table["where"] == "train")].to_dict("records")
    assert task.keys(np.array([row["image"]])) == ["shift:leak/ant/leaked.png"]


@pytest.mark.parametrize(
    ("shifts", "message"),
    [
        ("{ood: ROOT/near}", "shifts: ood is the name of the task's own OOD test"),
        ("{train: ROOT/near}", "shifts: train is the name of the task's own part"),
        ("{a/b: ROOT/near}", "'a/b' is no name of a shift"),
        ("{2: ROOT/near}", "the key 2 must be text; quote it"),
        ("{v2: ROOT/near, V2: ROOT/few}", "v2 and V2 differ in case alone"),
        ("{v2: ROOT/near, v2: ROOT/few}", "v2"),
        ("[ROOT/near]", "must map names to test sets"),
        ("{v2: {pth: ROOT/near}}", "v2.pth: unknown key; did you mean path?"),
        ("{v2: {unseen: drop}}", "v2.path: missing"),
        ("{v2: s3://bucket/v2}", "must be a path on every node"),
        ("{v2: ROOT/none}", "shift v2: no such file or folder"),
        (
            "{v2: ROOT/few}",
            "shift v2: 1 of its 3 classes are none of the task's: elk; known: ant, bee, cat, dog; leave them out",
        ),
        ("{v2: ROOT/near, v3: ROOT/near}", "shifts v2 and v3 are the same images; leave one out"),
        ("{v2: ROOT/few/bee}", "shift v2: "),
    ],
)
def test_errors_name_the_shift(root: Path, tmp_path: Path, shifts: str, message: str):
    with pytest.raises(UserError) as error:
        sweep(root, tmp_path, shifts.replace("ROOT", str(root)))
    assert message in str(error.value)
    assert "small.yaml:2" in str(error.value)


@pytest.mark.parametrize("unseen", ["drop", "fail"])
def test_a_class_that_is_written_otherwise_is_not_left_out(root: Path, tmp_path: Path, unseen: str):
    """`unseen: drop` left it out, and the ID score of its images beside it."""
    images(tmp_path / "few", ("ant", "Bee", "dog", "elk"), 3, 6)
    with pytest.raises(UserError) as error:
        sweep(root, tmp_path, f"{{v2: {{path: {tmp_path}/few, unseen: {unseen}}}}}")
    what = "class 'Bee' (3 images) is 'bee' in the task: they differ in case; write both the same way"
    assert str(error.value).endswith(f"{tmp_path}/few: shift v2: {what}")


def test_the_worst_group_is_no_metric_of_a_shift(root: Path, tmp_path: Path):
    with pytest.raises(UserError, match="worst_group needs groups, which shifts lack"):
        sweep(root, tmp_path, both(root), **{"task.metric": "worst_group"})


def test_classes_without_an_id_image_have_no_id_score(root: Path, tmp_path: Path):
    rows = [(f"task/{split}/{label}/{i:03d}.png", label, split) for split, count in
            (("train", 24), ("id_val", 6), ("id_test", 30), ("ood_val", 6), ("ood_test", 20))
            for label in CLASSES for i in range(count) if (split, label) != ("id_test", "bee")]  # fmt: skip
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "task.csv", index=False)
    more = {"task.path": str(tmp_path / "task.csv"), "task.images": str(root)}
    with pytest.raises(UserError, match=r"id_test has no image of 1 of its classes \(bee\)"):
        sweep(root, tmp_path, both(root), **more)


def test_a_rendered_task_has_no_shifts_of_files(root: Path, tmp_path: Path):
    forget_pools()
    file = tmp_path / "rendered.yaml"
    file.write_text(f"""
task: {{name: subpopulation, source: {{name: species}}, labels: order, shifts: {{v2: {root}/near}}}}
pretrain: none
""")
    with pytest.raises(UserError, match="images of the built-in world are rendered, shifts are files"):
        open_sweep(load_spec(file))
