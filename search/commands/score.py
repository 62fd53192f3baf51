"""`keystep score`: how well do a folder of images show what their prompts asked?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from search.commands.output import percent, progress_bar, write_json

if TYPE_CHECKING:
    from evaluation.image_source import Problems
    from evaluation.scoring import SetScore

NAMED = 10  # problems of a kind that are shown; all of them go to a file


def score(
    images: Annotated[
        Path | None,
        typer.Argument(
            help="A folder or .tar of images called prompt_with_underscores_N.png, or a .json map of prompt to files.",
            metavar="IMAGES",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="What was asked: a file as `keystep prompts` writes it, or a standard set's name."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all scores here (.json).")] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="MODEL or KIND:MODEL, a hub id or folder. [default: keystep/shapes-segmenter if every noun is one of "
            "its shapes, else Roboflow/rf-detr-seg-medium]"
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw prompts x images with ticks and crosses (.png).")] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Score although images are missing, unreadable, surplus or of odd size; say which."
        ),
    ] = False,
    from_json: Annotated[
        Path | None,
        typer.Option(help="Instead of IMAGES: a folder with TIAMv2's results, one .json a prompt.", metavar="DIR"),
    ] = None,
    tiamv2: Annotated[
        Path | None,
        typer.Option(
            help="Write the scores in TIAMv2's files too, one .json a prompt and the aggregates.", metavar="DIR"
        ),
    ] = None,
    images_per_prompt: Annotated[
        int | None,
        typer.Option(help="Expect numbers 0 to this minus one. [default: every number any prompt has]", min=1),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(help="Least score of an instance. Higher ones are reported too.", min=0.0, max=1.0),
    ] = 0.25,
    palette: Annotated[str, typer.Option(help="Colour names: tiam (comparable with published) or extended.")] = "tiam",
    superposed: Annotated[
        str, typer.Option(help="Two labels on the same pixels: none (both count), drop_both or keep_best.")
    ] = "none",
    batch_size: Annotated[int, typer.Option(help="Images in memory at a time.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda where there is one]")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where detections are kept, so that a second run detects nothing. [default: beside --out]"),
    ] = None,
) -> None:
    """Score images of any generator: is every entity of the prompt there, and in its colour (TIAM)?

    Examples:

    ```
    keystep score images/ --prompts prompts.csv --out scores.json
    keystep score images.tar --prompts prompts.csv --sheet sheet.png
    keystep score images.json --prompts two_colored --allow-missing
    keystep score --from-json tiam_score_per_prompt/
    ```

    Interrupted, it goes on where it stopped when called again: detections are kept beside `--out`.

    Intervals are over prompts, at 95 %, since images of one prompt are not independent.

    Images that are missing, unreadable, surplus or of odd size are named, and end it with exit code 2 and without
    scores, unless `--allow-missing`.
    """
    if from_json is not None:
        from search.commands.score_saved import score_saved

        score_saved(from_json, out)
        return
    if images is None or prompts is None:
        raise ValueError("keystep score needs IMAGES and --prompts, or --from-json DIR; see keystep score --help")
    if out is not None and out.suffix != ".json":
        raise ValueError(f"--out is a .json file, got {out}")
    if sheet is not None and sheet.suffix != ".png":
        raise ValueError(f"--sheet is a .png file, got {sheet}")
    from evaluation.image_source import find_images
    from evaluation.prompt_io import load_prompt_set
    from evaluation.tiam import CONFIDENCES, TiamSettings

    prompt_set = load_prompt_set(prompts)
    grid = (confidence, *(value for value in CONFIDENCES if value > confidence))
    settings = TiamSettings(confidences=grid, superposed=superposed, palette=palette)  # type: ignore[arg-type]
    source = find_images(images, prompt_set, images_per_prompt=images_per_prompt)
    noted = Path(f"{out.with_suffix('') if out else 'scores'}.problems.txt")
    _tell(source.problems, noted, allow_missing)

    from transformers.utils import logging as transformers_logging

    from evaluation.detection_cache import CachedDetector
    from evaluation.detectors import load_detector
    from evaluation.saved_scores import prompt_scores
    from evaluation.score_report import report
    from evaluation.score_sheet import score_sheet
    from evaluation.scoring import score_source
    from evaluation.tiam_report import write_tables

    transformers_logging.disable_progress_bar()
    loaded = load_detector(detector or _default_detector(prompt_set), min_score=min(0.1, confidence), device=device)
    folder = cache or Path(f"{out.with_suffix('') if out else 'scores'}.detections")
    cached = CachedDetector(loaded, folder)
    known = len(source.problems.unreadable)
    with progress_bar() as progress:
        task = progress.add_task("Scoring", total=len(source.files))
        scored = score_source(
            source,
            prompt_set,
            cached,
            settings,
            batch_size=batch_size,
            on_image=lambda file: progress.advance(task),
        )
    if len(source.problems.unreadable) > known:
        _tell(source.problems, noted, allow_missing)
    written = report(scored, settings, {"name": cached.name, "fingerprint": cached.fingerprint}, source.problems)
    if out is not None:
        write_json(out, written)
    if tiamv2 is not None:
        write_tables(prompt_scores(scored), tiamv2)
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        score_sheet(source, scored, cached).save(sheet)
    console = Console()
    console.print(score_table(scored, cached.name))
    for path in filter(None, (out, tiamv2, sheet)):
        console.print(f"-> {path}", highlight=False, soft_wrap=True)


def score_table(scored: "SetScore", detector: str) -> Table:
    """Scores with their intervals, a row a confidence."""
    from evaluation.score_report import entity_rates, estimates

    rows = [estimates(scored, index) for index in range(len(scored.confidences))]
    first = rows[0]["tiam"]
    table = Table(
        title=f"{scored.prompts.name}: {first.num_images} images of {first.num_prompts} prompts, detector {detector}",
        caption="Entities found: "
        + ", ".join(f"{rate['found']:.1%}" for rate in entity_rates(scored))
        + " (in the order of the prompt). Intervals: 95 %, over prompts.",
    )
    table.add_column("Confidence", justify="right")
    table.add_column("TIAM, %", justify="right")
    if scored.colored():
        table.add_column("without colours, %", justify="right")
    for confidence, row in zip(scored.confidences, rows, strict=True):
        table.add_row(f"{confidence:g}", *(percent(estimate) for estimate in row.values()))
    return table


def _default_detector(prompt_set) -> str:
    from core.shapes.scenes import NOUNS
    from evaluation.detectors import DEFAULT_DETECTOR, SHAPES_DETECTOR
    from evaluation.prompt_sets import all_nouns

    return SHAPES_DETECTOR if set(all_nouns([prompt_set])) <= set(NOUNS) else DEFAULT_DETECTOR


def _tell(problems: "Problems", noted: Path, allowed: bool) -> None:
    """Name what is wrong with the images, all of it in a file; ValueError unless it is allowed."""
    if not problems:
        return
    lines = []
    for kind, entries in problems.lists().items():
        if entries:
            lines += [f"{len(entries)} {kind}:", *(f"    {entry}" for entry in entries[:NAMED])]
            lines += [f"    ... and {len(entries) - NAMED} more"] if len(entries) > NAMED else []
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(
        "".join(f"{kind}\t{entry}\n" for kind, entries in problems.lists().items() for entry in entries),
        encoding="utf-8",
    )
    lines.append(f"All of them: {noted}")
    text = "\n".join(lines)
    if not allowed:
        raise ValueError(f"the images are not what the prompts ask for.\n{text}\nScore what there is: --allow-missing")
    Console(stderr=True, soft_wrap=True).print(text, style="yellow", markup=False, highlight=False)
