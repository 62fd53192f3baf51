"""All that a search found, as one JSON file: result.json in the search's folder. Nothing in it is code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from keystep.core.config import Refinement
from keystep.core.frozen import mistakes
from keystep.core.seals import open_seal, seal
from keystep.evaluation.statistics import Estimate, prompt_means
from keystep.search.choice.metric_estimates import MetricsFound
from keystep.search.choice.search_costs import SearchCosts
from keystep.search.choice.selection import Candidate, Choice, HeldOut, covers, estimate
from keystep.search.spec.instances import Part
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked
from keystep.search.storing.storage import Storage

if TYPE_CHECKING:
    from keystep.search.settings.ledger import TrialRecord

SCHEMA_VERSION = 1
FILE_NAME = "result.json"
NUM_RESAMPLES = 1999  # of a trial's interval; the verdict on held-out prompts uses more

State = Literal["complete", "pruned", "failed", "running"]
Status = Literal["running", "interrupted", "finished"]


@dataclass(frozen=True)
class SettingRow:
    """What a search saw of one setting on the validation part.

    Attributes:
        slot: number of the trial; None for what was run before them (unrefined, GSNg alone).
        refinement: None is the unrefined model.
        state: complete (all instances), pruned (stopped before), failed, or running (the search was stopped).
        reason: why it was stopped, or what failed; empty if it is complete.
        values: outcome, 0 or 1, by instance number.
        tiam: accumulated over the prompt sets, of the instances seen; None if there is none.
        by_set: TIAM of each prompt set.
        evaluations: denoiser evaluations spent on it in this search.
        evaluations_alone: what the images seen would have cost, each made from noise.
        seconds: of workers' time.
        params: the dimensions of the space as the sampler saw them.
    """

    slot: int | None
    refinement: Refinement | None
    state: State
    reason: str
    values: dict[int, float]
    tiam: Estimate | None
    by_set: dict[str, float]
    evaluations: float
    evaluations_alone: float
    seconds: float
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluations_per_image(self) -> float:
        """Denoiser evaluations of one image made alone from noise; 0 if there is none."""
        return self.evaluations_alone / len(self.values) if self.values else 0.0

    @property
    def candidate(self) -> Candidate:
        """As `keystep.search.choice.selection.select` takes it. Not for the unrefined model."""
        assert self.refinement is not None
        return Candidate(self.refinement, self.values, self.evaluations_per_image)


def setting_row(
    part: Part,
    refinement: Refinement | None,
    values: Mapping[int, float],
    *,
    slot: int | None = None,
    state: State = "complete",
    reason: str = "",
    evaluations: float = 0.0,
    evaluations_alone: float = 0.0,
    seconds: float = 0.0,
    params: Mapping[str, Any] | None = None,
) -> SettingRow:
    """A row with its estimates; the arguments are those of `SettingRow`, `part` the validation part.

    Raises:
        ValueError: a complete setting that lacks outcomes.
    """
    if state == "complete" and not covers(part, values):
        raise ValueError(f"a complete setting has {len(values)} of {len(part.instances)} outcomes")
    sets = part.set_matrices(values)
    return SettingRow(
        slot=slot,
        refinement=refinement,
        state=state,
        reason=reason,
        values=dict(values),
        tiam=estimate(part, values, num_resamples=NUM_RESAMPLES) if values else None,
        by_set={name: float(prompt_means(matrix).mean()) for name, matrix in sets.items() if len(matrix)},
        evaluations=evaluations,
        evaluations_alone=evaluations_alone,
        seconds=seconds,
        params=dict(params or {}),
    )


def trial_row(part: Part, record: "TrialRecord") -> SettingRow:
    """The row of a trial that ended, as `keystep.search.stages.tuning.run_trials` gives it."""
    return setting_row(
        part,
        record.refinement,
        record.values,
        slot=record.slot,
        state=record.state,
        reason=record.reason,
        evaluations=record.evaluations,
        evaluations_alone=record.evaluations_alone,
        seconds=record.seconds,
        params=record.params,
    )


@dataclass(frozen=True)
class PartRecord:
    """The prompts of a part: their sets by name, to the hash of the part's prompts; the seeds; every instance.

    `instances` are (prompt set, prompt, seed) by instance number.
    """

    sets: dict[str, str]
    seeds: tuple[int, ...]
    instances: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, part: Part) -> "PartRecord":
        """The record of a part."""
        return cls(
            sets={prompts.name: prompts.hash for prompts in part.sets},
            seeds=tuple(part.seeds),
            instances=tuple((each.set_name, each.prompt.text, each.seed) for each in part.instances),
        )


@dataclass(frozen=True)
class Chosen:
    """The choice on validation: the settings to confirm, and why. None: there was none to choose."""

    winner: Refinement | None
    runner_up: Refinement | None
    reason: str

    @classmethod
    def of(cls, choice: Choice) -> "Chosen":
        """The record of a choice."""
        return cls(
            winner=choice.winner.refinement if choice.winner else None,
            runner_up=choice.runner_up.refinement if choice.runner_up else None,
            reason=choice.reason,
        )


class SearchResult(BaseModel):
    """Everything of one search, running or finished.

    Args:
        search_id: hash of all that determines the result.
        status: running, interrupted, or finished (held-out prompts included, if there was a winner).
        spec: as it was searched with.
        timesteps: of the schedule, the noisiest first.
        evaluation_id: hash of all that an outcome depends on beside setting, prompt and seed.
        detector: name of the detector that judged.
        validation, held_out_part: the instances.
        baselines: the unrefined model first, then GSNg alone where the space has it.
        trials: by slot.
        chosen: on validation; None before there is a choice.
        held_out: the verdict; None before there is one.
        metrics: what `spec.metrics` asks for, on held-out images; None if it asks for nothing, or is not measured yet.
        notes: what a reader of the result has to mind, a sentence each.
        evaluations_spent, evaluations_plain, wall_seconds, worker_seconds, gpu_seconds: as in
            `keystep.search.choice.search_costs.SearchCosts`; `seconds` in a row is its workers' time.
        evaluations_ahead, worker_seconds_ahead: of those spent, what was computed before a decision that made it
            needless.
        versions: package name to version.
        git_commit: of the code that searched; None outside a repository.
        updated: when this was written, UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = SCHEMA_VERSION
    search_id: str
    status: Status
    spec: SearchSpec
    timesteps: tuple[float, ...]
    evaluation_id: str
    detector: str
    validation: PartRecord
    held_out_part: PartRecord
    baselines: tuple[SettingRow, ...]
    trials: tuple[SettingRow, ...] = ()
    chosen: Chosen | None = None
    held_out: HeldOut | None = None
    metrics: MetricsFound | None = None
    notes: tuple[str, ...] = ()
    evaluations_spent: float = 0.0
    evaluations_plain: float = 0.0
    evaluations_ahead: float = 0.0
    worker_seconds_ahead: float = 0.0
    wall_seconds: float = Field(default=0.0, validation_alias=AliasChoices("wall_seconds", "seconds"))
    worker_seconds: float = 0.0
    gpu_seconds: float = 0.0
    versions: dict[str, str]
    git_commit: str | None = None
    updated: str = ""

    @property
    def baseline(self) -> SettingRow:
        """The unrefined model on the validation part."""
        return self.baselines[0]

    @property
    def settings(self) -> tuple[SettingRow, ...]:
        """Every setting that was tried: GSNg alone first, then the trials."""
        return (*self.baselines[1:], *self.trials)

    def ranked(self) -> list[SettingRow]:
        """Fully evaluated settings by TIAM, the best first, then the others by how much they saw."""
        return sorted(
            self.settings,
            key=lambda row: (
                row.state != "complete",
                -row.tiam.mean if row.tiam and row.state == "complete" else -len(row.values),
                row.slot if row.slot is not None else -1,
            ),
        )

    @property
    def costs(self) -> SearchCosts:
        """What the search has cost."""
        return SearchCosts(
            self.evaluations_spent, self.evaluations_plain, self.wall_seconds, self.worker_seconds, self.gpu_seconds
        )

    @property
    def significant(self) -> bool:
        """Whether the winner is shown to be better than the unrefined model on held-out prompts."""
        return self.held_out is not None and self.held_out.significant

    @property
    def export_command(self) -> str:
        """What exports the winner."""
        return f"keystep export {self.search_id} --out step_config.json"

    def save(self, folder: Storage) -> None:
        """Write result.json in the search's folder; a reader sees the whole file or the one before.

        Passwords in addresses are left out. Errors as `keystep.search.storing.storage.Storage`'s.
        """
        trials = tuple(replace(trial, reason=masked(trial.reason)) for trial in self.trials)
        shown = self.model_copy(update={"spec": self.spec.without_secrets(), "trials": trials})
        folder.write(FILE_NAME, seal(shown.model_dump_json(indent=1)).encode())

    @classmethod
    def read(cls, folder: Storage, name: str = FILE_NAME) -> "SearchResult":
        """The value that `save` wrote in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or not what this version writes; names the file and the fields at fault.
        """
        content = folder.read(name)
        try:
            return cls.model_validate_json(json.dumps(open_seal(content).value))
        except ValueError as error:
            said = f"\n{mistakes(error)}" if isinstance(error, ValidationError) else f" {error}"
            raise ValueError(
                f"{masked(folder.uri).rstrip('/')}/{name} is damaged, or no search result of this version of keystep; "
                f"run the search again, it computes nothing that is known:{said}"
            ) from None
