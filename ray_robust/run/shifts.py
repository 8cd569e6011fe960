"""Names of the tests of a fine-tuning beyond the task's own: `shift:<name>`, a further labelled test set, and
`id_test:<name>`, those images of id_test whose classes the shift has, where it lacks some of the task's.

Column `split` of predictions/ and groups/ has them, column `shift` of the results the name alone. A further ID test set
is tested and kept likewise, under the name `id:<name>`, which no shift can have.
"""

from __future__ import annotations

import re

from ray_robust.run.results_schema import SCORE_SPLITS

# tasks in whose OOD test every group is a shift by itself: a domain, a region of the world
OF_GROUPS = ("domains", "domainnet", "pacs", "wilds:fmow")
OWN = "ood"  # the task's own OOD test, in the column `shift`
_TEST, _ID, _ID_SET = "shift:", "id_test:", "id:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")


def test_of(shift: str) -> str:
    """Return the name of a shift's test."""
    return _TEST + shift


def id_test_of(shift: str) -> str:
    """Return the name of the ID images of its classes."""
    return _ID + shift


def shift_of(test: str) -> str:
    """Return the shift that a test is of; "" where the name is that of no shift's test."""
    return test.removeprefix(_TEST) if test.startswith(_TEST) else ""


def of_id_set(name: str) -> str:
    """Return the name that a further ID test set has among the shifts."""
    return _ID_SET + name


def id_set_of(shift: str) -> str:
    """Return the further ID test set of such a name; "" for a shift."""
    return shift.removeprefix(_ID_SET) if shift.startswith(_ID_SET) else ""


def named(test: str) -> str:
    """Return how a sentence names a test: `shift v2`, `ID set web`, `id_test of shift v2`, any other as it is."""
    if test.startswith(_ID):
        return f"{SCORE_SPLITS['id']} of shift {test.removeprefix(_ID)}"
    shift = shift_of(test)
    return f"ID set {id_set_of(shift)}" if id_set_of(shift) else f"shift {shift}" if shift else test


def tests_of(shift: str, some_classes: bool) -> dict[str, str]:
    """Return the test that each score of a shift is on, `id` and `ood`; `some_classes` where the shift lacks some of
    the task's classes."""
    if shift == OWN:
        return dict(SCORE_SPLITS)
    return {"id": id_test_of(shift) if some_classes else SCORE_SPLITS["id"], "ood": test_of(shift)}


def is_name(text: str) -> bool:
    """Return whether a shift may have this name: letters, digits and ``. _ + -``, at most 40."""
    return _NAME.fullmatch(text) is not None
