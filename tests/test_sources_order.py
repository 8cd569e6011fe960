"""The order in which a spec names its sources is no part of what it means, but labels are numbered in it: what is
interrupted is not continued with other numbers."""

from pathlib import Path

import pytest
from test_trial import CutOffError, paths_in, plan_of, pretrained_of, scores_of

from ray_robust.train import callbacks, loop
from ray_robust.train.context import Context
from ray_robust.trial.run_trial import run_trial

SAID = "begins its pre-training again: what there is of it has its sources in another order"


@pytest.mark.slow
def test_a_pretraining_is_not_continued_with_other_numbers_for_its_labels(tmp_path, monkeypatch):
    orders = ("{species: 0.5, fractals: 0.5}", "{fractals: 0.5, species: 0.5}")
    one, other = (
        pretrained_of(plan_of(tmp_path, f"pretrain.sources={order}", "pretrain.images_seen=2560", "finetune.epochs=1"))
        for order in orders
    )
    assert one.id == other.id
    monkeypatch.setattr(callbacks, "MIN_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "MAX_SAVE_SHARE", 1e9)
    whole, cut = paths_in(tmp_path, "whole"), paths_in(tmp_path, "cut")
    run_trial(other, whole, Context())
    step = loop.learning_rate

    def until_the_seventh(settings, number, steps):
        if number == 7:
            raise CutOffError
        return step(settings, number, steps)

    for trial in (one, other):  # the second is continued, from what it has done itself
        monkeypatch.setattr(loop, "learning_rate", until_the_seventh)
        with pytest.raises(CutOffError):
            run_trial(trial, cut, Context())
    monkeypatch.setattr(loop, "learning_rate", step)
    run_trial(other, cut, Context())
    log = Path(cut.run, "trials", one.id, "log.txt").read_text()
    assert log.count(SAID) == 1
    assert scores_of(cut, other) == scores_of(whole, other)
    assert not list(Path(cut.checkpoints).glob("*/labels.json"))
