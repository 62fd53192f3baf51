"""`keystep score`: how well do a folder of images show what their prompts asked?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from search.commands.numbers import finite
from search.commands.output import progress_bar, write_json

if TYPE_CHECKING:
    from evaluation.image_metrics import ImageMetrics
    from evaluation.image_source import Problems

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
    clip: Annotated[
        str | None,
        typer.Option(
            help="Measure how alike images and prompts are to a CLIP of open_clip: MODEL:WEIGHTS (ViT-L-14:openai), "
            "hf-hub:ORG/NAME, a folder, or `none`. [default: keystep/shapes-clip if every noun is one of its shapes, "
            "else none]",
            metavar="MODEL[:WEIGHTS]|FOLDER",
        ),
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(help="A BLIP, hub id or folder: how alike its captions and the prompts are, text with text."),
    ] = None,
    aesthetics: Annotated[
        Path | None,
        typer.Option(
            help="LAION's aesthetic head for that CLIP (.pth, .safetensors, .npz): shows when a setting wins by "
            "ruining pictures."
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
        typer.Option(
            help="Expect numbers 0 to this minus one. [default: every number any prompt has]", min=1, max=100_000
        ),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(
            help="Least score of an instance. Higher ones are reported too.", min=0.0, max=1.0, callback=finite
        ),
    ] = 0.25,
    palette: Annotated[str, typer.Option(help="Colour names: tiam (comparable with published) or extended.")] = "tiam",
    superposed: Annotated[
        str, typer.Option(help="Two labels on the same pixels: none (both count), drop_both or keep_best.")
    ] = "none",
    batch_size: Annotated[int, typer.Option(help="Images in memory at a time.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda where there is one]")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where detections and CLIP's numbers are kept, so that a second run is quick. [default: beside --out]"
        ),
    ] = None,
) -> None:
    """Score images of any generator: is every entity of the prompt there, and in its colour (TIAM)?

    Examples:

    ```
    keystep score images/ --prompts prompts.csv --out scores.json
    keystep score images.tar --prompts prompts.csv --sheet sheet.png
    keystep score images.json --prompts two_colored --allow-missing
    keystep score images/ --prompts two --clip ViT-L-14:openai --aesthetics sa_0_4_vit_l_14_linear.pth
    keystep score --from-json tiam_score_per_prompt/
    ```

    Interrupted, it goes on where it stopped when called again: detections, and what CLIP measured, are kept beside
    `--out`.

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
    from evaluation.tiam import CONFIDENCES, TiamSettings, check_colors

    prompt_set = load_prompt_set(prompts)
    grid = (confidence, *(value for value in CONFIDENCES if value > confidence))
    settings = TiamSettings(confidences=grid, superposed=superposed, palette=palette)  # type: ignore[arg-type]
    check_colors(prompt_set, palette)
    source = find_images(images, prompt_set, images_per_prompt=images_per_prompt)
    noted = Path(f"{out.with_suffix('') if out else 'scores'}.problems.txt")
    _tell(source.problems, noted, allow_missing)

    from transformers.utils import logging as transformers_logging

    from core.shapes.scenes import NOUNS
    from evaluation.clip import SHAPES_CLIP
    from evaluation.detection_cache import CachedDetector
    from evaluation.detectors import DEFAULT_DETECTOR, SHAPES_DETECTOR, load_detector
    from evaluation.prompt_sets import all_nouns
    from evaluation.saved_scores import prompt_scores
    from evaluation.score_report import report
    from evaluation.score_sheet import score_sheet
    from evaluation.scoring import score_source
    from evaluation.tiam_report import write_tables
    from search.commands.score_tables import metric_table, score_table

    transformers_logging.disable_progress_bar()
    shapes_only = set(all_nouns([prompt_set])) <= set(NOUNS)
    folder = cache or Path(f"{out.with_suffix('') if out else 'scores'}.detections")
    metrics = _metrics(clip or (SHAPES_CLIP if shapes_only else "none"), captioner, aesthetics, folder, device)
    detector = detector or (SHAPES_DETECTOR if shapes_only else DEFAULT_DETECTOR)
    cached = CachedDetector(load_detector(detector, min_score=min(0.1, confidence), device=device), folder)
    known = len(source.problems.unreadable)
    with progress_bar() as progress:
        task = progress.add_task("Scoring", total=len(source.files))
        scored = score_source(
            source,
            prompt_set,
            cached,
            settings,
            metrics=metrics,
            batch_size=batch_size,
            on_image=lambda file: progress.advance(task),
        )
    if len(source.problems.unreadable) > known:
        _tell(source.problems, noted, allow_missing)
    written = report(
        scored, settings, {"name": cached.name, "fingerprint": cached.fingerprint}, source.problems, metrics
    )
    if out is not None:
        write_json(out, written)
    if tiamv2 is not None:
        write_tables(prompt_scores(scored), tiamv2)
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        score_sheet(source, scored, cached).save(sheet)
    console = Console()
    console.print(score_table(scored, cached.name))
    if metrics is not None:
        console.print(metric_table(scored, metrics.models))
    for path in filter(None, (out, tiamv2, sheet)):
        console.print(f"-> {path}", highlight=False, soft_wrap=True)


def _metrics(
    clip: str, captioner: str | None, aesthetics: Path | None, folder: Path, device: str | None
) -> "ImageMetrics | None":
    """The models that were asked for, loaded; None without a CLIP."""
    from evaluation.aesthetics import AestheticHead
    from evaluation.captions import BlipCaptioner
    from evaluation.clip import load_clip
    from evaluation.image_metrics import ImageMetrics

    if clip == "none":
        if captioner is not None or aesthetics is not None:
            raise ValueError("--captioner and --aesthetics need a CLIP: --clip MODEL:WEIGHTS, or the folder of one")
        return None
    return ImageMetrics(
        load_clip(clip, device=device),
        folder,
        captioner=None if captioner is None else BlipCaptioner(captioner, device=device),
        aesthetics=None if aesthetics is None else AestheticHead(aesthetics),
    )


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
