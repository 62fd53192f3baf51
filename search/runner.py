"""A whole search: preflight, baseline, trials, choice, held-out prompts. The same call again goes on with it."""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, TypedDict

from core.config import Refinement
from search.before_after import show_before_after
from search.instances import Part, make_parts
from search.journal import forget, sole_driver
from search.ledger import TrialRecord
from search.outcomes import Outcome, setting_id
from search.pool import BlockDone, WorkerPool
from search.preflight import Preflight, inspect, seconds_per_image
from search.progress import SearchView, ViewCallback, Watched
from search.result import Chosen, PartRecord, SearchResult, SettingRow, Status, setting_row, trial_row
from search.search_facts import git_commit, versions
from search.selection import Choice, HeldOut, Measured, select, verdict
from search.space import Space
from search.spec import SearchSpec
from search.storage import local_folder
from search.stored_searches import SEARCHES, load_result, search_folder
from search.tracking import Tracker
from search.tune_tracking import TuneTracking
from search.tuning import run_trials, start_ray


def run_search(
    spec: SearchSpec, *, fresh: bool = False, sheet: Path | None = None, stream: TextIO | None = None
) -> SearchResult:
    """Run a search to its end, or what is left of it.

    Args:
        spec: what to search. Its relative paths are those of the working directory.
        fresh: forget the trials of an earlier run of the same spec; images already judged are not made again.
        sheet: where to draw held-out images before and after (.png).
        stream: where progress is told; stderr by default.

    Returns:
        What was found, which is also in `result.json` in the search's folder.

    Raises:
        ValueError: a mistake in the spec, before anything is made; storage that cannot be written.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    search = _Search(spec.anchored(), stream)
    with search.view.shown():
        try:
            result = search.run(fresh, sheet)
        except BaseException as stop:
            search.stopped(interrupted=isinstance(stop, KeyboardInterrupt))
            raise
    search.view.note(f"Tracked in {search.tracker.status}")
    return result


class _Search:
    """One search on its way, and what it has found so far."""

    def __init__(self, spec: SearchSpec, stream: TextIO | None):
        self.spec = spec
        self.validation, self.held_out = make_parts(spec)
        self.view = SearchView(Watched(f"{spec.name} ({spec.search_id})", spec.search.trials), stream)
        self.local = local_search_folder(spec)
        self.tracker = Tracker(spec, self.local)
        self.preflight: Preflight | None = None
        self.baselines: list[SettingRow] = []
        self.trials: list[SettingRow] = []
        self.choice: Choice | None = None
        self.verdict: HeldOut | None = None
        self._held_out_cost = (0.0, 0.0, 0.0)
        self._finished = False
        self._started = time.monotonic()
        self._seconds_before = self._earlier_seconds()

    def run(self, fresh: bool, sheet: Path | None) -> SearchResult:
        """All stages, one after the other. Nothing is made or forgotten before the preflight is through."""
        start_ray()
        self.view.stage("preflight")
        path, search_id = self.spec.storage.path, self.spec.search_id
        with WorkerPool(self.spec) as pool:
            self.preflight = pool.ask(inspect, (self.validation, self.held_out), self.spec.resources.batch_size)
            space = Space(self.spec, self.preflight.timesteps)
            with sole_driver(path, search_id):
                if fresh:
                    forget(path, search_id)
                    self._seconds_before = 0.0
                self.tracker.start(self.validation, self.held_out, self.preflight.timesteps, fresh=fresh)
                return self._run(pool, space, sheet)

    def _run(self, pool: WorkerPool, space: Space, sheet: Path | None) -> SearchResult:
        """The stages after the preflight."""
        self.view.watched.num_slots = min(self.spec.search.trials, space.size or self.spec.search.trials)
        self._run_baselines(pool, space)
        pool.close()  # the trials have workers of their own
        self.save("running")
        self._run_trials(space)
        self.save("running")
        self.choice = select(
            self.baselines[0].values,
            [row.candidate for row in sorted(self.trials, key=lambda row: row.slot or 0)],
            self.validation,
        )
        if self.choice.winner is not None:
            self._confirm(pool, self.choice)
        result = self.save("finished")
        self._finished = True
        show_before_after(pool, result, self.validation, self.held_out, self.tracker, self.local / "pictures", sheet)
        self.tracker.conclude(self.choice, self.verdict, f"keystep export {result.search_id} --out step_config.json")
        self.tracker.close()
        return result

    def stopped(self, *, interrupted: bool) -> None:
        """The search ends before its end; the same call goes on with it."""
        self.tracker.close(timeout=2.0, status="KILLED" if interrupted else "FAILED")
        if self.baselines and not self._finished:
            self.save("interrupted")

    def _run_baselines(self, pool: WorkerPool, space: Space) -> None:
        settings: list[Refinement | None] = [None, *space.guidance_alone()]
        self.view.stage("baseline", len(settings) * len(self.validation.blocks))
        outcomes = self._evaluated(pool, settings, self.validation)
        for setting in settings:
            found = outcomes[setting_id(setting)]
            row = setting_row(self.validation, setting, _tiam(found), **_costs(found))
            self.baselines.append(row)
            self.tracker.baseline(row.values, None if setting is None else setting.gsng, **_costs(found))
        self.view.best(f"unrefined {percent(self.baselines[0])}")

    def _run_trials(self, space: Space) -> None:
        self.view.stage("trials")

        def known(records: list[TrialRecord]) -> None:
            self.view.resume([record.state for record in records])
            for record in records:
                self._keep(record)

        run_trials(
            self.spec,
            space,
            self.validation,
            self.baselines[0].values,
            callbacks=[ViewCallback(self.view), TuneTracking(self.tracker)],
            on_end=self._keep,
            on_known=known,
        )

    def _keep(self, record: TrialRecord) -> None:
        """What a trial found, in the order that trials end."""
        row = trial_row(self.validation, record)
        self.trials.append(row)
        self.tracker.trial_ended(record)
        whole = [(trial.tiam.mean, trial) for trial in self.trials if trial.state == "complete" and trial.tiam]
        if whole:
            _, best = max(whole, key=lambda pair: pair[0])
            self.view.best(f"slot {best.slot}: {percent(best)}, unrefined {percent(self.baselines[0])}")

    def _confirm(self, pool: WorkerPool, choice: Choice) -> None:
        """The winner, its runner-up and the baseline on prompts that no choice has seen."""
        chosen = [each.refinement for each in (choice.winner, choice.runner_up) if each is not None]
        settings: list[Refinement | None] = [None, *chosen]
        self.view.stage("held-out", len(settings) * len(self.held_out.blocks))
        outcomes = self._evaluated(pool, settings, self.held_out)
        shown = self.held_out.instances[: self.spec.resources.batch_size]
        seconds = pool.ask(seconds_per_image, settings, shown)
        measured = [
            _measured(setting, outcomes[setting_id(setting)], pace)
            for setting, pace in zip(settings, seconds, strict=True)
        ]
        self.verdict = verdict(self.held_out, *measured, alpha=self.spec.search.alpha)
        every = [outcome for found in outcomes.values() for outcome in found.values()]
        self._held_out_cost = (
            sum(outcome.evaluations for outcome in every),
            sum(outcome.evaluations_alone for outcome in every),
            sum(outcome.seconds for outcome in every),
        )
        self.tracker.cost("held-out", *self._held_out_cost)

    def _evaluated(
        self, pool: WorkerPool, settings: list[Refinement | None], part: Part
    ) -> dict[str, dict[int, Outcome]]:
        def told(done: BlockDone) -> None:
            alone = sum(outcome.evaluations_alone for outcome in done.outcomes.values())
            self.view.advance(1, spent=done.evaluations, plain=alone)

        return pool.run([(setting, block) for setting in settings for block in part.blocks], told)

    def save(self, status: Status) -> SearchResult:
        """Write what is known as result.json."""
        assert self.preflight is not None
        rows = [*self.baselines, *self.trials]
        total = len(self.validation.instances)
        spent, alone, seconds = self._held_out_cost
        worked = sum(row.seconds for row in rows) + seconds
        result = SearchResult(
            search_id=self.spec.search_id,
            status=status,
            spec=self.spec,
            timesteps=self.preflight.timesteps,
            evaluation_id=self.preflight.evaluation_id,
            detector=self.preflight.detector,
            validation=PartRecord.of(self.validation),
            held_out_part=PartRecord.of(self.held_out),
            baselines=tuple(self.baselines),
            trials=tuple(sorted(self.trials, key=lambda row: row.slot or 0)),
            chosen=None if self.choice is None else Chosen.of(self.choice),
            held_out=self.verdict,
            evaluations_spent=sum(row.evaluations for row in rows) + spent,
            evaluations_plain=sum(row.evaluations_per_image * total for row in rows) + alone,
            seconds=self._seconds_before + time.monotonic() - self._started,
            gpu_seconds=worked * self.spec.resources.gpus,
            versions=versions(),
            git_commit=git_commit(),
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        result.save(search_folder(self.spec.storage.path, self.spec.search_id))
        return result

    def _earlier_seconds(self) -> float:
        try:
            return load_result(self.spec.search_id, self.spec.storage.path).seconds
        except ValueError:
            return 0.0


def local_search_folder(spec: SearchSpec) -> Path:
    """Where this machine keeps what waits to be sent: the search's folder, or for an object store one of the user's."""
    root = (
        local_folder(spec.storage.path) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keystep"
    )
    return root / SEARCHES / spec.search_id


def percent(row: SettingRow) -> str:
    """TIAM of a setting with its interval, per cent."""
    assert row.tiam is not None
    return f"{100 * row.tiam.mean:.1f} % [{100 * row.tiam.low:.1f}, {100 * row.tiam.high:.1f}]"


def _tiam(outcomes: Mapping[int, Outcome]) -> dict[int, float]:
    return {number: outcome.tiam for number, outcome in sorted(outcomes.items())}


class _Costs(TypedDict):
    evaluations: float
    evaluations_alone: float
    seconds: float


def _costs(outcomes: Mapping[int, Outcome]) -> _Costs:
    """What making the outcomes has cost, whenever that was."""
    found = outcomes.values()
    return _Costs(
        evaluations=sum(outcome.evaluations for outcome in found),
        evaluations_alone=sum(outcome.evaluations_alone for outcome in found),
        seconds=sum(outcome.seconds for outcome in found),
    )


def _measured(refinement: Refinement | None, outcomes: Mapping[int, Outcome], seconds: float) -> Measured:
    alone = sum(outcome.evaluations_alone for outcome in outcomes.values())
    return Measured(refinement, _tiam(outcomes), seconds, alone / len(outcomes))
