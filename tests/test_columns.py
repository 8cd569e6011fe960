"""Columns that images are selected by: of a CSV, Parquet shards, a webdataset's JSON, or a table joined by name."""

from __future__ import annotations

import io
import json
import math
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from make_pools import open_pool
from pyarrow import parquet

from ray_robust.data.columns import Column, column_of
from ray_robust.data.opened import forget_pools
from ray_robust.errors import UserError
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import decode_jobs, draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.image_selection import ImageSelection
from ray_robust.spec.load import load_spec
from ray_robust.train.context import Context
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests import make_images as make

SCORES = {f"{label}/{i}.jpg": i + 10 * (label == "dog") for label in ("cat", "dog") for i in range(4)}


@pytest.fixture(autouse=True)
def _store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    forget_pools()


def listed(root: Path, scores: dict[str, Any] = SCORES, order: int = 1, column: str = "score") -> Path:
    """A CSV beside its images, its rows in this order."""
    rows = [{"path": key, "label": key.split("/")[0], column: str(score)} for key, score in scores.items()]
    return make.table(root / "index.csv", rows[::order])


def sharded(root: Path) -> Path:
    """Two tars of a webdataset, with JSON of which one has no score."""
    for shard in range(2):
        with tarfile.open(root / f"part-{shard}.tar", "w") as tar:
            for i in range(4):
                facts = {"score": shard * 4 + i, "text": f"a {'dog' if i % 2 else 'cat'}"} if shard * 4 + i != 5 else {}
                members = {"jpg": make.encoded(make.picture(seed=i)), "cls": str(i % 2).encode(),
                           "json": json.dumps(facts).encode()}  # fmt: skip
                for kind, data in members.items():
                    member = tarfile.TarInfo(f"{i:04d}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return root


def selection(**keys: Any) -> ImageSelection:
    return ImageSelection.model_validate({"column": "score", "at_least": 0, **keys})


def spec_of(path: Path, select: Any, **keys: Any) -> dict[str, Any]:
    sources = {"photos": {"kind": "folder", "path": str(path), "parents": []}}
    return {"task": {"name": "camera-traps"}, "model": {"name": "test_byobnet", "image_size": 16}, "baseline": "none",
            "pretrain": {"sources": sources, "select": select, "holdout": 0, "epochs": 1, **keys}}  # fmt: skip


def keys_drawn(spec: dict[str, Any]) -> dict[str, int]:
    """How many images each group's first trial would draw."""
    forget_pools()
    sweep = open_sweep(load_spec(spec))
    return {trial.group: draw_all(sweep, {})[trial.id].images for trial in sweep.plan}


# --- where columns are read from


def test_a_column_of_the_csv_whatever_its_order(tmp_path):
    for order in (1, -1):
        root = tmp_path / str(order)
        pool = open_pool("source", "folder", {"path": str(listed(root, order=order)), "parents": ()})
        assert column_of(pool, selection()).values.tolist() == [SCORES[key] for key in sorted(SCORES)]


def test_a_column_of_a_webdatasets_json(tmp_path):
    pool = open_pool("source", "webdataset", {"path": str(sharded(tmp_path))})
    for _ in range(2):  # as it was read, and from the index
        column = column_of(pool, selection(column="json.score", missing="drop"))
        assert column.values[column.present].tolist() == [0, 1, 2, 3, 4, 6, 7]
        assert math.isnan(column.values[5])
        texts = column_of(pool, selection(column="json.text", at_least=None, matches="dog"))
        assert texts.values.tolist() == ["a cat", "a dog", "a cat", "a dog", "a cat", "", "a cat", "a dog"]
        before = column.digest
        forget_pools()
        pool = open_pool("source", "webdataset", {"path": str(tmp_path)})
        assert column_of(pool, selection(column="json.score")).digest == before


def test_a_column_of_parquet_shards(tmp_path):
    frame = pd.DataFrame({"image": [make.encoded(make.picture(seed=i)) for i in range(4)], "label": ["a", "b"] * 2,
                          "width": pd.array([1, None, 3, 4], "Int64"), "good": [True, False, True, True]})  # fmt: skip
    frame.to_parquet(tmp_path / "part-0.parquet")
    pool = open_pool("source", "parquet", {"path": str(tmp_path)})
    assert column_of(pool, selection(column="width")).present.tolist() == [True, False, True, True]
    assert column_of(pool, selection(column="good")).values.tolist() == [1, 0, 1, 1]
    assert column_of(pool, selection(column="width", at_least=None, matches="3")).values[2] == "3"
    with pytest.raises(UserError, match="has no column 'widht'; did you mean width"):
        column_of(pool, selection(column="widht"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_joined_by_name_in_any_order(tmp_path, kind):
    make.tree(tmp_path / "images", {"cat": 2, "dog": 2})
    pool = open_pool("source", "folder", {"path": str(tmp_path / "images")})
    keys = pool.keys(np.arange(4))
    frame = pd.DataFrame({"path": [*keys[::-1], "bird/9.jpg"], "score": [3, 2, 1, 0, 9]})
    table = tmp_path / f"scores.{kind}"
    frame.to_csv(table, index=False) if kind == "csv" else frame.to_parquet(table)
    assert column_of(pool, selection(table=str(table))).values.tolist() == [0, 1, 2, 3]


def of_parquet(root: Path, column: pa.Array, **keys: Any) -> Column:
    """The column of four images by a table in Parquet."""
    make.tree(root / "images", {"cat": 2, "dog": 2})
    pool = open_pool("source", "folder", {"path": str(root / "images")})
    parquet.write_table(pa.table({"path": pool.keys(np.arange(4)), "known": column}), root / "table.parquet")
    return column_of(pool, selection(column="known", table=str(root / "table.parquet"), **keys))


def test_what_parquet_calls_nothing_is_nothing(tmp_path):
    """Whole numbers and texts that pandas wrote with its own types of missing values, and dates."""
    whole = pa.array([3, None, 1, 2])
    assert of_parquet(tmp_path / "a", whole).present.tolist() == [True, False, True, True]
    assert of_parquet(tmp_path / "b", whole, at_least=None, matches="3").values.tolist() == ["3", "", "1", "2"]
    dates = pa.array([1, None, 2, 3], pa.timestamp("s"))
    column = of_parquet(tmp_path / "c", dates, at_least=None, matches="N")
    assert column.present.tolist() == [True, False, True, True]


def test_a_table_that_pandas_wrote_with_the_names_as_its_index(tmp_path):
    make.tree(tmp_path / "images", {"cat": 2, "dog": 2})
    pool, table = open_pool("source", "folder", {"path": str(tmp_path / "images")}), tmp_path / "table.parquet"
    known = pd.array(["a", None, "b", "c"], "string")
    pd.DataFrame({"path": pool.keys(np.arange(4)), "known": known}).set_index("path").to_parquet(table)
    column = column_of(pool, selection(column="known", table=str(table), at_least=None, matches="x"))
    assert column.values.tolist() == ["a", "", "b", "c"]


@pytest.mark.parametrize(
    ("column", "message"),
    [(pa.array([["dog"], ["cat", "dog"], [], None]), "lists or mappings"), (pa.array([b"dog"] * 4), "holds bytes")],
)
def test_what_is_neither_number_nor_text_is_refused(tmp_path, column, message):
    """A list of tags: its brackets would be matched."""
    with pytest.raises(UserError, match=message):
        of_parquet(tmp_path, column, at_least=None, matches="dog")


def test_a_column_travels_with_its_pool(tmp_path):
    pool = open_pool("source", "folder", {"path": str(listed(tmp_path)), "parents": ()})
    column = column_of(pool, selection())
    elsewhere = pickle.loads(pickle.dumps(pool))
    (tmp_path / "index.csv").unlink()
    assert column_of(elsewhere, selection()).values.tolist() == column.values.tolist()


def test_numbers_are_what_they_are_written_as_and_texts_for_nothing_are_none(tmp_path):
    cells = ["1", " 2.5 ", "-3e2", "nan", "NA", "", "None", "inf"]
    path = listed(tmp_path, dict(zip(SCORES, cells, strict=True)))
    pool = open_pool("source", "folder", {"path": str(path), "parents": ()})
    column = column_of(pool, selection())
    assert column.values[column.present].tolist() == [1, 2.5, -300, math.inf]


# --- mistakes


@pytest.mark.parametrize("cell", ["high", "1_000", "1,5", "True", "3 px"])
def test_text_where_numbers_are_needed_is_an_error(tmp_path, cell):
    path = listed(tmp_path, {**SCORES, "dog/3.jpg": cell})
    pool = open_pool("source", "folder", {"path": str(path), "parents": ()})
    with pytest.raises(UserError) as error:
        column_of(pool, selection())
    assert f"is not of numbers: {cell!r} (dog/3.jpg)" in str(error.value)
    column_of(pool, selection(at_least=None, matches="1"))


def twice(file: Path) -> str:
    columns = [pa.array(list(SCORES)), pa.array([1.0] * len(SCORES)), pa.array([2.0] * len(SCORES))]
    parquet.write_table(pa.Table.from_arrays(columns, ["path", "score", "score"]), file)
    return str(file)


def tables(root: Path) -> dict[str, tuple[Any, str]]:
    rows = [{"path": key, "score": str(score)} for key, score in SCORES.items()]

    def table(name: str, rows: list[dict[str, str]]) -> str:
        pd.DataFrame(rows).to_csv(root / name, index=False)
        return str(root / name)

    return {
        "a wrong key": (table("a.csv", [{**row, "path": f"photos/{row['path']}"} for row in rows]),
                        "none of its 8 paths is the name of an image of source photos: it has 'photos/cat/0.jpg', the "
                        "source 'cat/0.jpg'"),
        "a path twice": (table("b.csv", [*rows, rows[2]]), "b.csv:10: path 'cat/2.jpg' is there more than once"),
        "a path missing": (table("c.csv", rows[1:]), "has no value for 1 of the 8 images of source photos"),
        "no such column": (table("d.csv", [{"path": r["path"], "scor": r["score"]} for r in rows]),
                           "has no column 'score'; did you mean scor?"),
        "no path": (table("e.csv", [{"file": r["path"], "score": r["score"]} for r in rows]), "has no column 'path'"),
        "no file": (str(root / "f.csv"), "f.csv: no such file"),
        "a column twice": (twice(root / "g.parquet"), "g.parquet: has the column 'score' more than once"),
    }  # fmt: skip


@pytest.mark.slow
def test_a_wrong_table_is_one_line_at_the_key(tmp_path):
    path = listed(tmp_path)
    for table, message in tables(tmp_path).values():
        with pytest.raises(UserError) as error:
            keys_drawn(spec_of(path, {"column": "score", "top": 0.5, "table": table}))
        assert message in str(error.value)
        assert "pretrain.select" in str(error.value)
        assert len(error.value.problems) == 1


@pytest.mark.slow
def test_two_tables_of_one_name_would_be_one_level_of_the_regression(tmp_path):
    path, tables = listed(tmp_path), []
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        tables.append(str(tmp_path / folder / "scores.csv"))
        pd.DataFrame({"path": list(SCORES), "score": range(len(SCORES))}).to_csv(tables[-1], index=False)
    with pytest.raises(UserError) as error:
        keys_drawn(spec_of(path, {"column": "score", "top": 0.5, "table": {"grid": tables}}))
    assert f"{tables[0]} and {tables[1]} have one name" in str(error.value)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"column": "scoer", "top": 0.5}, "has no column 'scoer'; did you mean score?"),
        ({"column": "score", "top": 0.5, "source": "photo"}, "'photo' is no source here; did you mean photos?"),
        (
            {"column": "score", "at_least": 99},
            "no image of source photos has score at least 99; its values go from 0 to",
        ),
    ],
)
def test_what_the_source_does_not_have_is_one_line(tmp_path, select, message):
    with pytest.raises(UserError) as error:
        keys_drawn(spec_of(listed(tmp_path), select))
    assert message in str(error.value)
    assert len(error.value.problems) == 1


def test_a_source_without_columns_says_how_to_give_some(tmp_path):
    spec = spec_of(listed(tmp_path), {"column": "score", "top": 0.5})
    spec["pretrain"]["sources"] = {"species": 1}
    with pytest.raises(
        UserError, match="source species has no columns beside its labels; name a file with the columns"
    ):
        keys_drawn(spec)


# --- in a sweep


def test_counts_of_a_plan_are_those_of_pandas(tmp_path):
    path = listed(tmp_path)
    frame = pd.read_csv(path)
    select = {"column": "score", "top": {"grid": [0.25, 0.5, 1]}, "random": {"grid": [False, True]}}
    drawn = keys_drawn(spec_of(path, select))
    for share in (0.25, 0.5, 1):
        wanted = len(frame.nlargest(math.ceil(share * len(frame)), "score"))
        for random in (False, True):
            assert drawn[f"select.top={share}, select.random={random}"] == wanted
    limits = keys_drawn(spec_of(path, {"column": "score", "at_least": {"grid": [1, 12]}}))
    assert limits == {f"select.at_least={low}": int((frame["score"] >= low).sum()) for low in (1, 12)}


def ids(path: Path, select: Any, **keys: Any) -> list[str]:
    forget_pools()
    return [trial.key for trial in open_sweep(load_spec(spec_of(path, select, **keys))).plan]


@pytest.mark.slow
def test_a_trial_is_named_by_the_values_and_not_by_their_file(tmp_path):
    rows = [{"path": key, "score": str(score)} for key, score in SCORES.items()]
    path, tables = listed(tmp_path), [tmp_path / "one.csv", tmp_path / "two.csv", tmp_path / "three.csv"]
    for i, table in enumerate(tables):
        changed = [{**rows[0], "score": "5"}, *rows[1:]] if i == 2 else rows[:: -1 if i else 1]
        pd.DataFrame(changed).to_csv(table, index=False)
    select = {"column": "score", "top": 0.5}
    own, one, two, three = (ids(path, {**select, **more}) for more in ({}, *({"table": str(t)} for t in tables)))
    assert own == one == two != three
    assert (
        len({*own, *ids(path, {**select, "random": True}), *ids(path, "all"), *ids(path, {**select, "top": 0.25})}) == 4
    )


@pytest.mark.slow
def test_a_trial_writes_what_it_selected_and_which_labels_are_wrong(tmp_path):
    torch.set_num_threads(1)
    spec = spec_of(listed(tmp_path), {"column": "score", "top": 0.5, "per_class": True}, label_noise=0.5)
    few = dict.fromkeys([f"{split}_images" for split in ("train", "id_val", "id_test", "ood_val", "ood_test")], 80)
    spec |= {"task": {"name": "camera-traps", **few}, "finetune": {"epochs": 1}}
    sweep = open_sweep(load_spec(spec))
    jobs = decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))
    ingest([job[1:] for job in jobs], tmp_path / "store")
    (trial,) = open_sweep(load_spec(spec)).plan  # its files are read now
    paths = RunPaths(str(tmp_path / "run"), str(tmp_path / "checkpoints"), str(tmp_path / "store"))
    run_trial(trial, paths, Context())
    folder = RunFolder(paths.run).trial(trial.id)
    assert folder.failure() is None
    subset = pd.read_parquet(tmp_path / "run/trials" / trial.id / "subset.parquet")
    assert sorted(subset["image"]) == ["cat/2.jpg", "cat/3.jpg", "dog/2.jpg", "dog/3.jpg"]
    assert (subset["true_label"] == subset["image"].str.partition("/")[0]).all()
    assert (subset["label"].astype(str) != subset["true_label"].astype(str)).sum() == 2
    part = json.loads(folder.storage.read("trial.json"))["composition"][0]
    assert (part["selected"], part["wrong_labels"], part["select"]) == (4, 2, "score top 0.5 per class")
    row = json.loads(folder.storage.read("rows.jsonl").splitlines()[0])
    assert (row["select"], row["label_noise"], row["dedupe"]) == ("score top 0.5 per class", "0.5", None)


def test_a_sweep_without_a_control_says_that_sizes_differ(tmp_path):
    select = {"column": "score", "top": {"grid": [0.5, 1]}}
    for keys, said in (({}, True), ({"num_images": 4}, False)):
        forget_pools()
        notes = open_sweep(load_spec(spec_of(listed(tmp_path), select, **keys))).notes
        assert any("mixtures differ in their number of images" in note for note in notes) == said


@pytest.mark.slow
def test_two_lists_of_classes_that_results_call_alike_are_told():
    names = sorted(open_pool("source", "species", {}).catalog.classes)
    lists = [names[:4], [*names[:3], names[4]], names[:2]]
    for choices, told in ((lists, 1), (lists[1:], 0)):
        forget_pools()
        spec = {"task": {"name": "camera-traps"}, "baseline": "none",
                "model": {"name": "test_byobnet", "image_size": 16},
                "pretrain": {"sources": {"species": 1.0}, "num_images": 40, "epochs": 1, "match": False,
                             "classes": {"grid": choices}}}  # fmt: skip
        notes = [note for note in open_sweep(load_spec(spec)).notes if "in results" in note]
        assert len(notes) == told
        assert all(f"classes: 2 choices are called '4 classes ({names[0]} ...)'" in note for note in notes)
