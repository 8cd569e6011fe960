"""What a trial asks for, and how many fit."""

import pytest

from ray_robust.errors import Outage, UserError
from ray_robust.launch import tuner
from ray_robust.launch.placement import DRIVER, ConcurrencyLimit, idle_gpus, slots_of, trial_needs
from ray_robust.spec.run_sections import Resources


@pytest.mark.parametrize(
    ("asked", "cluster", "slots"),
    [
        ({}, {"CPU": 2}, 2),
        ({"cpus_per_worker": 4}, {"CPU": 10}, 2),
        ({"gpus_per_worker": 1}, {"CPU": 16, "GPU": 4}, 4),
        ({"gpus_per_worker": 0.25}, {"CPU": 16, "GPU": 2}, 8),
        ({"gpus_per_worker": 0.1}, {"CPU": 16, "GPU": 1}, 10),
        ({"gpus_per_worker": 0.25}, {"CPU": 3, "GPU": 2}, 3),
        ({"workers": 4, "gpus_per_worker": 1}, {"CPU": 64, "GPU": 8}, 2),
        ({"workers": {"min": 2, "max": 4}}, {"CPU": 8}, 4),
    ],
)
def test_how_many_trials_fit(asked, cluster, slots):
    assert slots_of(Resources(**asked), cluster) == slots


def test_what_never_fits_is_said_unless_nodes_can_come():
    asked = Resources(workers=2, gpus_per_worker=1)
    with pytest.raises(UserError, match="resources: one trial needs 2 CPU, 2 GPU, the cluster has 8 CPU, 1 GPU"):
        slots_of(asked, {"CPU": 8, "GPU": 1})
    assert slots_of(asked, {"CPU": 8}, grows=True) == 0


def test_a_trial_that_only_drives_a_group_takes_next_to_nothing():
    assert trial_needs(Resources(workers=2)) == DRIVER
    assert trial_needs(Resources(gpus_per_worker=0.5)) == {"CPU": 1.0, "GPU": 0.5}


@pytest.mark.parametrize(("grows", "wanted"), [(False, [2, 6, 1]), (True, [6, 10, 4])])
def test_the_limit_follows_the_cluster(monkeypatch, grows, wanted):
    """Nodes come and go while a sweep runs; where more can come, some trials wait: that is what an autoscaler sees."""
    cluster = {"CPU": 2.0}
    monkeypatch.setattr("ray.cluster_resources", lambda: cluster)
    monkeypatch.setattr("ray_robust.launch.placement.grows", lambda: grows)
    monkeypatch.setattr("ray_robust.launch.placement.CHECK_EVERY", -1)

    class Searcher:
        max_concurrent = 0

    limit, seen = ConcurrencyLimit(Searcher, Resources()), []
    for cpus in (2, 6, 0):
        cluster["CPU"] = cpus
        limit.on_step_begin(0, [])
        seen.append(Searcher.max_concurrent)
    assert seen == wanted


def test_a_cluster_that_goes_away_is_said_in_a_line():
    wanted = r"the Ray cluster went away \(no head\); start it, then run the same command again: what is done is kept"
    with pytest.raises(Outage, match=wanted), tuner._cluster_outage():
        raise ConnectionError("no\nhead")


def test_gpus_that_no_trial_takes_are_told():
    assert idle_gpus(Resources(), {"CPU": 8, "GPU": 4}) == (
        "the cluster has 4 GPUs, of which no trial takes any; --set resources.gpus_per_worker=1 gives each trial one"
    )
    assert idle_gpus(Resources(gpus_per_worker=0.5), {"CPU": 8, "GPU": 4}) == ""
    assert idle_gpus(Resources(), {"CPU": 8}) == ""
