"""Ray Tune's scheduler that asks Optuna's pruner after every block."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from keystep.search.settings.suggest import KeystepSearch


class AskPruner(FIFOScheduler):
    """Hands every block's outcomes to the search, and stops the trials that its pruner gives up.

    Ray Tune calls the scheduler with every result but a trial's last one, which comes with its completion; a result
    that comes twice (a trial restored after its worker died) counts once.
    """

    def __init__(self, search: KeystepSearch):
        super().__init__()
        self._search = search

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """None: Ray Tune then gives a process that is free to a trial that has none.

        A trial named here, or the oldest one as `FIFOScheduler` has it, takes the free process even if its own is still
        starting, and that one is killed: while trials are shorter than a process's start, none but the first would ever
        get there.
        """
        return None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        stop = self._search.see_block(trial.trial_id, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        if "block" in result:
            self._search.see_block(trial.trial_id, result, last=True)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._search.note_error(trial.trial_id, _error_of(trial))


def _error_of(trial: Trial) -> str:
    """From the folder of Ray Tune's own process: it reaches the storage later."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return "its worker died"
    try:
        error = pickle.loads(Path(path).read_bytes())
    except Exception as unreadable:  # what unpickling a stranger's exception class raises is anyone's guess
        return f"its worker failed with an error that cannot be read ({unreadable})"
    return f"{type(error.cause).__name__}: {error.cause}" if isinstance(error, RayTaskError) else "its worker died"
