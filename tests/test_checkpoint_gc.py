"""Garbage collection of shared weights: the least recently used go first, what is under way stays."""

from ray_robust.files.storage import Storage
from ray_robust.launch.failures.checkpoint_gc import collect_garbage


def weights(folder, key: str, used: float | None, size: int = 1000, name: str = "final.safetensors") -> None:
    Storage(folder / key).write(name, b"x" * size)
    if used is not None:
        Storage(folder / key).write_json("used.json", {"time": used})


def test_the_least_recently_used_go_first(tmp_path):
    for key, used in (("a", 30.0), ("b", 10.0), ("c", None), ("d", 20.0)):
        weights(tmp_path, key, used)
    assert collect_garbage(Storage(tmp_path), 10_000) == []
    assert collect_garbage(Storage(tmp_path), 2_500) == ["c", "b"]
    assert Storage(tmp_path).names() == ["a", "d"]


def test_what_trials_to_come_want_goes_last_and_what_is_under_way_stays(tmp_path):
    weights(tmp_path, "wanted", 1.0)
    weights(tmp_path, "other", 2.0)
    weights(tmp_path, "begun", 0.0, name="pretrain.0.safetensors")
    assert collect_garbage(Storage(tmp_path), 2_100, {"wanted"}) == ["other"]
    assert collect_garbage(Storage(tmp_path), 0) == ["wanted"]
    assert Storage(tmp_path).names() == ["begun"]


def test_nothing_there_is_nothing_to_do(tmp_path):
    assert collect_garbage(Storage(tmp_path / "none"), 0) == []
