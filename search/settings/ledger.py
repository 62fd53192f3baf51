"""What became of each trial of a search, kept in an Optuna study that survives the process."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from keystep.core.config import Refinement

State = Literal["running", "complete", "pruned", "failed"]
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_TOLD = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a search.

    Attributes:
        slot: its place in the search's sequence of settings, from 0; also its number in the Optuna study.
        refinement: the setting.
        params: the setting as the search space has it.
        state: "complete" if it saw all instances; "running" if the search was stopped meanwhile.
        values: instance number to outcome.
        tiam: the objective over those, once it has ended.
        reason: why it was pruned, or the error that it failed with; empty otherwise.
        evaluations: of the denoiser, spent.
        evaluations_alone: what the same images would have cost made each from noise.
        seconds: its worker's.
    """

    slot: int
    refinement: Refinement
    params: dict[str, Any]
    state: State
    values: dict[int, float] = field(default_factory=dict)
    tiam: float | None = None
    reason: str = ""
    evaluations: float = 0.0
    evaluations_alone: float = 0.0
    seconds: float = 0.0


class Batching(Protocol):
    """A log that can take several appends as one: see `keystep.search.settings.journal`."""

    def batch(self) -> AbstractContextManager[None]:
        """While open, appends are collected; they are written together when it closes."""
        ...


class Ledger:
    """The trials of one search, in an Optuna study: slot n is the study's trial n.

    A trial begins RUNNING with its parameters, gets its outcomes block after block (step = instance number), and
    is told its end once. Each of these is one append to the study's log: after a kill it is there or it is not.

    Args:
        study: of this search; no one else writes it.
        storage, journal: where it is kept.
        objective: of outcomes by instance number, some or all.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        journal: Batching,
        objective: Callable[[Mapping[int, float]], float],
    ):
        self.study, self.objective = study, objective
        self._storage, self._journal = storage, journal
        self._ids = [trial._trial_id for trial in study.get_trials(deepcopy=False)]

    def __len__(self) -> int:
        """Slots begun."""
        return len(self._ids)

    def trial(self, slot: int) -> FrozenTrial:
        """The study's trial, not to be changed."""
        return self._storage.get_trial(self._ids[slot])

    def state(self, slot: int) -> State:
        """How far a trial has come."""
        return _STATES[self.trial(slot).state]

    def refinement(self, slot: int) -> Refinement:
        """The setting that a trial evaluates."""
        return Refinement.model_validate(self.trial(slot).user_attrs["refinement"])

    def unfinished(self) -> list[int]:
        """Slots begun and not ended, the first first."""
        return [slot for slot in range(len(self)) if self.state(slot) == "running"]

    def begin(self, params: dict[str, Any], distributions: dict[str, BaseDistribution], refinement: Refinement) -> int:
        """The next slot, from now on RUNNING."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs={"refinement": refinement.model_dump(mode="json")},
        )
        self._ids.append(self._storage.create_new_trial(self.study._study_id, trial))
        self.trial(len(self) - 1).distributions = distributions  # the same, and not a copy for every trial
        return len(self) - 1

    def has_block(self, slot: int, block: int) -> bool:
        """Whether a block's outcomes are there."""
        return str(block) in self.trial(slot).user_attrs.get("blocks", {})

    def add_block(self, slot: int, block: int, outcomes: Mapping[int, float], spent: "Spent") -> None:
        """A block of a trial is done. Done again after a worker's death it adds to what was spent, no more."""
        trial, trial_id = self.trial(slot), self._ids[slot]
        blocks = dict(trial.user_attrs.get("blocks", {}))
        evaluations, _, seconds = blocks.get(str(block), (0.0, 0.0, 0.0))
        blocks[str(block)] = (evaluations + spent.evaluations, spent.evaluations_alone, seconds + spent.seconds)
        with self._journal.batch():
            for number, value in outcomes.items():
                if number not in trial.intermediate_values:
                    self._storage.set_trial_intermediate_value(trial_id, number, value)
            self._storage.set_trial_user_attr(trial_id, "blocks", blocks)

    def end(
        self,
        slot: int,
        state: Literal["complete", "pruned", "failed"],
        reason: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> TrialRecord:
        """Tell the study how the trial ended; `attributes` become system attributes of the trial."""
        trial, trial_id = self.trial(slot), self._ids[slot]
        assert trial.state == TrialState.RUNNING, f"slot {slot} is told {state}, but is {trial.state.name}"
        tiam = self.objective(trial.intermediate_values) if trial.intermediate_values else None
        with self._journal.batch():
            for name, value in (attributes or {}).items():
                self._storage.set_trial_system_attr(trial_id, name, value)
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
            self._storage.set_trial_user_attr(trial_id, "tiam", tiam)
            self.study.tell(slot, tiam if state == "complete" else None, state=_TOLD[state])
        return self.record(slot)

    def record(self, slot: int) -> TrialRecord:
        """A trial as it stands."""
        trial = self.trial(slot)
        values = dict(sorted(trial.intermediate_values.items()))
        blocks = trial.user_attrs.get("blocks", {}).values()
        evaluations, alone, seconds = (sum(column) for column in zip(*blocks, strict=True)) if blocks else (0, 0, 0)
        return TrialRecord(
            slot=slot,
            refinement=self.refinement(slot),
            params=dict(trial.params),
            state=_STATES[trial.state],
            values=values,
            tiam=trial.user_attrs.get("tiam"),
            reason=trial.user_attrs.get("reason", ""),
            evaluations=evaluations,
            evaluations_alone=alone,
            seconds=seconds,
        )

    def records(self) -> list[TrialRecord]:
        """All trials of the search so far, by slot."""
        return [self.record(slot) for slot in range(len(self))]


@dataclass(frozen=True)
class Spent:
    """What a block took: denoiser evaluations, what they would have been each image from noise, and seconds."""

    evaluations: float
    evaluations_alone: float
    seconds: float
