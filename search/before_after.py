"""What the search did to pictures: sheets before and after, for the user and for the tracking's image slider."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from core.config import IterRef, Refinement
from evaluation.contact_sheet import Cell, SheetRow, contact_sheet
from evaluation.tiam import score_detections
from search.instances import Instance, Part
from search.pool import WorkerPool
from search.result import SearchResult
from search.settings_text import setting_text
from search.tracking import Tracker

if TYPE_CHECKING:
    from search.evaluator import Evaluator

REPAIRED, OTHERS = 6, 2  # rows of the sheet: repaired by the winner, and spoilt or the same
SLIDER = 6  # instances on a picture of the slider


def show_before_after(
    pool: WorkerPool,
    result: SearchResult,
    validation: Part,
    held_out: Part,
    tracker: Tracker,
    folder: Path,
    sheet: Path | None = None,
) -> None:
    """Draw the sheets and hand them to the tracker; nothing without a winner.

    Args:
        folder: local, where the pictures are kept for the tracker.
        sheet: where the user wants a copy.

    The sheet shows held-out instances: what the winner repaired, and some that it spoilt or left. The slider shows
    the same few validation instances refined at every step of the space, with the winner's other settings.
    """
    if result.held_out is None or result.chosen is None or result.chosen.winner is None:
        return
    winner = result.chosen.winner
    before, after = result.held_out.baseline.measured.values, result.held_out.winner.measured.values
    chosen = _telling(held_out, before, after)
    columns: list[Refinement | None] = [None, winner]
    drawn = pool.ask(sheet_of, chosen, columns, [setting_text(column) for column in columns], result.spec.name)
    tracker.image("before and after", 0, _written(folder / "before_after.png", drawn))
    if sheet is not None:
        _written(sheet, drawn)
    if winner.iterref is None:
        return
    shown = _some(validation)
    for step in range(len(result.timesteps)):
        moved = winner.model_copy(update={"iterref": _at(winner.iterref, step)})
        title = f"step {step} (t {result.timesteps[step]:g})"
        drawn = pool.ask(sheet_of, shown, [None, moved], ["unrefined", title], title)
        tracker.image("refined at step", step, _written(folder / f"step-{step:03}.png", drawn))


def sheet_of(
    evaluator: "Evaluator",
    instances: Sequence[Instance],
    settings: Sequence[Refinement | None],
    names: Sequence[str],
    title: str,
) -> bytes:
    """A row for every instance, a column for every setting, judged; as PNG."""
    columns = []
    for setting in settings:
        images = evaluator.images(setting, instances)
        columns.append([_cell(evaluator, *pair) for pair in zip(images, instances, strict=True)])
    rows = [
        SheetRow(instance.prompt, instance.seed, cells) for instance, *cells in zip(instances, *columns, strict=True)
    ]
    file = io.BytesIO()
    contact_sheet(rows, names, title=title).save(file, format="PNG")
    return file.getvalue()


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _cell(evaluator: "Evaluator", image: Image.Image, instance: Instance) -> Cell:
    (found,) = evaluator.detector.detections([image])
    return Cell(image, score_detections(found, instance.prompt, evaluator.settings), found.instances())


def _telling(part: Part, before: Mapping[int, float], after: Mapping[int, float]) -> list[Instance]:
    """Instances that changed for the better, a set each in turn, and some of the others; prompts differ."""
    better = _spread([each for each in part.instances if after[each.number] > before[each.number]])[:REPAIRED]
    seen = {each.prompt.text for each in better}
    worse = _spread([each for each in part.instances if after[each.number] < before[each.number]])
    same = _spread([each for each in part.instances if after[each.number] == before[each.number]])
    others = [each for each in [*worse[:1], *same] if each.prompt.text not in seen]
    return [*better, *others[: OTHERS + REPAIRED - len(better)]]


def _spread(instances: Sequence[Instance]) -> list[Instance]:
    """One instance a prompt."""
    first: dict[str, Instance] = {}
    for instance in instances:
        first.setdefault(instance.prompt.text, instance)
    return list(first.values())


def _some(part: Part) -> list[Instance]:
    return _spread(part.instances)[:SLIDER]


def _at(iterref: IterRef, step: int) -> IterRef:
    return iterref.model_copy(update={"step_index": step})
