"""What `keystep score` does once the images are found: detect, score, write, show."""

from pathlib import Path

from rich.console import Console
from transformers.utils import logging as transformers_logging

from keystep.core.shapes.scenes import NOUNS
from keystep.evaluation.aesthetics import AestheticHead
from keystep.evaluation.captions import BlipCaptioner
from keystep.evaluation.clip import SHAPES_CLIP, load_clip
from keystep.evaluation.detection_cache import CachedDetector
from keystep.evaluation.detectors import DEFAULT_DETECTOR, SHAPES_DETECTOR, load_detector
from keystep.evaluation.image_metrics import ImageMetrics
from keystep.evaluation.image_source import ImageSource
from keystep.evaluation.prompt_sets import PromptSet, all_nouns
from keystep.evaluation.saved_scores import prompt_scores
from keystep.evaluation.score_report import report
from keystep.evaluation.score_sheet import score_sheet
from keystep.evaluation.scoring import SetScore, score_source
from keystep.evaluation.tiam_report import write_tables
from keystep.search.commands.output import going_on, print_table, progress_bar, write_json
from keystep.search.commands.score_request import ScoreRequest, tell_problems
from keystep.search.commands.score_tables import metric_table, score_table


def score_images(asked: ScoreRequest, prompts: PromptSet, source: ImageSource) -> None:
    """Score the images that `checked_images` found, and show, write and draw what was asked.

    Raises:
        ValueError: a model that cannot be loaded, or that does not know what the prompts ask for.
    """
    transformers_logging.disable_progress_bar()
    shapes_only = set(all_nouns([prompts])) <= set(NOUNS)
    folder = asked.cache or asked.beside_out(".detections")
    metrics = _metrics(asked, asked.clip or (SHAPES_CLIP if shapes_only else "none"), folder)
    name = asked.detector or (SHAPES_DETECTOR if shapes_only else DEFAULT_DETECTOR)
    found = load_detector(name, min_score=min(0.1, asked.confidence), device=asked.device)
    detector = CachedDetector(found, folder)
    scored = _scored(source, prompts, detector, metrics, asked)
    _write(asked, source, scored, detector, metrics)
    _show(asked, scored, detector.name, metrics)


def _metrics(asked: ScoreRequest, clip: str, folder: Path) -> ImageMetrics | None:
    """The models that were asked for, loaded; None without a CLIP."""
    if clip == "none":
        if asked.captioner is not None or asked.aesthetics is not None:
            raise ValueError("--captioner and --aesthetics need a CLIP: --clip MODEL:WEIGHTS, or the folder of one")
        return None
    return ImageMetrics(
        load_clip(clip, device=asked.device),
        folder,
        captioner=None if asked.captioner is None else BlipCaptioner(asked.captioner, device=asked.device),
        aesthetics=None if asked.aesthetics is None else AestheticHead(asked.aesthetics),
    )


def _scored(
    source: ImageSource,
    prompts: PromptSet,
    detector: CachedDetector,
    metrics: ImageMetrics | None,
    asked: ScoreRequest,
) -> SetScore:
    """The scores, with a bar that shows how far it is; what turns out unreadable on the way is told."""
    known = len(source.problems.unreadable)
    with (
        progress_bar() as progress,
        going_on(lambda: f"{progress.tasks[0].completed:.0f} of {len(source.files)} images are scored"),
    ):
        task = progress.add_task("Scoring", total=len(source.files))
        scored = score_source(
            source,
            prompts,
            detector,
            asked.settings(),
            metrics=metrics,
            batch_size=asked.batch_size,
            on_image=lambda file: progress.advance(task),
        )
    if len(source.problems.unreadable) > known:
        tell_problems(source.problems, asked)
    return scored


def _write(
    asked: ScoreRequest,
    source: ImageSource,
    scored: SetScore,
    detector: CachedDetector,
    metrics: ImageMetrics | None,
) -> None:
    """The files that were asked for."""
    named = {"name": detector.name, "fingerprint": detector.fingerprint}
    written = report(scored, asked.settings(), named, source.problems, metrics)
    if asked.out is not None:
        write_json(asked.out, written)
    if asked.tiamv2 is not None:
        write_tables(prompt_scores(scored), asked.tiamv2)
    if asked.sheet is not None:
        asked.sheet.parent.mkdir(parents=True, exist_ok=True)
        score_sheet(source, scored, detector).save(asked.sheet)


def _show(asked: ScoreRequest, scored: SetScore, detector: str, metrics: ImageMetrics | None) -> None:
    """The tables, and where the files are."""
    console = Console()
    print_table(score_table(scored, detector))
    if metrics is not None:
        print_table(metric_table(scored, metrics.models))
    for path in filter(None, (asked.out, asked.tiamv2, asked.sheet)):
        console.print(f"-> {path}", highlight=False, soft_wrap=True)
