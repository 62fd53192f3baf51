"""What a search knew when it chose a setting: the same whatever the number of workers, the timing and the restarts."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from optuna import Study
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from keystep.search.settings.ledger import Ledger
from keystep.search.settings.paired_pruner import PairedPruner
from keystep.search.settings.past import LookingBack, Past, Remembered
from keystep.search.settings.pruning import Pruning

Shown = Callable[[Mapping[int, float]], dict[int, float]]


def derived_seed(seed: int, slot: int) -> int:
    """Seed of what is drawn for one slot, in [0, 2**32)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{slot}".encode()).digest()[:4])


def as_of(
    ledger: Ledger,
    slot: int,
    lookahead: int,
    shown: Shown,
    past: Past,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    failed: Collection[int] = (),
) -> Study:
    """A study in memory with what is known of slots 0..slot-1 when `slot` is chosen; its next trial has that number.

    Slots up to `slot - lookahead` must have ended and are there as they ended; of later ones only the settings
    are, RUNNING, ended or not: how far they have come is a matter of timing.

    Args:
        shown: the intermediate values to show, of outcomes by instance number.
        past: of earlier calls with the same `shown`; this call adds to it.
        failed: slots that have failed without the ledger being told yet.
    """
    ended = max(0, slot - lookahead + 1)
    for number in range(len(past), ended):
        past.add(_remembered(ledger, number, shown, failed))
    for number in range(ended, slot):
        if number not in past.begun:
            past.begun[number] = _as_seen(
                number, create_trial(state=TrialState.RUNNING, **_setting(ledger.trial(number)))
            )
    storage = LookingBack(ledger.study.study_name, past, ended, [past.begun[number] for number in range(ended, slot)])
    return Study(ledger.study.study_name, storage, sampler=sampler or RandomSampler(), pruner=pruner)


def _remembered(ledger: Ledger, number: int, shown: Shown, failed: Collection[int]) -> Remembered:
    trial = ledger.trial(number)
    state = TrialState.FAIL if number in failed else trial.state
    assert state.is_finished(), f"slot {number} is looked back on, but has not ended"
    facts: dict[str, Any] = {}
    if state != TrialState.FAIL:
        values = shown(trial.intermediate_values)
        if values == trial.intermediate_values:
            values = trial.intermediate_values  # which never change: one of them will do
        facts = {"value": trial.user_attrs["tiam"], "system_attrs": trial.system_attrs, "intermediate_values": values}
    return _as_seen(number, create_trial(state=state, **facts, **_setting(trial)))


def _as_seen(number: int, trial: FrozenTrial) -> Remembered:
    return Remembered(
        number=number,
        trial_id=number,
        state=trial.state,
        value=trial.value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )


def _setting(trial: FrozenTrial) -> dict[str, Any]:
    return {"params": trial.params, "distributions": trial.distributions}


class Watch:
    """One trial under its pruner's eyes: told block after block, in a study as of the slot's choice.

    Args:
        name: of the pruner, for the reason.
        last_numbers: the last instance number of each block, in order: where a curve has its points.
        past: of earlier watches of the same search.
        num_prompts: how many prompts outcomes by instance number hold whole.
        min_prompts: prompts seen before the pruner is asked.
    """

    def __init__(
        self,
        ledger: Ledger,
        slot: int,
        lookahead: int,
        pruning: Pruning,
        past: Past,
        *,
        name: str,
        last_numbers: tuple[int, ...],
        num_prompts: Callable[[Collection[int]], int],
        min_prompts: int,
        failed: Collection[int] = (),
    ):
        self.slot = slot
        self._pruning, self._name = pruning, name
        self._ledger, self._last_numbers = ledger, last_numbers
        self._num_prompts, self._min_prompts = num_prompts, min_prompts
        study = as_of(ledger, slot, lookahead, self._shown, past, pruner=pruning.pruner, failed=failed)
        self._trial = Trial(study, study._storage.create_new_trial(study._study_id))
        self._reported: set[int] = set()
        self._seen: dict[int, float] = {}

    def _shown(self, values: Mapping[int, float], told: Collection[int] = ()) -> dict[int, float]:
        """By step, but for the steps that are told already."""
        if self._pruning.sees == "outcomes":
            return {number: value for number, value in values.items() if number not in told}
        points = [last for last in self._last_numbers if last in values and last not in told]
        return {last: self._ledger.objective({n: v for n, v in values.items() if n <= last}) for last in points}

    def see(self, outcomes: Mapping[int, float], ask: bool = True) -> str | None:
        """Report a block's outcomes and ask the pruner; why the trial is to be stopped, None if it is to go on."""
        if outcomes.keys() <= self._seen.keys():
            return None
        self._seen |= outcomes
        for step, value in self._shown(self._seen, self._reported).items():
            self._trial.report(value, step)
            self._reported.add(step)
        if not ask or self._num_prompts(self._seen) < self._min_prompts or not self._trial.should_prune():
            return None
        return self._reason()

    def _reason(self) -> str:
        pruner, study = self._pruning.pruner, self._trial.study
        if isinstance(pruner, PairedPruner):
            return str(pruner.verdict(study, self._frozen))
        return f"{self._name}: {self._ledger.objective(self._seen):.3f} after {len(self._seen)} instances"

    @property
    def attributes(self) -> dict[str, Any]:
        """What the pruner noted on the trial, for those that come after."""
        return dict(self._frozen.system_attrs)

    @property
    def _frozen(self) -> FrozenTrial:
        return self._trial.study.get_trials(deepcopy=False)[self.slot]


def last_value(objective: Callable[[Mapping[int, float]], float]) -> Shown:
    """Shows one intermediate value, the objective of what a trial saw: what samplers rank pruned trials by."""
    return lambda values: {max(values): objective(values)} if values else {}
