"""Tells the tracker what Ray Tune's trials do."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from core.config import Refinement
from search.tracking import Tracker


class TuneTracking(tune.Callback):
    """Forwards beginnings and blocks; how a trial ended is known to the search, which tells the tracker itself.

    A trial's config has its `slot` and `refinement`; a result has `outcomes` (instance number to outcome) of one
    block, and `num_instances` seen so far.
    """

    def __init__(self, tracker: Tracker):
        self._tracker = tracker

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tracker.trial_started(trial.config["slot"], _refinement(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        outcomes = _outcomes(result)
        self._tracker.block(trial.config["slot"], _refinement(trial), outcomes, result["num_instances"])


def _refinement(trial: Any) -> Refinement:
    return Refinement.model_validate(trial.config["refinement"] or {})


def _outcomes(result: Mapping[str, Any]) -> dict[int, float]:
    """The outcomes in a result, nested or flattened to `outcomes/7`."""
    if "outcomes" in result:
        return {int(number): float(value) for number, value in result["outcomes"].items()}
    prefix = "outcomes/"
    return {int(key.removeprefix(prefix)): float(value) for key, value in result.items() if key.startswith(prefix)}
