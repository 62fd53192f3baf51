"""What a search has found so far, and its result file, which is kept up while trials end."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from ray import tune

from keystep.core.config import Refinement
from keystep.search.checks.forewarnings import forewarnings
from keystep.search.checks.preflight import Preflight
from keystep.search.choice.metric_estimates import MetricsFound
from keystep.search.choice.result import Chosen, PartRecord, SearchResult, SettingRow, Status, setting_row, trial_row
from keystep.search.choice.search_costs import SearchCosts, plain_evaluations
from keystep.search.choice.selection import Choice, HeldOut, Measured, select, verdict
from keystep.search.images.outcomes import Outcome
from keystep.search.settings.ledger import TrialRecord
from keystep.search.spec.instances import Part
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.places import search_folder
from keystep.search.tracking.search_facts import git_commit, versions

LOG = logging.getLogger(__name__)
LEAST_SECONDS = 3.0  # between two writings while trials run
MOST_SHARE = 0.05  # of the time is spent writing, however long the file


class Findings:
    """The rows of a search, its choice and its verdict, as they come; writes result.json.

    Args:
        spec, validation, held_out: the search and its parts.
        seconds_before: of its earlier runs.
        clock: seconds, rising.
    """

    def __init__(
        self,
        spec: SearchSpec,
        validation: Part,
        held_out: Part,
        *,
        seconds_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.spec, self.validation, self.held_out = spec, validation, held_out
        self.seconds_before = seconds_before
        self.preflight: Preflight | None = None
        self.baselines: list[SettingRow] = []
        self.trials: list[SettingRow] = []
        self.choice: Choice | None = None
        self.verdict: HeldOut | None = None
        self.metrics: MetricsFound | None = None
        self.held_out_costs = Costs(evaluations=0.0, evaluations_alone=0.0, seconds=0.0)
        self.ahead = (0.0, 0.0)
        self._clock = clock
        self._started = clock()
        self._due = self._started
        self._changed = False
        self._versions, self._commit = versions(), git_commit()

    def add_baseline(self, setting: Refinement | None, outcomes: Mapping[int, Outcome]) -> SettingRow:
        """The unrefined model, which comes first, or GSNg alone."""
        self.baselines.append(setting_row(self.validation, setting, _tiam(outcomes), **costs(outcomes)))
        return self.baselines[-1]

    def add_trial(self, record: TrialRecord) -> None:
        """A trial that ended; `write_if_due` will write it."""
        self.trials.append(trial_row(self.validation, record))
        self._changed = True

    @property
    def best(self) -> SettingRow | None:
        """The best fully evaluated setting so far, GSNg alone among them; of equals the first."""
        whole = [row for row in (*self.baselines[1:], *self.trials) if row.state == "complete" and row.tiam]
        return max(whole, key=lambda row: row.tiam.mean if row.tiam else 0.0, default=None)

    @property
    def costs(self) -> SearchCosts:
        """Of the baselines, the trials that ended, the held-out part, and what was computed ahead for nothing."""
        rows, confirmed = [*self.baselines, *self.trials], self.held_out_costs
        total = len(self.validation.instances)
        ahead, seconds_ahead = self.ahead
        worked = sum(row.seconds for row in rows) + confirmed["seconds"] + seconds_ahead
        return SearchCosts(
            evaluations_spent=sum(row.evaluations for row in rows) + confirmed["evaluations"] + ahead,
            evaluations_plain=sum(plain_evaluations(row.evaluations_alone, len(row.values), total) for row in rows)
            + confirmed["evaluations_alone"],
            wall_seconds=self.seconds_before + self._clock() - self._started,
            worker_seconds=worked,
            gpu_seconds=worked * self.spec.resources.gpus,
        )

    @property
    def notes(self) -> list[str]:
        """What whoever waits for the search has to mind, as far as it is known."""
        if self.preflight is None:
            return []
        unrefined = self.baselines[0].values if self.baselines else None
        return forewarnings(self.spec, self.preflight.timesteps, self.held_out, unrefined)

    def choose(self) -> Choice:
        """The choice on validation among all that was tried, GSNg alone included."""
        tried = [*self.baselines[1:], *self._by_slot()]
        self.choice = select(self.baselines[0].values, [row.candidate for row in tried], self.validation)
        return self.choice

    def confirm(
        self, settings: list[Refinement | None], outcomes: Sequence[Mapping[int, Outcome]], seconds: list[float]
    ) -> None:
        """The verdict on the unrefined model, the winner and, where there is one, the runner-up, in this order.

        Args:
            outcomes: of each on the held-out part.
            seconds: of an image of each.
        """
        measured = [_measured(*each) for each in zip(settings, outcomes, seconds, strict=True)]
        self.verdict = verdict(self.held_out, *measured, alpha=self.spec.search.alpha)
        self.held_out_costs = costs(dict(enumerate(each for found in outcomes for each in found.values())))

    def spend_ahead(self, evaluations: float, seconds: float) -> None:
        """Denoiser evaluations and workers' seconds that were spent ahead of a decision which made them needless."""
        self.ahead = self.ahead[0] + evaluations, self.ahead[1] + seconds

    def write_if_due(self) -> None:
        """Write result.json if a trial ended since it was written, unless that was a moment ago.

        What cannot be written is left to the next time: the search itself has a better place to complain of a full
        disk, and an object store may only have hiccups.
        """
        if not self._changed or self._clock() < self._due:
            return
        try:
            self.save("running")
        except OSError as problem:
            self._due = self._clock() + LEAST_SECONDS
            LOG.warning("result.json is not up to date: %s", problem)

    def save(self, status: Status) -> SearchResult:
        """Write what is known as result.json. Errors as `keystep.search.storing.storage.Storage`'s."""
        began = self._clock()
        result = self._result(status)
        result.save(search_folder(self.spec.storage.path, self.spec.search_id))
        now = self._clock()
        self._changed = False
        self._due = now + max(LEAST_SECONDS, (now - began) / MOST_SHARE)
        return result

    def _result(self, status: Status) -> SearchResult:
        assert self.preflight is not None
        found = self.costs
        return SearchResult(
            search_id=self.spec.search_id,
            status=status,
            spec=self.spec,
            timesteps=self.preflight.timesteps,
            evaluation_id=self.preflight.evaluation_id,
            detector=self.preflight.detector,
            validation=PartRecord.of(self.validation),
            held_out_part=PartRecord.of(self.held_out),
            baselines=tuple(self.baselines),
            trials=tuple(self._by_slot()),
            chosen=None if self.choice is None else Chosen.of(self.choice),
            held_out=self.verdict,
            metrics=self.metrics,
            notes=tuple(self.notes),
            evaluations_spent=found.evaluations_spent,
            evaluations_ahead=self.ahead[0],
            worker_seconds_ahead=self.ahead[1],
            evaluations_plain=found.evaluations_plain,
            wall_seconds=found.wall_seconds,
            worker_seconds=found.worker_seconds,
            gpu_seconds=found.gpu_seconds,
            versions=self._versions,
            git_commit=self._commit,
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _by_slot(self) -> list[SettingRow]:
        return sorted(self.trials, key=lambda row: row.slot or 0)


class KeepUp(tune.Callback):
    """Has the findings written while Ray Tune runs, which calls it several times a second."""

    def __init__(self, findings: Findings):
        self._findings = findings

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps its callbacks in a file; what was found does not go there."""
        return {}

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self._findings.write_if_due()


class Costs(TypedDict):
    """Denoiser evaluations spent, what the images would have cost each from noise, and seconds of workers."""

    evaluations: float
    evaluations_alone: float
    seconds: float


def costs(outcomes: Mapping[int, Outcome]) -> Costs:
    """What making the outcomes has cost, whenever that was."""
    found = outcomes.values()
    return Costs(
        evaluations=sum(outcome.evaluations for outcome in found),
        evaluations_alone=sum(outcome.evaluations_alone for outcome in found),
        seconds=sum(outcome.seconds for outcome in found),
    )


def _tiam(outcomes: Mapping[int, Outcome]) -> dict[int, float]:
    return {number: outcome.tiam for number, outcome in sorted(outcomes.items())}


def _measured(refinement: Refinement | None, outcomes: Mapping[int, Outcome], seconds: float) -> Measured:
    alone = sum(outcome.evaluations_alone for outcome in outcomes.values())
    return Measured(refinement, _tiam(outcomes), seconds, alone / len(outcomes))
