"""`keystep score`: how well do a folder of images show what their prompts asked?"""

from keystep.search.commands import score_options as options


def score(
    images: options.Images = None,
    prompts: options.Prompts = None,
    out: options.Out = None,
    detector: options.Detector = None,
    clip: options.Clip = None,
    captioner: options.Captioner = None,
    aesthetics: options.Aesthetics = None,
    sheet: options.Sheet = None,
    allow_missing: options.AllowMissing = False,
    from_json: options.FromJson = None,
    tiamv2: options.Tiamv2 = None,
    images_per_prompt: options.ImagesPerPrompt = None,
    confidence: options.Confidence = 0.25,
    palette: options.Palette = "tiam",
    superposed: options.Superposed = "none",
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    cache: options.Cache = None,
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
