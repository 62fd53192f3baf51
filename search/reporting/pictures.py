"""Pictures of one prompt with a step config and without, and the sheet that shows both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from keystep.core.config import StepConfig
from keystep.core.generation import ImageTrace, generate
from keystep.core.prompts import Prompt
from keystep.evaluation.contact_sheet import Cell, SheetRow, contact_sheet
from keystep.evaluation.detector import Detector
from keystep.evaluation.tiam import TiamSettings, score_detections
from keystep.search.settings.settings_text import setting_text


@dataclass(frozen=True)
class Picture:
    """An image, its seed, and how each step of its refinement went (nothing for an unrefined one)."""

    image: Image.Image
    seed: int
    traces: tuple[ImageTrace, ...]

    @property
    def note(self) -> str:
        """What the refinement did to the loss, in a few words."""
        failed = next((trace.failure for trace in self.traces if trace.failure is not None), None)
        if failed is not None:
            return f"not refined: {failed}"
        losses = [loss for trace in self.traces for loss in trace.losses]
        return f"loss {losses[0]:.2f} to {losses[-1]:.2f}" if len(losses) > 1 else ""


def pictures(
    pipe: Any,
    prompt: Prompt,
    config: StepConfig,
    seeds: Sequence[int],
    *,
    refine: bool = True,
    batch_size: int = 4,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Picture]:
    """A picture for every seed; `on_done` hears how many after each batch. Errors as `keystep.core.generation`'s."""
    made: list[Picture] = []
    for first in range(0, len(seeds), batch_size):
        batch = seeds[first : first + batch_size]
        done = generate(pipe, prompt, config, batch, refine=refine, batch_size=batch_size)
        made += [Picture(*each) for each in zip(done.images, done.seeds, done.traces, strict=True)]
        on_done(len(batch))
    return made


def before_after(
    prompt: Prompt,
    before: Sequence[Picture],
    after: Sequence[Picture],
    config: StepConfig,
    detector: Detector | None = None,
) -> Image.Image:
    """A row for every seed: without and with the refinement.

    Args:
        before, after: of the same seeds, in the same order.
        detector: marks which entities it finds, and outlines them; None leaves the marks out.
    """
    columns = [_cells(prompt, column, detector) for column in (before, after)]
    rows = [SheetRow(prompt, picture.seed, cells) for picture, *cells in zip(before, *columns, strict=True)]
    return contact_sheet(rows, ("unrefined", setting_text(config.refinement)), title=config.model)


def _cells(prompt: Prompt, column: Sequence[Picture], detector: Detector | None) -> list[Cell]:
    if detector is None:
        return [Cell(picture.image, note=picture.note) for picture in column]
    settings = TiamSettings(confidences=(0.25,))
    found = detector.detections([picture.image for picture in column])
    return [
        Cell(picture.image, score_detections(seen, prompt, settings), seen.instances(), picture.note)
        for picture, seen in zip(column, found, strict=True)
    ]
