"""A search that has ended already: its result is read, and only what is asked for and missing is made."""

from pathlib import Path

from search.before_after import Picture, copy_sheet, draw, pictures_of, tell
from search.instances import make_parts
from search.journal import sole_driver
from search.pool import WorkerPool
from search.progress import SearchView
from search.result import SearchResult
from search.space import Space
from search.spec import SearchSpec
from search.stored_searches import local_search_folder, stored_result
from search.tracking import Tracker
from search.tuning import start_ray


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
        result: as `finished_result` gave it; it stays as it is on disk.
        view: told what there is.
        sheet: as `search.runner.run_search` takes it.

    Raises:
        ValueError: another process drives the search.
    """
    view.note(
        f"{spec.name} ({result.search_id}) finished on {result.updated[:10]}: nothing is left to search; --fresh "
        "starts over"
    )
    with sole_driver(spec.storage.path, spec.search_id):
        validation, held_out = make_parts(spec)
        folder = local_search_folder(spec)
        tracker = Tracker(spec, folder)
        tracked = tracker.is_through()
        pictures = pictures_of(result, validation, held_out, folder / "pictures")
        needed = pictures if not tracked else pictures[: 1 if sheet is not None else 0]
        _draw_missing(spec, needed, view)
        if not tracked:
            tracker.start(validation, held_out, result.timesteps)
            tell(pictures, tracker)
            assert result.chosen is not None, "a finished search has chosen, if only nothing"
            tracker.conclude(result.chosen, result.held_out, result.export_command)
            tracker.close()
            view.note(f"Tracked in {tracker.status}")
        copy_sheet(pictures, sheet)
    return result


def _draw_missing(spec: SearchSpec, pictures: list[Picture], view: SearchView) -> None:
    """Without loading a model where there is nothing to draw."""
    if all(picture.path.exists() for picture in pictures):
        return
    start_ray()
    view.stage("pictures")
    with WorkerPool(spec) as pool:
        draw(pool, pictures)


def _cut_short(result: SearchResult) -> bool:
    resources, trials = result.spec.resources, result.spec.search.trials
    size = Space(result.spec, result.timesteps).size
    limited = resources.max_hours is not None or resources.max_gpu_hours is not None
    return limited and len(result.trials) < min(trials, size or trials)
