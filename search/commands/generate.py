"""`keystep generate`: pictures of a prompt with a step config, and beside them those without."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from keystep.search.commands.output import progress_bar

if TYPE_CHECKING:
    from keystep.core.config import StepConfig
    from keystep.core.prompts import Prompt
    from keystep.evaluation.detector import Detector

MAX_SEEDS = 10_000
LARGEST_SEED = 2**63 - 1


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.", metavar="PROMPT")],
    entities: Annotated[
        str | None,
        typer.Option(
            help="What has to be in it, as words of the prompt; quotes keep words together: '\"black and white\" cat'. "
            "[default: found in prompts such as 'a photo of a red circle and a blue star']",
            metavar="'red circle, blue star'",
        ),
    ] = None,
    config: Annotated[Path, typer.Option(help="The step config that `keystep export` wrote.")] = Path(
        "step_config.json"
    ),
    seeds: Annotated[str, typer.Option(help="One picture each, such as 0-7 or 1,5,20-29.")] = "0-3",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the pictures into this folder, called as `keystep score` expects.", metavar="DIR"),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Draw a sheet of the same seeds without and with the refinement (.png).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace pictures that the folder has already.")
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Tick on the sheet what this detector finds, MODEL or KIND:MODEL. [default: the embedded one if the "
            "config's model is embedded, else none]"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time; memory grows with it.", min=1)] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda where there is one]")] = None,
) -> None:
    """Draw a prompt with the refinement of a step config, and for comparison without.

    Examples:

    ```
    keystep generate "a photo of a red circle and a blue star" \\
        --config step_config.json --compare out.png
    keystep generate "a cat near a dog" --entities "cat, dog" --seeds 0-7 \\
        --out pictures/
    ```
    """
    numbers = parse_seeds(seeds)
    if out is None and compare is None:
        raise ValueError("say where the pictures go: --compare out.png for a sheet, --out DIR for single files")
    if compare is not None and compare.suffix.lower() != ".png":
        raise ValueError(f"--compare is a .png file, got {compare}")
    from keystep.core.config import StepConfig
    from keystep.core.entity_list import parse_entities
    from keystep.core.prompts import Prompt, located_mentions
    from keystep.search.commands.mentioned import mentioned_entities
    from keystep.search.commands.picture_files import settled_names, settled_sheet, write_picture

    asked = mentioned_entities(prompt) if entities is None else Prompt(prompt, parse_entities(entities))
    if not config.is_file():
        raise ValueError(f"there is no step config {config}: make one with keystep export, or name it with --config")
    setting = StepConfig.load(config)
    located_mentions(asked)
    files = settled_names(out, prompt, numbers, overwrite=overwrite) if out is not None else {}
    if compare is not None:
        settled_sheet(compare, list(files.values()))

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from keystep.core.devices import usable_device
    from keystep.core.generation import load_pipeline
    from keystep.search.reporting.pictures import before_after, pictures

    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    console = Console()
    console.print(f"Entities: {', '.join(map(str, asked.entities))}", highlight=False, soft_wrap=True)
    place = usable_device(device)
    judge = _judge(detector, setting, asked, place) if compare is not None else None
    pipe = load_pipeline(setting).to(place)
    with progress_bar() as progress:
        task = progress.add_task("Drawing", total=len(numbers) * (1 if compare is None else 2))

        def draw(refine: bool):
            return pictures(
                pipe,
                asked,
                setting,
                numbers,
                refine=refine,
                batch_size=batch_size,
                on_done=lambda count: progress.advance(task, count),
            )

        after = draw(True)
        before = draw(False) if compare is not None else []
    for picture in after if files else ():
        write_picture(picture.image, files[picture.seed])
    if out is not None:
        console.print(f"-> {out} ({len(after)} pictures)", highlight=False, soft_wrap=True)
    if compare is not None:
        write_picture(before_after(asked, before, after, setting, judge), compare)
        console.print(f"-> {compare}", highlight=False, soft_wrap=True)


def parse_seeds(text: str) -> list[int]:
    """Seeds such as "0-7" or "1,5,20-29", each once, in the order given.

    Raises:
        ValueError: another form, a range that falls, a seed beyond `LARGEST_SEED`, or more than `MAX_SEEDS`.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match and max(map(len, filter(None, match.groups()))) > len(str(LARGEST_SEED)):
            raise ValueError(f"--seeds are at most {LARGEST_SEED:,}, got {part[:40].strip()}")
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"--seeds is a list such as 0-7 or 1,5,20-29, got {text!r}")
        if last > LARGEST_SEED:
            raise ValueError(f"--seeds are at most {LARGEST_SEED:,}, got {last:,}")
        if last - first + len(found) >= MAX_SEEDS:
            raise ValueError(f"--seeds names more than {MAX_SEEDS:,} seeds: {text!r}")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def _judge(detector: str | None, config: "StepConfig", prompt: "Prompt", device: str) -> "Detector | None":
    """The detector whose ticks the sheet shows; None if there is none to be had at once."""
    from keystep.core.shapes.models import EMBEDDED
    from keystep.core.shapes.scenes import NOUNS
    from keystep.evaluation.colors import palette_named
    from keystep.evaluation.detectors import SHAPES_DETECTOR, load_detector
    from keystep.evaluation.tiam import TiamSettings, check_colors

    palette = palette_named(TiamSettings().palette)
    embedded = config.model in EMBEDDED and all(
        entity.noun in NOUNS and (entity.attribute is None or palette.has(entity.attribute))
        for entity in prompt.entities
    )
    name = detector or (SHAPES_DETECTOR if embedded else None)
    if name is None:
        return None
    check_colors([prompt], palette.name)
    loaded = load_detector(name, device=device)
    loaded.check_nouns([prompt])
    return loaded
