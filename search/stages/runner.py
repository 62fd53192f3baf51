"""A whole search: preflight, baseline, trials, choice, held-out prompts. The same call again goes on with it."""

from pathlib import Path
from typing import TextIO

from keystep.core.config import Refinement
from keystep.search.checks.preflight import inspect, seconds_per_image
from keystep.search.checks.spec_checks import check_spec
from keystep.search.choice.result import FILE_NAME, Chosen, SearchResult, SettingRow
from keystep.search.choice.selection import Choice
from keystep.search.choice.stored_searches import stored_result
from keystep.search.images.notices import Teller
from keystep.search.images.outcomes import setting_id
from keystep.search.reporting.how_far import how_far
from keystep.search.reporting.progress import Images, SearchView, TellNotices, ViewCallback, Watched
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.runtime.ray_watch import watched
from keystep.search.settings.journal import forget, sole_driver
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.settings_text import setting_text
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.stages.before_after import copy_sheet, draw, pictures_of, tell
from keystep.search.stages.findings import Findings, KeepUp, costs
from keystep.search.stages.finished import call_again, finished_result, measured
from keystep.search.stages.metrics import metric_models
from keystep.search.stages.tuning import run_trials
from keystep.search.storing.places import kept_here, path_within, search_folder
from keystep.search.tracking.tracker import Tracker
from keystep.search.tracking.tune_tracking import TuneTracking
from keystep.search.work.ahead import HeldOutAhead
from keystep.search.work.batches import BlockDone
from keystep.search.work.pool import WorkerPool

CONFIRMED = 3  # settings at most on held-out prompts: unrefined, winner, runner-up


def run_search(
    spec: SearchSpec, *, fresh: bool = False, sheet: Path | None = None, stream: TextIO | None = None
) -> SearchResult:
    """Run a search to its end, or what is left of it. Of one that has ended only the result is read.

    Args:
        spec: what to search. Its relative paths are those of the working directory.
        fresh: forget the trials of an earlier run of the same spec; images already judged are not made again.
        sheet: where to draw held-out images before and after (.png).
        stream: where progress is told; stderr by default.

    Returns:
        What was found, which is also in `result.json` in the search's folder.

    Raises:
        ValueError: a mistake in the spec, before anything is made; storage that cannot be written.
        RayDied: Ray died; the same call goes on.
        OSError: storage that can no longer be written; the same call goes on.
        KeyboardInterrupt: Ctrl-C; says how far it was. The same call goes on.
    """
    spec = spec.anchored()
    finished = None if fresh else finished_result(spec)
    if finished is not None:
        with watched():
            return call_again(spec, finished, _view(spec, stream), sheet)
    search = _Search(spec, stream)
    with watched(spec.storage.path, path_within(spec.search_id)), search.view.shown():
        try:
            result = search.run(fresh, sheet)
        except BaseException as stop:
            interrupted = isinstance(stop, KeyboardInterrupt)
            search.stopped(interrupted=interrupted)
            if interrupted:
                raise KeyboardInterrupt(how_far(search.view.watched, len(search.found.trials))) from stop
            raise
    search.view.note(search.tracker.status)
    return result


class _Search:
    """One search on its way."""

    def __init__(self, spec: SearchSpec, stream: TextIO | None):
        self.spec = spec
        check_spec(spec)
        self.validation, self.held_out = make_parts(spec)
        self.view = _view(spec, stream)
        self.local = kept_here(spec.storage.path) / path_within(spec.search_id)
        self.tracker = Tracker(spec, self.local)
        earlier = stored_result(spec)
        self.found = Findings(spec, self.validation, self.held_out)
        if earlier is not None:
            self.found.seconds_before = earlier.wall_seconds
            self.found.ahead = earlier.evaluations_ahead, earlier.worker_seconds_ahead
        self._tell = Teller(self.view.note)
        self._finished = False

    def run(self, fresh: bool, sheet: Path | None) -> SearchResult:
        """All stages, one after the other. Nothing is made or forgotten before the preflight is through."""
        start_ray()
        self.view.stage("preflight")
        path, search_id = self.spec.storage.path, self.spec.search_id
        with WorkerPool(self.spec) as pool:
            pool.on_state, pool.on_notices = self.view.workers, self._tell
            pool.open()
            preflight = pool.ask(inspect, (self.validation, self.held_out), self.spec.resources.batch_size)
            self.found.preflight = preflight
            if self.spec.metrics.clip is not None:
                pool.ask(metric_models, self.spec)
            space = Space(self.spec, preflight.timesteps)
            with sole_driver(path, search_id):
                if fresh:
                    search_folder(path, search_id).remove(FILE_NAME)  # else it would still say that it is finished
                    forget(path, search_id)
                    self.found.seconds_before, self.found.ahead = 0.0, (0.0, 0.0)
                self.tracker.start(self.validation, self.held_out, preflight.timesteps, fresh=fresh)
                return self._run(pool, space, sheet)

    def _run(self, pool: WorkerPool, space: Space, sheet: Path | None) -> SearchResult:
        """The stages after the preflight."""
        self.view.watched.num_slots = min(self.spec.search.trials, space.size or self.spec.search.trials)
        self.view.watched.images = Images(
            baseline=(1 + len(space.guidance_alone())) * len(self.validation.instances),
            trial=len(self.validation.instances),
            held_out=CONFIRMED * len(self.held_out.instances),
        )
        self.ahead = HeldOutAhead(pool, self.held_out)
        self.view.warn(self.found.notes)
        self._run_baselines(pool, space)
        self.view.warn(self.found.notes)
        self._run_trials(pool, space)
        self.found.save("running")
        choice = self.found.choose()
        if choice.winner is not None:
            self._confirm(pool, choice)
        self.found.spend_ahead(*self.ahead.close())
        self.found.spend_ahead(*pool.in_vain())
        if choice.winner is not None:
            self.found.metrics = measured(self.spec, pool, self.held_out, self.found.verdict, self.view)
        result = self.found.save("finished")
        self._finished = True
        self.view.stage("pictures")
        pictures = pictures_of(result, self.validation, self.held_out, self.local / "pictures")
        draw(pool, pictures)
        tell(pictures, self.tracker)
        copy_sheet(pictures, sheet)
        if result.metrics is not None:
            self.tracker.metrics(result.metrics)
        self.tracker.conclude(Chosen.of(choice), self.found.verdict, result.export_command, result.costs)
        self.tracker.close()
        return result

    def stopped(self, *, interrupted: bool) -> None:
        """The search ends before its end; the same call goes on with it."""
        self.tracker.close(timeout=2.0, status="KILLED" if interrupted else "FAILED")
        if self.found.baselines and not self._finished:
            self.found.save("interrupted")

    def _run_baselines(self, pool: WorkerPool, space: Space) -> None:
        settings: list[Refinement | None] = [None, *space.guidance_alone()]
        self.view.stage("baseline", len(settings) * len(self.validation.blocks))
        outcomes = pool.run([(setting, block) for setting in settings for block in self.validation.blocks], self._told)
        for setting in settings:
            found = outcomes[setting_id(setting)]
            row = self.found.add_baseline(setting, found)
            self.tracker.baseline(row.values, None if setting is None else setting.gsng, **costs(found))
        self.view.spent(self.found.costs)
        self._show_best()

    def _run_trials(self, pool: WorkerPool, space: Space) -> None:
        self.view.stage("trials")

        def known(records: list[TrialRecord]) -> None:
            seen = sum(len(record.values) for record in records)
            self.view.resume([record.state for record in records], seen)
            for record in records:
                self._keep(record)
            self.found.save("running")

        try:
            run_trials(
                self.spec,
                space,
                self.validation,
                self.found.baselines[0].values,
                pool=pool,
                callbacks=[
                    ViewCallback(self.view, pool.look),
                    TuneTracking(self.tracker),
                    KeepUp(self.found),
                    TellNotices(self._tell),
                ],
                on_end=self._keep,
                on_known=known,
            )
        finally:
            self.found.spend_ahead(*pool.in_vain())

    def _keep(self, record: TrialRecord) -> None:
        """What a trial found, in the order that trials end."""
        self.found.add_trial(record)
        self.view.spent(self.found.costs)
        self.tracker.trial_ended(record)
        self._show_best()
        watched, best = self.view.watched, self.found.best
        all_begun = watched.ended + self.spec.search.lookahead >= watched.num_slots
        if all_begun and best is not None and best.refinement is not None:
            self.ahead.lead(best.refinement)

    def _show_best(self) -> None:
        unrefined, best = f"unrefined {_percent(self.found.baselines[0])}", self.found.best
        if best is None:
            self.view.best(unrefined)
        else:
            self.view.best(f"{setting_text(best.refinement)}: {_percent(best)}, {unrefined}")

    def _confirm(self, pool: WorkerPool, choice: Choice) -> None:
        """The winner, its runner-up and the baseline on prompts that no choice has seen."""
        chosen = [each.refinement for each in (choice.winner, choice.runner_up) if each is not None]
        settings: list[Refinement | None] = [None, *chosen]
        self.view.stage("held-out", len(settings) * len(self.held_out.blocks))
        outcomes = self.ahead.outcomes(settings, self._told)
        shown = self.held_out.instances[: self.spec.resources.batch_size]
        seconds = pool.ask(seconds_per_image, settings, shown)
        self.found.confirm(settings, outcomes, seconds)
        self.tracker.cost("held-out", **self.found.held_out_costs)

    def _told(self, done: BlockDone) -> None:
        alone = sum(outcome.evaluations_alone for outcome in done.outcomes.values())
        self.view.advance(1, spent=done.evaluations, plain=alone)


def _view(spec: SearchSpec, stream: TextIO | None) -> SearchView:
    return SearchView(Watched(f"{spec.name} ({spec.search_id})", spec.search.trials), stream)


def _percent(row: SettingRow) -> str:
    """TIAM of a setting with its interval, per cent."""
    assert row.tiam is not None
    return f"{100 * row.tiam.mean:.1f} % [{100 * row.tiam.low:.1f}, {100 * row.tiam.high:.1f}]"
