"""Do the files of weights that trials begin from fit their models? Asked when a sweep is planned."""

from __future__ import annotations

from ray_robust.data.weights import find_weights
from ray_robust.errors import Problem, UserError
from ray_robust.plan.plan import Plan
from ray_robust.spec.load import Spec
from ray_robust.train.exceptions import TrainingFailed


def check_weights(spec: Spec, plan: Plan) -> list[str]:
    """Return a note on every file of weights with every model that it is loaded into.

    Raise UserError where a file fits none of them; where it fits some, a note says which trials will fail.
    """
    pairs = {
        (trial.pretrain.weights, trial.model.name): trial.model
        for trial in plan
        if trial.pretrain is not None and trial.pretrain.weights
    }
    fitting: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    for (text, _), section in pairs.items():
        weights = find_weights(text)
        if weights.kind != "file":
            continue
        from ray_robust.train.methods.weights import preview  # late: most sweeps have no such files

        try:
            loaded = preview(section, weights.name)
        except TrainingFailed as error:
            refused.setdefault(text, []).append(str(error))
            continue
        untried = f"{text} was not tried on {section.name}, which cannot be built without memory for its weights"
        lines = (*loaded.notes, *loaded.warnings) if loaded else (untried,)
        fitting.setdefault(text, []).extend(f"weights: {line}" for line in lines)
    location = spec.location("pretrain", "weights")
    if problems := [Problem(location, f"pretrain.weights: {lines[0]}") for text, lines in refused.items()
                    if text not in fitting]:  # fmt: skip
        raise UserError(*problems)
    failing = [f"weights: its trials will fail: {line}" for lines in refused.values() for line in lines]
    return [line for lines in fitting.values() for line in lines] + failing
