"""Checks of the labels, groups and splits in a table of images: errors, and warnings about what may be one.

Empty names, splits that lack images, labels that cannot be learned, names that look alike, and classes that are named
like splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from ray_robust.data.pool import SPLITS
from ray_robust.data.readers.table import Table, first_few
from ray_robust.errors import Problem, did_you_mean
from ray_robust.text.names import count_noun, describe_difference, is_missing, lookalikes, quoted

RANK = "rank "  # begins the name of a column of coarser labels
SHOWN = 5  # sets of names of one kind that are told one by one; the rest are counted
TRAINING = ("train", "training")  # of SPLIT_NAMES, those that are trained on
SPLIT_NAMES = frozenset(
    (*SPLITS, *TRAINING, "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "holdout")
)


def check_labels(table: Table, whole: Table | None = None) -> Iterator[Problem]:
    """Yield what is wrong with the labels of `table` and, of all images, with their groups: those of `whole` where it
    has more of them, without a label, hence without ranks, which are the label's."""
    frame = table.frame
    for column, word in (
        ("label", "label"),
        ("group", "group"),
        *((f"rank {r}", f"column {r!r}") for r in table.ranks),
    ):
        of = whole if whole is not None and column == "group" else table
        if column in of.frame:
            empty = np.flatnonzero((of.frame[column] == "").to_numpy(bool))

            def what(i: int, word: str = word, of: Table = of) -> str:
                return f"{of.frame['key'].iloc[i]}: the {word} is empty"

            yield from of.at_rows(empty, what)
    names = frame["label"][frame["label"] != ""].unique()
    if len(names) == 0 and not table.problems:
        yield Problem(table.where, "lists no images")
    elif len(names) == 1:
        yield Problem(table.where, f"has a single class, {names[0]!r}: at least two are needed")
    for rank in table.ranks:
        pairs = frame[["label", f"rank {rank}"]].drop_duplicates()
        twice = sorted(pairs["label"][pairs["label"].duplicated()].unique())
        for label in twice[:3]:
            parents = sorted(pairs[f"rank {rank}"][pairs["label"] == label])
            more = f" (and {len(twice) - 3} more labels)" if label == twice[2:3] else ""
            yield Problem(
                table.where,
                f"column {rank!r} gives label {label!r} {len(parents)} parents ({', '.join(map(repr, parents[:3]))})"
                f"{more}: a label has one; leave the column out with `parents`",
            )


def check_splits(table: Table, drop_unseen: bool, unlabelled: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with the splits; `unlabelled` where the OOD test has no labels: `ood_val` may then be
    absent."""
    frame = table.frame
    counts = frame["split"].value_counts()
    for name in sorted(set(counts.index) - set(SPLITS)):
        row = int(np.flatnonzero((frame["split"] == name).to_numpy(bool))[0])
        where = f"{table.where}:{table.line(frame['line'].iloc[row])}" if table.lines is not None else table.where
        what = (
            f"unknown split {name!r} ({counts[name]} images)" if name else f"the split is empty ({counts[name]} images)"
        )
        yield Problem(where, what + did_you_mean(name, SPLITS))
    if not len(frame):
        return
    lacking = [name for name in SPLITS if name not in counts.index and not (unlabelled and name == "ood_val")]
    if {"ood_val", "ood_test"} <= set(lacking):
        yield Problem(table.where, "has no OOD split: a task needs images in ood_val and ood_test")
        lacking = [name for name in lacking if not name.startswith("ood")]
    for name in lacking:
        yield Problem(table.where, f"has no images in split {name}: a task needs {', '.join(SPLITS)}")
    if "train" in lacking:
        return
    other_form = [*lost_to_form(frame, table.where)]
    yield from first_few(len(other_form), lambda i: other_form[i])
    if drop_unseen or other_form:
        return
    learned = set(frame["label"][frame["split"] == "train"])
    unseen = sorted(set(frame["label"]) - learned - {""})
    for label in unseen[:5]:
        of_label = frame["label"] == label
        splits = [name for name in SPLITS if (of_label & (frame["split"] == name)).any()]
        yield Problem(
            table.where,
            f"label {label!r} is only in {', '.join(splits)} ({of_label.sum()} images), so it cannot be learned; "
            "give it images in train, or leave such labels out with `unseen: drop`",
        )
    if len(unseen) > 5:
        yield Problem(table.where, f"and {len(unseen) - 5} more labels that train lacks")


# --- names that look alike


def label_warnings(frame: pd.DataFrame, where: str) -> tuple[str, ...]:
    """Return what may be a mistake in the columns label, group and `rank <name>` of the images at `where`, a sentence
    each."""
    warnings: list[str] = []
    ranks = {column: f"names of the rank {column[len(RANK) :]}" for column in frame if str(column).startswith(RANK)}
    for column, word in {"label": "labels", "group": "groups", **ranks}.items():
        if column not in frame:
            continue
        counts = frame[column].astype(str).value_counts(sort=False).drop("", errors="ignore")  # "" without a label
        sets = lookalikes(sorted(counts.index))
        for same in sets[:SHOWN]:
            listed = ", ".join(f"{quoted(name)} ({count_noun(counts[name], 'image')})" for name in same)
            warnings.append(
                f"{word} that look alike count as different: {listed}; they differ in {describe_difference(same)}"
            )
        if len(sets) > SHOWN:
            warnings.append(f"and {len(sets) - SHOWN} more sets of {word} that look alike")
        for name in sorted(name for name in counts.index if is_missing(name)):
            warnings.append(
                f"the {column} {name!r} ({count_noun(counts[name], 'image')}) counts as a name, not as a missing value"
            )
    return (*warnings, *_split_name_warnings(frame, where))


def split_warnings(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return what makes the OOD test something else than it seems, a sentence each: groups that training has as well,
    and labels that only one of the two tests has. `frame` has the columns label, split and perhaps group, as text."""
    return (*(_leaking_groups(frame) if "group" in frame else ()), *_uneven_labels(frame))


def _leaking_groups(frame: pd.DataFrame) -> Iterator[str]:
    counts = pd.crosstab(frame["group"], frame["split"]).reindex(columns=list(SPLITS), fill_value=0)
    for split in ("ood_val", "ood_test"):
        shared = counts[(counts["train"] > 0) & (counts[split] > 0)]
        if not shared.empty:
            listed = [f"{quoted(str(g))} ({row['train']} and {row[split]} images)" for g, row in shared.iterrows()]
            yield (
                f"{_first(listed)} {'is a group' if len(listed) == 1 else 'are groups'} of train and of {split}: their "
                "OOD images come from what was trained on. Give every group one split, or name another column as group "
                "if it is not what shifts"
            )


def _uneven_labels(frame: pd.DataFrame) -> Iterator[str]:
    if (frame["label"] == "").any():  # the OOD test has no labels
        return
    counts = pd.crosstab(frame["label"], frame["split"]).reindex(columns=list(SPLITS), fill_value=0)
    for lacking, other in (("ood_test", "id_test"), ("id_test", "ood_test")):
        only = counts[(counts[lacking] == 0) & (counts[other] > 0)]
        if not only.empty:
            listed = [f"{quoted(str(label))} ({count_noun(row[other], 'image')})" for label, row in only.iterrows()]
            yield (
                f"{other} has labels that {lacking} lacks, {_first(listed)}: ID and OOD scores are over different "
                "labels. Give both tests images of each, or leave such labels out"
            )


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def lost_to_form(frame: pd.DataFrame, where: str) -> Iterator[Problem]:
    """Yield labels that train lacks only because it writes them in another way."""
    learned = frame["label"][frame["split"] == "train"].unique()
    counts = frame["label"].value_counts()
    for name, in_train in other_forms(counts.index, learned):
        own = frame["split"][frame["label"] == name]
        splits = ", ".join(split for split in SPLITS if (own == split).any())
        many, other = count_noun(counts[name], "image"), quoted(in_train)
        yield Problem(
            where,
            f"label {quoted(name)} of {splits} ({many}) is {other} in train: they differ in "
            f"{describe_difference([in_train, name])}; write both the same way",
        )


def other_forms(names: Iterable[str], learned: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield those of `names` that are none of `learned`, but look like one; and that one."""
    learned = dict.fromkeys(learned)
    for same in lookalikes([*learned, *names]):
        if learned.keys() & set(same):
            first = next(name for name in same if name in learned)
            yield from ((name, first) for name in same if name not in learned)


# --- classes that are called like splits


def check_split_names(table: Table) -> Iterator[Problem]:
    """Yield a problem where all classes of a source are called like splits: it is the folder above them."""
    names = sorted(table.frame["label"].unique())
    if not names or not all(map(_like_split, names)):
        return
    if table.lines is not None:
        right = "name the column of the labels with `label`"
    else:
        training = [name for name in names if name.strip().lower() in TRAINING] or names
        right = f"to pre-train on one of them, give {table.where}/{training[0]}"
    what = "its class" if len(names) == 1 else "its classes"
    verb = "is called like a split" if len(names) == 1 else "are called like splits"
    yield Problem(table.where, f"{what} {', '.join(names)} {verb}; {right}")


def _split_name_warnings(frame: pd.DataFrame, where: str) -> Iterator[str]:
    """Yield some classes called like splits: two or more, or one that holds half of the images or has folders in it."""
    counts = frame["label"].value_counts()
    names = sorted(filter(_like_split, counts.index))
    if not names:
        return
    own = frame["key"][frame["label"].isin(names)]
    nested = (own.str.partition("/")[0].isin(names) & (own.str.count("/") > 1)).all()
    if len(names) > 1 or nested or counts[names].sum() * 2 >= len(frame):
        what = f"class {names[0]} is" if len(names) == 1 else f"classes {', '.join(names)} are"
        first = next((name for name in names if name.strip().lower() in TRAINING), names[0])
        yield f"{what} called like splits: if they are, the images of one lie in {where}/{first}"


def _like_split(name: str) -> bool:
    return name.strip().lower().replace("-", "_").replace(" ", "_") in SPLIT_NAMES
