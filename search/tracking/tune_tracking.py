"""Tells the tracker what Ray Tune's trials do."""

from typing import Any

from ray import tune

from keystep.core.config import Refinement
from keystep.search.settings.suggest import outcomes_of
from keystep.search.tracking.tracker import Tracker


class TuneTracking(tune.Callback):
    """Forwards beginnings and blocks; how a trial ended is known to the search, which tells the tracker itself.

    A trial's config has its `slot` and `refinement`; a result has the `outcomes` of one block, and `num_instances`
    seen so far.
    """

    def __init__(self, tracker: Tracker):
        self._tracker = tracker

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tracker.trial_started(trial.config["slot"], _refinement(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        outcomes = outcomes_of(result)
        self._tracker.block(trial.config["slot"], _refinement(trial), outcomes, result["num_instances"])


def _refinement(trial: Any) -> Refinement:
    return Refinement.model_validate(trial.config["refinement"] or {})
