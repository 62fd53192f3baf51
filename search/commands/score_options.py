"""What `keystep score` can be asked: an option of the command line each."""

from pathlib import Path
from typing import Annotated

import typer

from keystep.search.commands.numbers import finite

Images = Annotated[
    Path | None,
    typer.Argument(
        help="A folder or .tar of images called prompt_with_underscores_N.png, GenEval's folders, T2I-CompBench's "
        "images, or a .json map of prompt to files.",
        metavar="IMAGES",
    ),
]
Prompts = Annotated[
    str | None,
    typer.Option(help="What was asked: a file as `keystep prompts` writes it, or a standard set's name."),
]
Out = Annotated[Path | None, typer.Option(help="Write all scores here (.json).")]
Detector = Annotated[
    str | None,
    typer.Option(
        help="MODEL or KIND:MODEL, a hub id or folder. [default: keystep/shapes-segmenter if every noun is one of "
        "its shapes, else Roboflow/rf-detr-seg-medium]"
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        help="Measure how alike images and prompts are to a CLIP of open_clip: MODEL:WEIGHTS (ViT-L-14:openai), "
        "hf-hub:ORG/NAME, a folder, or `none`. [default: keystep/shapes-clip if every noun is one of its shapes, "
        "else none]",
        metavar="MODEL[:WEIGHTS]|FOLDER",
    ),
]
Captioner = Annotated[
    str | None,
    typer.Option(help="A BLIP, hub id or folder: how alike its captions and the prompts are, text with text."),
]
Aesthetics = Annotated[
    Path | None,
    typer.Option(
        help="LAION's aesthetic head for that CLIP (.pth, .safetensors, .npz): shows when a setting wins by "
        "ruining pictures."
    ),
]
Sheet = Annotated[Path | None, typer.Option(help="Draw prompts x images with ticks and crosses (.png).")]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="Score although images are missing, unreadable, surplus or of odd size; say which."
    ),
]
FromJson = Annotated[
    Path | None,
    typer.Option(help="Instead of IMAGES: a folder with TIAMv2's results, one .json a prompt.", metavar="DIR"),
]
Tiamv2 = Annotated[
    Path | None,
    typer.Option(help="Write the scores in TIAMv2's files too, one .json a prompt and the aggregates.", metavar="DIR"),
]
ImagesPerPrompt = Annotated[
    int | None,
    typer.Option(help="Expect numbers 0 to this minus one. [default: every number any prompt has]", min=1, max=100_000),
]
Confidence = Annotated[
    float,
    typer.Option(help="Least score of an instance. Higher ones are reported too.", min=0.0, max=1.0, callback=finite),
]
Palette = Annotated[str, typer.Option(help="Colour names: tiam (comparable with published) or extended.")]
Superposed = Annotated[
    str, typer.Option(help="Two labels on the same pixels: none (both count), drop_both or keep_best.")
]
BatchSize = Annotated[int, typer.Option(help="Images in memory at a time.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda where there is one]")]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Where detections and CLIP's numbers are kept, so that a second run is quick. [default: beside --out]"
    ),
]
