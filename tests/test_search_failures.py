"""A search of which trials fail: what of them counts, what they have spent, and what is tried again."""

from __future__ import annotations

import pytest
from test_search import drain, finish, make


def test_a_failed_seed_is_left_out_and_a_failed_configuration_has_no_value(tmp_path):
    search = make(tmp_path, "seeds=2", "search.trials=2")
    while (trial := search.next()) is not None:
        if trial.pretrain is not None and (trial.seed == 2 or search.outcomes):
            search.run.trial(trial.id).fail("out of luck")
        else:
            finish(search, trial)
        search.ended(trial.id)
    assert [(outcome.state, outcome.value is None) for outcome in search.outcomes] == [
        ("done", False),
        ("failed", True),
    ]


def test_of_a_trial_that_failed_for_some_finetunings_the_others_count_as_in_the_report(tmp_path):
    """Also for the baseline's line."""
    search = make(tmp_path, "search.trials=1", "seeds=2")
    while (trial := search.next()) is not None:
        lost = trial.finetunings[0].id
        folder = search.run.trial(trial.id)
        for finetuning in trial.finetunings[1:]:
            scores = [0.2 * trial.seed + 0.1 * epoch for epoch in (1, 2)]
            rows = [{"finetune": finetuning.id, "task": "camera-traps", "epoch": i, "id": 0.9, "ood": 0.9,
                     "id_val": score, "ood_val": score / 2} for i, score in enumerate(scores)]  # fmt: skip
            folder.keep_finetuning(finetuning.id, rows)
        folder.fail("1 of 2 fine-tunings failed: nan", finetunings={lost: "nan"})
        search.ended(trial.id)
        if trial.pretrain is not None:
            assert search.state(trial) == "failed"
    (outcome,) = search.outcomes
    assert outcome.state == "done"
    assert outcome.value == pytest.approx(0, abs=0.01)  # on the line, but for the scale


def test_a_diverging_rate_fails_its_own_configuration_alone_where_several_share_a_pre_training(tmp_path):
    search = make(tmp_path, "pretrain={sources: {species: 1}, num_images: 1000, images_seen: 6400}",
                  "finetune={epochs: 2, lr: {loguniform: [1e-4, 1e-2]}, evaluate_every: 1}",
                  "baseline.finetune={lr: 1e-3}", "search={method: random, trials: 4, objective: ood_val}")  # fmt: skip
    names: list[str] = []  # of the fine-tunings, as they are drawn
    while (trial := search.next()) is not None:
        names += [one.id for one in trial.finetunings if trial.pretrain is not None and one.id not in names]
        lost, folder = names[1:2], search.run.trial(trial.id)
        if not set(lost) & {one.id for one in trial.finetunings}:
            finish(search, trial)
        else:
            folder.begin()
            for name in set(names) - set(lost):
                row = {"finetune": name, "task": "camera-traps", "epoch": 1, "id_val": 0.5, "ood_val": 0.4}
                folder.keep_finetuning(name, [row])
            folder.fail("1 of 2 fine-tunings failed: nan", finetunings={lost[0]: "nan"})
        search.ended(trial.id)
    assert [outcome.state for outcome in search.outcomes] == ["done", "failed", "done", "done"]
    assert [outcome.value for outcome in search.outcomes][1:] == [None, 0.4, 0.4]


def test_a_value_is_of_all_seeds_also_while_one_of_them_runs_again_for_another_configuration(tmp_path):
    search = make(tmp_path, "pretrain={sources: {species: 1}, num_images: 1000, images_seen: 6400}", "seeds=2",
                  "finetune={epochs: 2, lr: {loguniform: [1e-4, 1e-2]}, evaluate_every: 1}",
                  "baseline.finetune={lr: 1e-3}", "search={method: random, trials: 2, objective: ood_val}")  # fmt: skip

    def end(trial, ood_val: float) -> None:
        rows = [{"finetune": one.id, "task": "camera-traps", "epoch": 1, "id_val": 0.5, "ood_val": ood_val}
                for one in trial.finetunings]  # fmt: skip
        for row in rows:
            search.run.trial(trial.id).keep_finetuning(row["finetune"], [row])
        search.run.trial(trial.id).finish(rows, {})
        search.ended(trial.id)

    for _ in range(2):
        end(search.next(), 0.3)
    first, second = search.next(), search.next()
    end(first, 0.8)
    again = search.next()
    assert again.id == first.id
    search.run.trial(again.id).begin()
    end(second, 0.4)
    (outcome,) = search.outcomes
    assert outcome.value == pytest.approx(0.6)


def test_what_failed_is_tried_again_by_the_next_run(tmp_path):
    search = make(tmp_path, "search.trials=5")
    drain(search, 2)
    failed = search.next()
    search.run.trial(failed.id).fail("out of luck")
    search.ended(failed.id)
    drain(search)
    assert [outcome.state for outcome in search.outcomes].count("failed") == 1
    again = make(tmp_path, "search.trials=5")
    assert not again.complete
    assert [trial.id for trial in drain(again)] == [failed.id]
    assert [outcome.state for outcome in again.outcomes] == ["done"] * 5
    assert all(outcome.value is not None for outcome in again.outcomes)
    assert make(tmp_path, "search.trials=5").complete


def test_what_failed_was_spent_as_far_as_it_came(tmp_path):
    clock = iter(range(0, 100_000, 100))
    search = make(tmp_path, "search.trials=3", clock=lambda: next(clock))
    drain(search, 1)
    trial = search.next()
    folder = search.run.trial(trial.id)
    folder.storage.write_json("progress.json", {"worked": 5_000, "seconds": 50.0, "time": 0.0})
    folder.fail("the loss became nan")
    search.ended(trial.id)
    images, hours = search.spent()
    assert images == 400 + 5_000
    assert hours > 396 / 3600
    again = make(tmp_path, "search.trials=3")  # the command is run again: what its folder says of it counts
    again.trials[trial.id] = trial
    assert again.spent() == (400 + 5_000, pytest.approx((396 + 50) / 3600))
    while (one := again.next()).id != trial.id:
        finish(again, one)
        again.ended(one.id)
    assert again.spent()[1] > (396 + 50) / 3600  # also while it is run again
