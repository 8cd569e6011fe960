"""Methods of pre-training and fine-tuning: they learn, go on bit for bit, load what others trained, say what fails."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError
from ray_robust.files.storage import Storage
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import Finetune, ModelSection, Pretrain, SourceSection
from ray_robust.train import callbacks, features, interleave, loop
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split, predict
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.features import body_features
from ray_robust.train.finetune import EvalPoint, Finetuned, FinetuneJob, finetune
from ray_robust.train.images import ImageBank
from ray_robust.train.methods.clip import Texts, readable
from ray_robust.train.models import build_model, feature_width, fresh_head
from ray_robust.train.points import counts, points
from ray_robust.train.pretrain import MixtureImages, PretrainJob, pretrain
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests.make_weights import prefixed, same, state_of, write

CPU = torch.device("cpu")
SOURCES = {"any": SourceSection(kind="any", options=None)}
RESNET = ModelSection(name="test_resnet")
LABELS = ("upper_left", "upper_right", "lower_left", "lower_right")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def split_of(count: int, seed: int) -> Split:
    """Noise with a bright square whose corner tells the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, count)
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 2)
        image[2 + 16 * y : 14 + 16 * y, 2 + 16 * x : 14 + 16 * x] += 150
    return Split(ImageBank([(images, None)], CPU), labels, groups=np.arange(count) % 5)


def job(method: str, model: ModelSection = RESNET, checkpoints: Storage | None = None, **settings) -> PretrainJob:
    asked = {"sources": SOURCES, "epochs": 4, "batch_size": 32, "lr": 3e-3, "method": method, **settings}
    images = MixtureImages(split_of(128, 1), split_of(80, 2), LABELS)
    return PretrainJob(model, Pretrain(**asked), 1, f"some {method}", Context(), checkpoints, images)


class CutOffError(Exception):
    pass


def slowly(*cases) -> list:
    """Cases for the slow tier: what they show of each method, a smaller one has shown of another."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def cut_off(step: int, training, *args, **settings) -> None:
    """Let a training end as by a kill before its step number `step`; it saves its state after every epoch."""
    taken, rate = 0, loop.learning_rate

    def counted(*args):
        nonlocal taken
        taken += 1
        if taken == step:
            raise CutOffError
        return rate(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "MIN_SAVE_INTERVAL", 0.0)
        patch.setattr(callbacks, "MAX_SAVE_SHARE", 1e9)
        patch.setattr(loop, "learning_rate", counted)
        with pytest.raises(CutOffError):
            training(*args, **settings)


# Pre-training


@pytest.mark.slow
@pytest.mark.parametrize(("method", "chance"), [("supervised", 0.25), *slowly(("simclr", 0.25), ("clip", 0.25))])
def test_a_method_learns_and_hands_on_a_body(method, chance):
    settings = {"augment": "none"} if method != "simclr" else {"augment": "crop"}
    model, done = pretrain(job(method, epochs=16, **settings))
    assert done.upstream_accuracy > 2 * chance
    assert (done.epochs, done.images_seen) == (16, 16 * 128)
    assert done.num_labels == (4 if method == "supervised" else 0)
    assert fresh_head(model, 7, 1)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), [
    ("supervised", "test_vit"), ("simclr", "test_vit"), *slowly(("clip", "test_vit"), *(
        (method, name) for method in ("supervised", "simclr", "clip") for name in ("test_resnet", "test_byobnet"))),
])  # fmt: skip
def test_a_pre_training_that_was_cut_off_goes_on_bit_for_bit(tmp_path, method, name):
    model = ModelSection(name=name)
    whole, done = pretrain(job(method, model))
    cut_off(11, pretrain, job(method, model, Storage(tmp_path)))
    assert list(tmp_path.glob("pretrain.*.safetensors"))
    again, resumed = pretrain(job(method, model, Storage(tmp_path)))
    assert same(state_of(whole), state_of(again))
    assert resumed.upstream_accuracy == done.upstream_accuracy


@pytest.mark.slow
@pytest.mark.parametrize(("method", "augment"), [
    ("supervised", "rotate90+trivialaugment"), ("simclr", "randaugment"),
    *slowly(("clip", "vflip+strong+trivialaugment"), ("simclr", "rotate90")),
])  # fmt: skip
def test_augmentations_go_on_bit_for_bit_after_a_cut(tmp_path, method, augment):
    settings = {"epochs": 2, "augment": augment}
    whole, _ = pretrain(job(method, **settings))
    cut_off(7, pretrain, job(method, checkpoints=Storage(tmp_path), **settings))
    assert list(tmp_path.glob("pretrain.*.safetensors"))
    again, _ = pretrain(job(method, checkpoints=Storage(tmp_path), **settings))
    assert same(state_of(whole), state_of(again))
    other, _ = pretrain(job(method, **settings | {"augment": "crop"}))
    assert not same(state_of(whole), state_of(other))


def test_a_loss_that_breaks_says_so():
    for method in ("simclr", "clip"):
        with pytest.raises(TrainingFailed, match=r"pretrain: the loss became nan by step \d+ of 64 \(learning rate"):
            pretrain(job(method, epochs=16, lr=1e12, optimizer="sgd", warmup=0))


def test_texts_are_captions_or_templates_over_the_tokens_that_occur():
    train = Split(split_of(6, 1).images, np.array([0, 1, 2, 3, 0, 1]))
    settings = Pretrain(sources=SOURCES, epochs=1, method="clip", templates=("a photo of a {}.", "the {}"))
    captions = [None, "two cats on a red mat", None, None, "two cats on a red mat", None]
    texts = Texts(MixtureImages(train, train, LABELS, captions), settings)
    assert texts.choices.tolist() == [[0, 1], [8, 8], [4, 5], [6, 7], [8, 8], [2, 3]]
    assert texts.tokens.shape[0] == 9
    assert texts.vocabulary == len(texts.tokens.unique()) < 40
    ends = texts.tokens.max(1)
    assert set(ends.values.tolist()) == {texts.vocabulary - 1}  # the end of a text, where the tower reads it
    assert [readable(label) for label in ("species/red_fox", "oak")] == ["red fox", "oak"]


@pytest.mark.slow
def test_an_image_tower_of_open_clip_is_a_model_like_others(tmp_path):
    section = ModelSection(name="open_clip:ViT-S-32-alt", image_size=32)
    tower = build_model(section, 5, 1)
    assert tower(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert same(state_of(tower), state_of(build_model(section, 5, 1)))
    whole = prefixed("module.", {name: value for name, value in state_of(tower).items() if "head" not in name})
    model, _ = pretrain(job("weights", section, weights=write(tmp_path / "clip.pth", {"state_dict": whole})))
    assert same(state_of(model), {name: value for name, value in state_of(tower).items() if "head" not in name})


# Fine-tuning


def splits() -> dict[str, Split]:
    return {"train": split_of(96, 3), **{name: split_of(40, 4 + i) for i, name in enumerate(SPLITS[1:])}}


def finetuned(model: nn.Module, checkpoints: Storage | None = None, **settings) -> Finetuned:
    asked = {"epochs": 4, "evaluate_every": 2, "batch_size": 32, "lr": 1e-3, **settings}
    return finetune(
        model, FinetuneJob(RESNET, Finetune(**asked), splits(), 4, "name", "accuracy", Context(), checkpoints)
    )


def equal(a: Finetuned, b: Finetuned) -> bool:
    return list(a.predictions) == list(b.predictions) and all(
        np.array_equal(a.predictions[point][name].confidence, b.predictions[point][name].confidence)
        for point in a.predictions
        for name in SPLITS[1:]
    )


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_head_reads_the_features_of_its_body(name):
    model = fresh_head(build_model(ModelSection(name=name), 0, 1), 3, 1).eval()
    images = torch.rand(2, 3, 32, 32)
    read = body_features(model, images)
    assert read.shape == (2, feature_width(model))
    assert torch.allclose(model.get_classifier()(read), model(images), atol=1e-6)


@pytest.mark.slow
def test_a_linear_probe_leaves_the_body_as_it_was_and_learns():
    model, _ = pretrain(job("supervised", epochs=16, augment="none"))
    before = {name: value for name, value in state_of(model).items() if "fc" not in name}
    done = finetuned(model, method="linear", lr=1e-2, epochs=30, evaluate_every=30)
    after = state_of(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert list(done.predictions) == [EvalPoint(30, 90)]
    assert points(done, splits(), "accuracy")[-1]["id"] > 0.5


def test_heads_on_one_body_share_its_features(monkeypatch):
    asked, data = [], splits()
    made = features.features_of
    monkeypatch.setattr(features, "features_of", lambda *a: asked.append(1) or made(*a))
    cache, settings = features.FeatureCache(), {"epochs": 2, "evaluate_every": 2, "batch_size": 32}
    section = RESNET.model_copy(update={"precision": "float32"})  # of the whole model too, which else may be in bf16

    def probed(method: str, lr: float) -> tuple[nn.Module, Finetuned]:
        model = build_model(section, 0, 1)
        own = Finetune(method=method, lr=lr, **settings)
        return model, finetune(model, FinetuneJob(section, own, data, 4, f"{lr}", "accuracy", Context(), None, cache))

    model, done = probed("linear", 1e-2)
    assert len(asked) == 1 + len(SPLITS[1:])
    _, again = probed("linear", 3e-2)
    probed("lp-ft", 1e-3)
    assert len(asked) == 1 + len(SPLITS[1:])
    assert not equal(done, again)
    for name in SPLITS[1:]:
        whole, seen = predict(model, data[name].images, section, Context()), done.predictions[EvalPoint(2, 6)][name]
        assert np.array_equal(whole.classes, seen.classes)
        assert np.allclose(whole.confidence, seen.confidence, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "lp-ft"])
def test_a_fine_tuning_that_was_cut_off_goes_on_bit_for_bit(tmp_path, method):
    settings = {"method": method, "probe_epochs": 2, "wise_ft": (0.5,)}
    whole = finetuned(build_model(RESNET, 0, 1), **settings)
    for step in (5, 10):  # in the probe of lp-ft, and after it
        folder = Storage(tmp_path / str(step))
        cut_off(step, finetuned, build_model(RESNET, 0, 1), folder, **settings)
        assert equal(finetuned(build_model(RESNET, 0, 1), folder, **settings), whole)


def test_points_of_wise_ft_lie_between_the_probed_and_the_fine_tuned_model(monkeypatch):
    alphas = (0.0, 0.5, 1.0)
    done = finetuned(build_model(RESNET, 0, 1), method="lp-ft", probe_epochs=5, wise_ft=alphas, lr=3e-3)
    rows = points(done, splits(), "accuracy")
    assert [(row["epoch"], row["wise_alpha"]) for row in rows] == [(2, None), (4, None), *((4, a) for a in alphas)]
    plain, start, middle, end = (done.predictions[EvalPoint(4, 12, a)] for a in (None, *alphas))
    for name in SPLITS[1:]:
        assert np.array_equal(end[name].confidence, plain[name].confidence)
        assert not np.array_equal(start[name].confidence, plain[name].confidence)
        assert not np.array_equal(middle[name].confidence, plain[name].confidence)
    assert {key: rows[1][key] for key in ("id", "ood")} == {key: rows[-1][key] for key in ("id", "ood")}
    counted = counts(done, splits())
    assert set(counted["wise_alpha"].dropna()) == set(alphas)
    # the start is the body as it was pre-trained, under the head that the probe ends with
    probed: dict[str, torch.Tensor] = {}

    def see(model: nn.Module, *_):
        probed.update(state_of(model))
        yield from ()
        return 0.0

    monkeypatch.setattr("ray_robust.train.finetune.fit", interleave.Stepwise(see))
    finetuned(build_model(RESNET, 0, 1), method="lp-ft", probe_epochs=5)
    assert all(torch.equal(value, probed[name]) for name, value in state_of(build_model(RESNET, 0, 1)).items())


def test_a_model_from_scratch_is_trained_in_full():
    asked = Finetune(method="lp-ft", wise_ft=(0.5,), lr=1e-4)
    assert asked.in_full() == Finetune(lr=1e-4)
    assert (asked.passes, Finetune(method="linear").passes, Finetune().passes) == (13, 1, 12)


def test_a_model_that_cannot_be_built_for_a_size_says_so():
    with pytest.raises(TrainingFailed, match="model test_vit cannot be built for 12 px: "):
        build_model(ModelSection(name="test_vit", image_size=12), 4, 1)


# The spec


SPEC = """
# Question: Which method?
task: {name: camera-traps, train_images: 300, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}
model: {name: test_resnet, image_size: 32}
pretrain:
  sources: {species: 1.0}
  num_images: 400
  num_classes: 20
  images_seen: 800
  points: [{method: weights, weights: WEIGHTS}, {method: simclr}, {method: supervised}]
finetune: {method: {grid: [full, linear, lp-ft]}, wise_ft: [0.5], probe_epochs: 2, epochs: 2, evaluate_every: 2}
"""


def plan_of(file: Path, text: str, *overrides: str) -> Plan:
    file.write_text(text)
    return open_sweep(load_spec(file, overrides)).plan


def test_methods_vary_in_one_section_and_none_is_named_by_keys_it_does_not_use(tmp_path):
    text = SPEC.replace("WEIGHTS", write(tmp_path / "body.pth", state_of(build_model(RESNET, 10, 3))))
    plan = plan_of(tmp_path / "a.yaml", text)
    assert [len(trial.finetunings) for trial in plan if trial.pretrain is None] == [1]  # nothing to probe from scratch
    assert {len(trial.finetunings) for trial in plan if trial.pretrain is not None} == {3}
    again = plan_of(tmp_path / "b.yaml", load_spec(tmp_path / "a.yaml").resolved)
    assert [trial.key for trial in again] == [trial.key for trial in plan]
    fewer = plan_of(tmp_path / "c.yaml", text.replace("[full, linear, lp-ft]", "[full, lp-ft]").replace("0.5", "0.3"))
    kept = {f.id for t in fewer for f in t.finetunings} & {f.id for t in plan for f in t.finetunings}
    assert len(kept) == 1  # full, which wise_ft means nothing to
    moved = text.replace("body.pth", "moved.pth")
    (tmp_path / "body.pth").rename(tmp_path / "moved.pth")
    assert {t.key for t in plan_of(tmp_path / "d.yaml", moved)} == {t.key for t in plan}


def test_keys_that_no_method_of_the_sweep_uses_are_said(tmp_path):
    text = SPEC.replace("{method: weights, weights: WEIGHTS}, ", "").replace("full, linear, lp-ft", "full, linear")
    with pytest.raises(UserError) as error:
        plan_of(tmp_path / "a.yaml", text.replace("images_seen: 800", "images_seen: 800\n  templates: ['a {}']"))
    assert [problem.what for problem in error.value.problems] == [
        "pretrain.templates: belongs to method clip, which is not used here",
        "finetune.wise_ft: belongs to method lp-ft, which is not used here",
        "finetune.probe_epochs: belongs to method lp-ft, which is not used here",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pretrain.points=[{method: simcl}]", "'simcl' is no known method; did you mean simclr?"),
        ("pretrain.points=[{method: clip, templates: [cat]}]", "'cat' must hold {} once, where the label goes"),
        ("pretrain.points=[{method: simclr, augment: none}]", "augment none makes the two views of method simclr the"),
        ("pretrain.points=[{method: weights}]", "method weights needs weights: a tag of timm or open_clip, or a file"),
        ("pretrain.points=[{method: weights, weights: no.pth}]", "pretrain.weights: there is no file or folder no.pth"),
        ("model.name=open_clip:ViT-B-3", "model.name: open_clip has no model 'ViT-B-3'; did you mean ViT-B-32?"),
    ],
)  # fmt: skip
def test_mistakes_about_methods(tmp_path, change, said):
    weights = write(tmp_path / "body.pth", state_of(build_model(RESNET, 10, 3)))
    with pytest.raises(UserError) as error:
        plan_of(tmp_path / "a.yaml", SPEC.replace("WEIGHTS", weights), change)
    assert any(said in problem.what for problem in error.value.problems), error.value


@pytest.mark.slow
def test_a_sweep_of_methods_ends_in_points_that_say_so(tmp_path):
    text = SPEC.replace("WEIGHTS", write(tmp_path / "body.pth", state_of(build_model(RESNET, 10, 3))))
    text = text.replace("{method: simclr}, ", "").replace("full, linear, lp-ft", "linear, lp-ft")
    plan = plan_of(tmp_path / "a.yaml", text)
    paths = RunPaths(str(tmp_path / "run"), str(tmp_path / "checkpoints"), str(tmp_path / "store"))
    for trial in plan:
        run_trial(trial, paths, Context())
    run = RunFolder(paths.run)
    run.write_plan(plan.rows())
    table = run.write_results()
    assert set(table["status"]) == {"done"}
    assert set(table[table["pretrain_method"] == "scratch"]["finetune_method"]) == {"full"}
    ready_made = table[table["pretrain_method"] == "weights"]
    assert ready_made[["num_images", "upstream_accuracy"]].isna().all(axis=None)
    assert set(ready_made["pretrain_images_seen"]) == {0}
    between = table[table["wise_alpha"].notna()]
    assert len(between) == 2
    assert set(between["group"].str.endswith(", wise_ft")) == {True}
    assert set(table["group"]) == {"scratch", *table[table["wise_alpha"].isna()]["group"], *between["group"]}
    name = between["trial"].iloc[0]
    predicted = pd.read_parquet(tmp_path / f"run/trials/{name}/predictions/{between['finetune'].iloc[0]}.parquet")
    assert {"epoch_2", "epoch_2_wise_0.5", "confidence_2_wise_0.5"} <= set(predicted.columns)
    log = (tmp_path / f"run/trials/{ready_made['trial'].iloc[0]}/log.txt").read_text()
    assert f"tensors of {tmp_path}/body.pth; not used: fc.weight, fc.bias" in log
