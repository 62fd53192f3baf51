"""The contact sheet of a scored set: a row a prompt, a column an image number, ticks and crosses from the scores."""

from dataclasses import replace

from PIL import Image

from keystep.evaluation.contact_sheet import Cell, SheetRow, contact_sheet
from keystep.evaluation.detector import Detector
from keystep.evaluation.image_source import ImageSource
from keystep.evaluation.scoring import SetScore
from keystep.evaluation.tiam import ImageScore

MAX_PROMPTS, MAX_IMAGES = 24, 4


def score_sheet(source: ImageSource, score: SetScore, detector: Detector) -> Image.Image:
    """The first images (4 at most) of the first prompts (24 at most), masks outlined, marks at the first confidence.

    `detector`: the one that scored; a cached one detects nothing again.
    """
    seeds = score.seeds[:MAX_IMAGES]
    num_prompts = min(MAX_PROMPTS, len(score.prompts))
    shown = tuple(file for file in source.files if file.prompt_index < num_prompts and file.seed in seeds)
    cells: dict[tuple[int, int], Cell] = {}
    for file, picture in replace(source, files=shown).images():
        if picture is None:
            continue
        place = (file.prompt_index, score.seeds.index(file.seed))
        count = len(score.prompts.prompts[file.prompt_index].entities)
        marks = ImageScore(score.found[place][:, :count], score.bound[place][:, :count])
        instances = [instance for instance in detector.detect([picture])[0] if instance.score >= score.confidences[0]]
        cells[file.prompt_index, file.seed] = Cell(picture, marks, instances)
    rows = [
        SheetRow(prompt, ", ".join(map(str, seeds)), [cells.get((index, seed)) for seed in seeds])
        for index, prompt in enumerate(score.prompts.prompts[:num_prompts])
    ]
    title = f"{score.prompts.name}: {num_prompts} of {len(score.prompts)} prompts, {detector.name}"
    return contact_sheet(rows, [f"image {seed}" for seed in seeds], title=title)
