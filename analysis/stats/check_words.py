"""In which case a claim holds or does not, in words for people, by the names of the checks of `stats.sensitivity`.

"Robust" is the word of the study's question, of models under shift; a claim "holds" or "does not hold" in a check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.formatting import listed
from analysis.stats import sensitivity

CASES: Mapping[str, str] = {
    "a curve": "if the baseline's line is curved",
    sensitivity.ERRORS: "with errors in ID scores corrected for",
    sensitivity.SCHEDULE: "with epochs and learning rates allowed for",
    "unequal noise": "with unequal scatter allowed for",
    "other scales": "on other axes",
    sensitivity.ONE_TRIAL: "whichever single {unit} is left out",
    sensitivity.ONE_LEVEL: "whichever single level is left out",
    sensitivity.DUPLICATES: "without duplicate test images",
    sensitivity.MISSING_TRIALS: "before the missing trials are in",
}
FAILED = {
    sensitivity.ONE_TRIAL: "with one {unit} left out",
    sensitivity.ONE_LEVEL: "with one level left out",
}


def holds(checks: Sequence[str], unit: str) -> str:
    """Return where a claim holds too: `Stays true on other axes and whichever single trial is left out`; "" without
    checks. `unit` is what one cluster is called: of a table a row."""
    return f"Stays true {listed([CASES.get(check, check).format(unit=unit) for check in checks])}" if checks else ""


def does_not_hold(checks: Sequence[str], unit: str) -> str:
    """Return where a claim does not hold: `does not hold if the baseline's line is curved, nor on other axes`."""
    cases = [{**CASES, **FAILED}.get(check, check).format(unit=unit) for check in checks]
    return f"does not hold {', nor '.join(cases)}"


def with_failures(text: str, checks: Sequence[str], unit: str) -> str:
    """Return a claim's sentence with the checks that it fails: as its end, after several sentences as one more."""
    what = does_not_hold(checks, unit)
    return f"{text} The claim {what}." if ". " in text else f"{text.removesuffix('.')}; this {what}."
