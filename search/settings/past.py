"""What is known of the trials before a slot, as Optuna's samplers and pruners read it: kept once for all slots."""

import copy
import datetime
from bisect import bisect_left
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

STUDY = 0  # the id of a storage's only study


class Remembered(FrozenTrial):
    """A trial as later slots see it. All studies that look back on it hold this one, since it never changes: copies of
    all trials for every slot would make the driver's time and memory grow with their square."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remembered":
        return self


class Past:
    """The trials that have ended, by slot, and those that are known to have begun."""

    def __init__(self) -> None:
        self.begun: dict[int, Remembered] = {}
        self._ended: list[Remembered] = []
        self._of_state: dict[TrialState, list[Remembered]] = {}

    def __len__(self) -> int:
        """Slots below have ended."""
        return len(self._ended)

    def add(self, trial: Remembered) -> None:
        """The next slot has ended."""
        self._ended.append(trial)
        self._of_state.setdefault(trial.state, []).append(trial)
        self.begun.pop(trial.number, None)

    def __getitem__(self, slot: int) -> Remembered:
        return self._ended[slot]

    def before(self, slot: int, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """Those below a slot, in order; only those in one of the states, if given."""
        if states is None:
            return list(self._ended[:slot])
        found = [trials for state, trials in self._of_state.items() if state in states]
        if len(found) > 1:
            return [trial for trial in self._ended[:slot] if trial.state in states]
        return [trial for trials in found for trial in trials[: bisect_left(trials, slot, key=_number)]]


class LookingBack(BaseStorage):
    """A study in memory that begins with trials which nobody changes. Ids of trials are their numbers.

    A storage of Optuna's would take them one by one, anew for every slot.

    Args:
        name: of the study.
        past: holds the trials below `ended`.
        ended: how many of them there are.
        begun: the trials after them, RUNNING.
    """

    def __init__(self, name: str, past: Past, ended: int, begun: Sequence[FrozenTrial]):
        self._name, self._past, self._ended = name, past, ended
        self._later = list(begun)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        later = [trial for trial in self._later if states is None or trial.state in states]
        found = self._past.before(self._ended, states) + later
        return copy.deepcopy(found) if deepcopy else found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._past[trial_id] if trial_id < self._ended else self._later[trial_id - self._ended]

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        assert template_trial is None, "the past is known from the beginning"
        number = self._ended + len(self._later)
        facts: dict[str, Any] = dict.fromkeys(("value", "datetime_complete"))
        for name in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
            facts[name] = {}
        began = datetime.datetime.now()
        trial = FrozenTrial(number=number, trial_id=number, state=TrialState.RUNNING, datetime_start=began, **facts)
        self._later.append(trial)
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._changed(trial_id)
        trial.params = trial.params | {param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = trial.distributions | {param_name: distribution}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        trial = self._changed(trial_id)
        trial.state = state
        if values is not None:
            trial.values = list(values)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._changed(trial_id)
        trial.intermediate_values = trial.intermediate_values | {step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._changed(trial_id)
        trial.user_attrs = trial.user_attrs | {key: value}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._changed(trial_id)
        trial.system_attrs = trial.system_attrs | {key: value}

    def get_study_id_from_name(self, study_name: str) -> int:
        return STUDY

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return {}

    def get_all_studies(self) -> list[FrozenStudy]:
        return [FrozenStudy(self._name, None, {}, {}, STUDY, directions=self.get_study_directions(STUDY))]

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        raise NotImplementedError("it holds one study")

    def delete_study(self, study_id: int) -> None:
        raise NotImplementedError("it holds one study")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        raise NotImplementedError("nothing is noted on a study that looks back")

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        raise NotImplementedError("nothing is noted on a study that looks back")

    def _changed(self, trial_id: int) -> FrozenTrial:
        """A copy in the trial's place: who holds the trial as it was still does."""
        assert trial_id >= self._ended, f"trial {trial_id} has ended"
        trial = self._later[trial_id - self._ended] = copy.copy(self._later[trial_id - self._ended])
        return trial


def _number(trial: FrozenTrial) -> int:
    return trial.number
