"""A search that has ended already: its result is read, and only what is asked for and missing is made."""

from pathlib import Path

from keystep.search.choice.metric_estimates import MetricsFound
from keystep.search.choice.result import SearchResult
from keystep.search.choice.selection import HeldOut
from keystep.search.choice.stored_searches import stored_result
from keystep.search.reporting.progress import SearchView
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.settings.journal import sole_driver
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Part, make_parts
from keystep.search.spec.search_spec import MetricsSpec, SearchSpec
from keystep.search.stages.before_after import copy_sheet, draw, pictures_of, tell
from keystep.search.stages.metrics import measure_settings
from keystep.search.storing.places import kept_here, path_within, search_folder
from keystep.search.tracking.tracker import Tracker
from keystep.search.work.pool import WorkerPool


def finished_result(spec: SearchSpec) -> SearchResult | None:
    """What a search of this spec has found; None if there is anything left to search.

    A budget (`resources.max_hours`, `max_gpu_hours`) that ended the trials early leaves the others to the next call.
    """
    result = stored_result(spec)
    if result is None or result.status != "finished" or _cut_short(result):
        return None
    return result


def call_again(spec: SearchSpec, result: SearchResult, view: SearchView, sheet: Path | None) -> SearchResult:
    """Finish what the end of a finished search left undone, draw the sheet if it is asked for, and say so.

    Args:
        spec: of this call, its paths absolute.
        result: as `finished_result` gave it; on disk it stays as it is, but for metrics that it lacked.
        view: told what there is.
        sheet: as `keystep.search.stages.runner.run_search` takes it.

    Raises:
        ValueError: another process drives the search.
    """
    view.note(
        f"{spec.name} ({result.search_id}) finished on {result.updated[:10]}: nothing is left to search; --fresh "
        "starts over"
    )
    with sole_driver(spec.storage.path, spec.search_id):
        validation, held_out = make_parts(spec)
        folder = kept_here(spec.storage.path) / path_within(spec.search_id)
        tracker = Tracker(spec, folder)
        tracked = tracker.is_through()
        pictures = pictures_of(result, validation, held_out, folder / "pictures")
        needed = pictures if not tracked else pictures[: 1 if sheet is not None else 0]
        missing = [picture for picture in needed if not picture.path.exists()]
        unmeasured = result.held_out is not None and spec.metrics.clip is not None and not _has(result, spec.metrics)
        if missing or unmeasured:  # else no model is loaded
            start_ray()
            with WorkerPool(spec) as pool:
                if missing:
                    view.stage("pictures")
                    draw(pool, missing)
                if unmeasured:
                    found = measured(spec, pool, held_out, result.held_out, view)
                    asked = result.spec.model_copy(update={"metrics": spec.metrics})
                    result = result.model_copy(update={"spec": asked, "metrics": found})
                    result.save(search_folder(spec.storage.path, spec.search_id))
        if not tracked or unmeasured:
            tracker.start(validation, held_out, result.timesteps)
            if result.metrics is not None:
                tracker.metrics(result.metrics)
            tell(pictures, tracker)
            assert result.chosen is not None, "a finished search has chosen, if only nothing"
            tracker.conclude(result.chosen, result.held_out, result.export_command, result.costs)
            tracker.close()
            view.note(tracker.status)
        copy_sheet(pictures, sheet)
    return result


def measured(
    spec: SearchSpec, pool: WorkerPool, held_out: Part, verdict: HeldOut | None, view: SearchView
) -> MetricsFound | None:
    """What `spec.metrics` asks for, of the settings confirmed; None if that is nothing. The view is told."""
    if spec.metrics.clip is None or verdict is None:
        return None
    settings = {name: confirmed.measured.refinement for name, confirmed in verdict.settings.items()}
    view.stage("metrics", len(settings) * len(held_out.blocks))
    return measure_settings(pool, spec, held_out, settings, view.advance)


def _has(result: SearchResult, metrics: MetricsSpec) -> bool:
    return result.metrics is not None and result.spec.metrics == metrics


def _cut_short(result: SearchResult) -> bool:
    resources, trials = result.spec.resources, result.spec.search.trials
    size = Space(result.spec, result.timesteps).size
    limited = resources.max_hours is not None or resources.max_gpu_hours is not None
    return limited and len(result.trials) < min(trials, size or trials)
