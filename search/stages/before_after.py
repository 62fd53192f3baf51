"""What the search did to pictures: sheets before and after, for the user and for the tracking's image slider."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from keystep.core.config import IterRef, Refinement
from keystep.evaluation.contact_sheet import Cell, SheetRow, contact_sheet
from keystep.evaluation.tiam import score_detections
from keystep.search.choice.result import SearchResult
from keystep.search.images.outcomes import setting_id
from keystep.search.settings.settings_text import setting_text
from keystep.search.spec.instances import Instance, Part
from keystep.search.tracking.tracker import Tracker
from keystep.search.work.pool import WorkerPool

if TYPE_CHECKING:
    from keystep.search.images.evaluator import Evaluator

REPAIRED, OTHERS = 6, 2  # rows of the sheet: repaired by the winner, and spoilt or the same
SLIDER = 4  # instances on a picture of the slider
PANELS = 2  # side by side, so that a sheet fits a screen and a card of MLflow


@dataclass(frozen=True)
class Picture:
    """A sheet to draw: instances by settings, and where it is kept and tracked.

    Attributes:
        path: local; once it exists it is right, since the winner is part of it.
        key, step: the slider that shows it, and its place there.
        settings: column's name to setting.
    """

    path: Path
    key: str
    step: int
    title: str
    instances: tuple[Instance, ...]
    settings: dict[str, Refinement | None]


def pictures_of(result: SearchResult, validation: Part, held_out: Part, folder: Path) -> list[Picture]:
    """The pictures of a finished search, the sheet first; none without a winner.

    The sheet shows held-out instances: what the winner repaired, and some that it spoilt or left. The slider shows
    the same few validation instances refined at every step of the schedule, with the winner's other settings.
    """
    if result.held_out is None or result.chosen is None or result.chosen.winner is None:
        return []
    winner = result.chosen.winner
    folder = folder / setting_id(winner)
    before, after = result.held_out.baseline.measured.values, result.held_out.winner.measured.values
    columns = {"unrefined": None, setting_text(winner): winner}
    telling = tuple(_telling(held_out, before, after))
    sheet = Picture(folder / "before_after.png", "before and after", 0, result.spec.name, telling, columns)
    if winner.iterref is None:
        return [sheet]
    slider = []
    for step in range(len(result.timesteps)):
        moved = winner.model_copy(update={"iterref": _at(winner.iterref, step)})
        title = f"step {step} (t {result.timesteps[step]:g})"
        path, columns = folder / f"step-{step:03}.png", {"unrefined": None, title: moved}
        slider.append(Picture(path, "refined at step", step, title, tuple(_some(validation)), columns))
    return [sheet, *slider]


def draw(pool: WorkerPool, pictures: Sequence[Picture]) -> None:
    """Draw those that there are not yet."""
    missing = [picture for picture in pictures if not picture.path.exists()]
    drawn = pool.map(sheet_of, [(each.instances, each.settings, each.title) for each in missing])
    for picture, content in zip(missing, drawn, strict=True):
        _write(picture.path, content)


def tell(pictures: Sequence[Picture], tracker: Tracker) -> None:
    """Hand them to the tracker."""
    for picture in pictures:
        tracker.image(picture.key, picture.step, picture.path)


def copy_sheet(pictures: Sequence[Picture], sheet: Path | None) -> None:
    """Put the drawn sheet where the user wants it, if there is one and it is wanted."""
    if sheet is not None and pictures:
        _write(sheet, pictures[0].path.read_bytes())


def sheet_of(
    evaluator: "Evaluator",
    instances: Sequence[Instance],
    settings: Mapping[str, Refinement | None],
    title: str,
) -> bytes:
    """A row for every instance, a column for every setting, judged, in two panels; as PNG."""
    columns = []
    for setting in settings.values():
        images = evaluator.images(setting, instances)
        columns.append([_cell(evaluator, *pair) for pair in zip(images, instances, strict=True)])
    rows = [
        SheetRow(instance.prompt, instance.seed, cells) for instance, *cells in zip(instances, *columns, strict=True)
    ]
    file = io.BytesIO()
    contact_sheet(rows, list(settings), title=title, panels=min(PANELS, len(rows))).save(file, format="PNG")
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a picture that exists is not drawn again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.replace(path)


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
