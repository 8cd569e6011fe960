"""Words of checks: every check of a claim has words, and a claim that fails one ends with where it does not hold."""

from __future__ import annotations

from analysis.stats.check_words import CASES, does_not_hold, holds, with_failures
from analysis.stats.sensitivity import CHECKS, MISSING_TRIALS


def test_every_check_has_words():
    assert set(CASES) == {*CHECKS, MISSING_TRIALS}
    for check in CHECKS:
        assert "robust" not in holds([check], "trial") + does_not_hold([check], "trial")


def test_a_claim_ends_with_where_it_does_not_hold():
    text = with_failures("a against b: no effect within 2 points.", ["a curve", "unequal noise"], "trial")
    assert text == (
        "a against b: no effect within 2 points; this does not hold if the baseline's line is curved, nor with "
        "unequal scatter allowed for."
    )
    assert with_failures("A gain. Not at equal cost.", ["any one trial"], "row") == (
        "A gain. Not at equal cost. The claim does not hold with one row left out."
    )


def test_where_a_claim_holds_too():
    assert holds(["other scales", "any one trial"], "row") == (
        "Stays true on other axes and whichever single row is left out"
    )
    assert holds([], "trial") == ""
