"""A search replayed on a recorded grid: its own sampler, pruner and bookkeeping, with a clock instead of a model."""

import heapq
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from optuna.storages import InMemoryStorage
from ray.tune.search import Searcher

from keystep.core.config import Refinement
from keystep.search.choice.selection import Candidate, select
from keystep.search.replaying.recorded_grid import RecordedGrid
from keystep.search.replaying.replay_costs import Reuse, evaluations_alone
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.suggest import KeystepSearch
from keystep.search.spec.instances import Instance, Part


@dataclass(frozen=True)
class ReplayedTrial:
    """A trial of a replayed search.

    Attributes:
        params: the setting, as the space has it.
        refinement: the setting.
        state: how it ended.
        num_instances_run, num_instances_total: of the validation part.
        evaluations: of the denoiser, spent.
        evaluations_alone: what the images it made would have cost each from noise.
    """

    params: dict[str, Any]
    refinement: Refinement
    state: Literal["complete", "pruned"]
    num_instances_run: int
    num_instances_total: int
    evaluations: float
    evaluations_alone: float


@dataclass(frozen=True)
class Replay:
    """A replayed search.

    Attributes:
        trials: by slot.
        baseline_evaluations: of the unrefined model, and of guidance alone where the space has it.
        winner: the setting that would be confirmed on held-out prompts.
        best: the setting with the highest objective on them.
        gain: the winner's held-out accumulated TIAM less the unrefined model's.
        regret: the best setting's held-out accumulated TIAM less the winner's, 0 or more.
        duration: of trials, by the clock; one denoiser evaluation of one sample takes 1.
        plain_evaluations: of the plain way: the same settings, each on all instances, each image from noise.
    """

    trials: tuple[ReplayedTrial, ...]
    baseline_evaluations: float
    winner: Refinement | None
    best: Refinement | None
    gain: float
    regret: float
    duration: float
    plain_evaluations: float

    @property
    def evaluations(self) -> float:
        """Spent on validation, the baseline's included."""
        return self.baseline_evaluations + sum(trial.evaluations for trial in self.trials)

    @property
    def saved(self) -> float:
        """Share of the plain way's evaluations that was not spent, at most 1."""
        return 1 - self.evaluations / self.plain_evaluations


def replay(
    grid: RecordedGrid,
    *,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    pruner: str = "paired",
    seed: int = 0,
    trials: int | None = None,
    workers: int = 1,
    lookahead: int = 1,
    validation: int | None = None,
    parts: tuple[Part, Part] | None = None,
    pruner_options: dict[str, Any] | None = None,
) -> Replay:
    """Run a search on recorded outcomes. Everything but the images is what `keystep search` does.

    Args:
        grid: the outcomes.
        sampler, pruner, pruner_options, trials, lookahead: as `search.*` of a spec; None leaves the grid's spec's.
        seed: of the search, and of the draw of validation and held-out prompts.
        workers: that run trials side by side, at most `lookahead`.
        validation: prompts a set in the validation part; the rest are held out.
        parts: validation and held-out part instead of a draw: `make_parts(grid.spec)` are those of the real search.

    Raises:
        ValueError: more workers than lookahead, a pruner that does not take its options, too few prompts.
    """
    if not 1 <= workers <= lookahead:
        raise ValueError(f"workers must lie between 1 and lookahead, {lookahead}, got {workers}")
    changed = {
        "sampler": sampler,
        "pruner": pruner,
        "pruner_options": pruner_options or {},
        "seed": seed,
        "lookahead": lookahead,
        "trials": trials or grid.spec.search.trials,
    }
    spec = grid.spec.model_copy(update={"search": grid.spec.search.model_copy(update=changed)})
    part, held_out = parts or grid.parts(validation or grid.spec.prompts.validation, seed)
    reuse = Reuse(grid.space, spec.sampler)
    alone = [None, *grid.space.guidance_alone()]
    baseline_evaluations = sum(reuse.spend(setting, instance) for setting in alone for instance in part.instances)
    records: list[TrialRecord] = []
    search = KeystepSearch(
        spec,
        grid.space,
        part,
        grid.values(None, part),
        storage=InMemoryStorage(),
        journal=_Unwritten(),
        on_end=records.append,
    )
    duration = _Clock(search, part, grid, reuse.spend).run(workers)
    records.sort(key=lambda record: record.slot)
    return Replay(
        trials=tuple(_replayed(record, part) for record in records),
        baseline_evaluations=baseline_evaluations,
        plain_evaluations=_plain(grid, part, [*alone, *(record.refinement for record in records)]),
        duration=duration,
        **_judged(grid, part, held_out, alone, records),
    )


class _Unwritten:
    """The journal of a study that is forgotten."""

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()


class _Clock:
    """Workers that take as long for a block as its denoiser evaluations, and the search that keeps them busy."""

    def __init__(
        self,
        search: KeystepSearch,
        part: Part,
        grid: RecordedGrid,
        spend: Callable[[Refinement | None, Instance], float],
    ):
        self._search, self._part, self._grid, self._spend = search, part, grid, spend
        self._sampler = grid.spec.sampler
        self._running: list[tuple[float, int, int, dict[str, Any]]] = []  # until, order, block, trial

    def run(self, workers: int) -> float:
        """Run all trials; when the last one ended."""
        now, started, over = 0.0, 0, False
        while True:
            while len(self._running) < workers and not over:
                config = self._search.suggest(f"trial-{started}")
                if not isinstance(config, dict):
                    over = config == Searcher.FINISHED
                    break
                self._begin({**config, "trial_id": f"trial-{started}"}, 0, now)
                started += 1
            if not self._running:
                return now
            now, _, block, trial = heapq.heappop(self._running)
            if self._ended(trial, block):
                self._search.on_trial_complete(trial["trial_id"])
            else:
                self._begin(trial, block + 1, now)

    def _begin(self, trial: dict[str, Any], block: int, now: float) -> None:
        refinement = Refinement.model_validate(trial["refinement"])
        values = self._grid.values(refinement, self._part) if block == 0 else trial["values"]
        spent = sum(self._spend(refinement, instance) for instance in self._part.blocks[block])
        alone = evaluations_alone(refinement, self._sampler) * len(self._part.blocks[block])
        trial = {**trial, "values": values, "spent": spent, "alone": alone}
        heapq.heappush(self._running, (now + spent, trial["slot"], block, trial))

    def _ended(self, trial: dict[str, Any], block: int) -> bool:
        numbers = [instance.number for instance in self._part.blocks[block]]
        result = {
            "block": block,
            "outcomes": {number: trial["values"][number] for number in numbers},
            "evaluations": trial["spent"],
            "evaluations_alone": trial["alone"],
            "seconds": trial["spent"],
        }
        last = block + 1 == len(self._part.blocks)
        return self._search.see_block(trial["trial_id"], result, last=last) or last


def _replayed(record: TrialRecord, part: Part) -> ReplayedTrial:
    assert record.state in ("complete", "pruned"), f"slot {record.slot} is {record.state}"
    return ReplayedTrial(
        params=record.params,
        refinement=record.refinement,
        state=record.state,  # pyright: ignore[reportArgumentType]
        num_instances_run=len(record.values),
        num_instances_total=len(part.instances),
        evaluations=record.evaluations,
        evaluations_alone=record.evaluations_alone,
    )


def _plain(grid: RecordedGrid, part: Part, settings: list[Refinement | None]) -> float:
    return sum(evaluations_alone(setting, grid.spec.sampler) for setting in settings) * len(part.instances)


def _judged(
    grid: RecordedGrid, part: Part, held_out: Part, alone: list[Refinement | None], records: list[TrialRecord]
) -> dict[str, Any]:
    guided = [
        Candidate(setting, grid.values(setting, part), evaluations_alone(setting, grid.spec.sampler))
        for setting in alone
        if setting is not None
    ]
    candidates = guided + [
        Candidate(record.refinement, record.values, evaluations_alone(record.refinement, grid.spec.sampler))
        for record in records
    ]
    choice = select(grid.values(None, part), candidates, part)
    winner = None if choice.winner is None else choice.winner.refinement
    scores = {setting: grid.objective(setting, held_out) for setting in grid.rows}
    best = max(scores, key=lambda setting: scores[setting])
    return {
        "winner": winner,
        "best": best,
        "gain": scores[winner] - scores[None],
        "regret": scores[best] - scores[winner],
    }
