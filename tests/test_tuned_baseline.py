"""The baseline's best setting that no group has: chosen by validation scores, compared, and said first."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

import analysis as package
from analysis.advice.advise import advise
from analysis.advice.run_design import RunDesign
from analysis.advice.tuned import equal_cost
from analysis.options import Options
from analysis.report.pasting import paste_line
from analysis.report.score_tables import score_tables
from analysis.scores.sentences import summary
from analysis.study import Analysis, analyse
from analysis.verdict import verdict

SCHEMA = json.loads((Path(package.__file__).parent / "verdict.schema.json").read_text("utf-8"))


def study(longer: float, groups: tuple[float, ...] = (0.31, 0.24), val: float = 0.5) -> tuple[pd.DataFrame, Analysis]:
    """Groups of 8 epochs; scratch also of 32 epochs, which reaches an OOD score of `longer` and an id_val of `val`."""
    random, rows = np.random.default_rng(2), []
    own = {"scratch": 0.16} | {f"num_images={1000 * 7**i}": ood for i, ood in enumerate(groups)}
    runs = [(group, 8, ood, 0.3) for group, ood in own.items()] + [("scratch", 32, longer, val)]
    for group, length, ood, id_val in runs:
        for seed in range(5):
            for epoch in (length // 2, length):
                score = ood - 0.02 * (epoch < length) + 0.002 * random.standard_normal()
                near = id_val - 0.02 * (epoch < length)
                rows.append({"trial": f"{group}-{seed}", "group": group, "seed": seed, "finetune": f"e{length}",
                             "epoch": epoch, "id_val": near, "ood_val": near, "ood": score,
                             "num_images": int(group[11:] or 0),
                             "id": near + 1.5 * (ood - 0.2) + 0.02 * random.standard_normal()})  # fmt: skip
    points = pd.DataFrame(rows)
    return points, analyse("task", points, Options("scratch"))


def test_a_longer_baseline_that_beats_every_group_is_in_the_first_sentence_and_takes_its_mark():
    points, made = study(0.45)
    first, against = summary(made).deployment, summary(made).lead[0]
    assert first.text.startswith("On the shifted test, at equal settings (8 epochs): a gain. num_images=1000")
    assert (
        "). But from scratch with 32 epochs: 45." in first.text
        or "). But from scratch with 32 epochs: 44." in first.text
    )
    assert first.text.endswith("), above every group; no group was tried with that.")
    assert first.sign == 0
    assert (first.kind, first.not_robust_to) == ("fragile", ("a tuned baseline",))
    last = points.loc[points["epoch"].isin([8, 32])].set_index(["group", "finetune"])["ood"] * 100
    test = stats.ttest_rel(last["num_images=1000", "e8"], last["scratch", "e32"])
    row = made.scores.difference("num_images=1000", family="tuned")
    assert row["b"] == "scratch, 32 epochs"
    assert [row["low"], row["high"]] == pytest.approx(list(test.confidence_interval()))
    assert "num_images=1000 against scratch with 32 epochs: OOD −" in against.text
    assert "fine-tuned 4 times as long" in against.text
    result = verdict([made])
    jsonschema.validate(result, SCHEMA)
    assert result["scores"]["tuned_baseline"]["ood"]["mean"] == pytest.approx(last["scratch", "e32"].mean())
    assert result["scores"]["findings"][0]["text"] == against.text
    assert [row[0] for row in score_tables(made)["scores"].rows][-1] == "scratch, 32 epochs"


def test_a_longer_baseline_below_the_groups_leaves_the_gain():
    first = summary(study(0.2)[1]).deployment
    assert first.kind == "differs"
    assert first.text.endswith("), still below num_images=1000.")


def test_a_setting_that_validation_scores_do_not_choose_is_not_reported():
    made = study(0.45, val=0.1)[1]
    assert made.scores.tuned is None
    assert summary(made).deployment.text.startswith("On the shifted test: ")


def test_two_groups_have_one_answer_and_no_slope_per_tenfold():
    made = study(0.45)[1]
    texts = [one.text for one in summary(made).findings]
    assert not any("per tenfold" in text or "scores highest" in text for text in texts)
    (pair,) = [one for one in summary(made).findings if "OOD score" in one.text]
    row = made.scores.differences.iloc[pair.index]
    assert (row["family"], {row["a"], row["b"]}) == ("best", {"num_images=1000", "num_images=7000"})


def test_selection_has_the_points_of_the_scores_and_no_er_without_a_line():
    made = study(0.45)[1]
    for group, row in made.selection.set_index("group").iterrows():
        assert 100 * row["ood_by_id_val"] == pytest.approx(made.scores.mean(group)["mean"])
    refused = analyse("task", made.points, Options("scratch", min_r2=1.0))
    assert refused.refused
    assert refused.selection[["er_by_id_val", "er_by_ood_val", "change"]].isna().all(axis=None)


def test_the_groups_are_to_be_fine_tuned_as_long():
    points, made = study(0.45)
    (advice,) = equal_cost(made, None)
    assert advise(made)[0] == advice
    assert advice.evidence.startswith(
        "scratch with 32 epochs, its best setting by id_val, was fine-tuned 4 times as long"
    )
    assert advice.action == "Fine-tune the groups for 32 epochs too: they are then compared at equal cost."
    jsonschema.validate(verdict([made]), SCHEMA)
    spec = {
        "finetune": {"epochs": 8, "lr": {"grid": ["1e-3", "3e-3"]}, "method": "full"},
        "baseline": {"spread": "auto"},
    }
    plan = [{"group": "num_images=1000", "pretrain_method": "supervised", "finetunes": '{"a": "task", "b": "task"}'}]
    (advice,) = equal_cost(made, RunDesign("run", spec, plan, pd.DataFrame(), 100, 10))
    assert yaml.safe_load(advice.yaml) == {
        "finetune": {"epochs": {"grid": [8, 32]}, "lr": {"grid": ["1e-3", "3e-3"]}, "method": "full"},
        "baseline": {"name": "scratch", "spread": "auto", "finetune": {"epochs": 8}},
    }
    assert paste_line(advice.yaml).startswith("Paste this in place of `finetune` and `baseline`")
    assert (advice.cost.finetunings, advice.cost.pretrainings) == (4, 0)  # and two of such a baseline
    refused = analyse("task", points, Options("scratch", min_r2=1.0))
    assert [one.reason for one in advise(refused)][-1] == "unequal_cost"


def test_a_baseline_on_more_images_is_not_called_longer_alone():
    points, _ = study(0.45)
    longer = points["finetune"] == "e32"
    made = analyse("task", points.assign(finetune_images=np.where(longer, 6000, 1500)), Options("scratch"))
    assert "was fine-tuned 4 times as long and on 4 times as many images; to compare" in summary(made).lead[0].text
    (one,) = equal_cost(made, None)
    assert "4 times as long as any group and on 4 times as many images as any group: OOD" in one.evidence
    assert one.action.startswith(
        "Fine-tune the groups with 6,000 fine-tuning images, 32 epochs too (finetune.num_images,"
    )
    assert one.yaml is None


@pytest.mark.slow
def test_groups_that_were_fine_tuned_as_long_need_nothing():
    points, _ = study(0.45)
    longer = points.loc[(points["group"] != "scratch")].assign(finetune="e32", epoch=lambda t: 4 * t["epoch"])
    made = analyse("task", pd.concat([points, longer], ignore_index=True), Options("scratch"))
    assert equal_cost(made, None) == []
    assert equal_cost(study(0.45, val=0.1)[1], None) == []  # no tuned baseline
