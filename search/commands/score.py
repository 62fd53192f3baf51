"""`keystep score`: how well do a folder of images show what their prompts asked?"""

from pathlib import Path
from typing import Annotated

import typer

from keystep.search.commands.numbers import finite


def score(
    images: Annotated[
        Path | None,
        typer.Argument(
            help="A folder or .tar of images called prompt_with_underscores_N.png, GenEval's folders, T2I-CompBench's "
            "images, or a .json map of prompt to files.",
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
    keystep score images/ --prompts two --clip ViT-L-14:openai \\
        --aesthetics sa_0_4_vit_l_14_linear.pth
    keystep score --from-json tiam_score_per_prompt/
    ```

    Interrupted, it goes on where it stopped when called again: detections, and what CLIP measured, are kept beside
    `--out`.

    Intervals are over prompts, at 95 %, since images of one prompt are not independent.

    Images that are missing, unreadable, surplus or of odd size are named, and end it with exit code 2 and without
    scores, unless `--allow-missing`.
    """
    if from_json is not None:
        from keystep.search.commands.score_saved import score_saved

        score_saved(from_json, out)
        return
    if images is None or prompts is None:
        raise ValueError("keystep score needs IMAGES and --prompts, or --from-json DIR; see keystep score --help")
    from keystep.search.commands.score_request import ScoreRequest, checked_images

    asked = ScoreRequest(
        images=images,
        prompts=prompts,
        out=out,
        detector=detector,
        clip=clip,
        captioner=captioner,
        aesthetics=aesthetics,
        sheet=sheet,
        allow_missing=allow_missing,
        tiamv2=tiamv2,
        images_per_prompt=images_per_prompt,
        confidence=confidence,
        palette=palette,
        superposed=superposed,
        batch_size=batch_size,
        device=device,
        cache=cache,
    )
    found = checked_images(asked)
    from keystep.search.commands.score_images import score_images

    score_images(asked, *found)
