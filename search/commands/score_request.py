"""What `keystep score` is asked, and the checks that need no model."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from keystep.evaluation.image_source import ImageSource, Problems, find_images
from keystep.evaluation.prompt_io import load_prompt_set
from keystep.evaluation.prompt_sets import PromptSet
from keystep.evaluation.tiam import CONFIDENCES, TiamSettings, check_colors

NAMED = 10  # problems of a kind that are shown; all of them go to a file


@dataclass(frozen=True)
class ScoreRequest:
    """What was asked of `keystep score`; its help says what each means."""

    images: Path
    prompts: str
    out: Path | None
    detector: str | None
    clip: str | None
    captioner: str | None
    aesthetics: Path | None
    sheet: Path | None
    allow_missing: bool
    tiamv2: Path | None
    images_per_prompt: int | None
    confidence: float
    palette: str
    superposed: str
    batch_size: int
    device: str | None
    cache: Path | None

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix.lower() != ".json":
            raise ValueError(f"--out is a .json file, got {self.out}")
        if self.sheet is not None and self.sheet.suffix.lower() != ".png":
            raise ValueError(f"--sheet is a .png file, got {self.sheet}")

    def settings(self) -> TiamSettings:
        """How TIAM is to be measured."""
        grid = (self.confidence, *(value for value in CONFIDENCES if value > self.confidence))
        return TiamSettings(confidences=grid, superposed=self.superposed, palette=self.palette)  # type: ignore[arg-type]

    def beside_out(self, suffix: str) -> Path:
        """A file or folder called as `out` is, `scores` without one, with another suffix."""
        return Path(f"{self.out.with_suffix('') if self.out else 'scores'}{suffix}")


def checked_images(asked: ScoreRequest) -> tuple[PromptSet, ImageSource]:
    """The prompts and their images, found and checked before anything is loaded that takes long.

    Raises:
        ValueError: a mistake in what was asked; images that are not as expected, unless that is allowed.
    """
    prompts = load_prompt_set(asked.prompts)
    asked.settings()
    check_colors(prompts, asked.palette)
    source = find_images(asked.images, prompts, images_per_prompt=asked.images_per_prompt)
    tell_problems(source.problems, asked)
    return prompts, source


def tell_problems(problems: Problems, asked: ScoreRequest) -> None:
    """Name what is wrong with the images, all of it in a file; ValueError unless it is allowed."""
    if not problems:
        return
    lines = []
    for kind, entries in problems.lists().items():
        if entries:
            lines += [f"{len(entries)} {kind}:", *(f"    {entry}" for entry in entries[:NAMED])]
            lines += [f"    ... and {len(entries) - NAMED} more"] if len(entries) > NAMED else []
    noted = asked.beside_out(".problems.txt")
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(
        "".join(f"{kind}\t{entry}\n" for kind, entries in problems.lists().items() for entry in entries),
        encoding="utf-8",
    )
    lines.append(f"All of them: {noted}")
    text = "\n".join(lines)
    if not asked.allow_missing:
        raise ValueError(f"the images are not what the prompts ask for.\n{text}\nScore what there is: --allow-missing")
    Console(stderr=True, soft_wrap=True).print(text, style="yellow", markup=False, highlight=False)
