"""`keystep estimate`: what a search will cost, before it is launched."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keystep.search.commands.numbers import finite
from keystep.search.commands.options import Overrides, SpecArgument
from keystep.search.commands.output import table_console

if TYPE_CHECKING:
    from keystep.cluster.estimating.simulation import Pace
    from keystep.search.spec.search_spec import SearchSpec

LOADING_SECONDS = 60.0  # of a worker, where it was not measured
MAX_GPUS, MAX_ROWS = 100_000, 32
STORAGE_MEGABYTES = 500.0  # a second, of a shared disk of middling speed


def estimate(
    spec: SpecArgument = "shapes-sd",
    overrides: Overrides = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds-per-evaluation",
            help="Of one image through the denoiser once, at resources.batch_size; a step with guidance takes two.",
            min=1e-9,
            max=1e6,
            callback=finite,
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a step here, or on the Ray cluster that RAY_ADDRESS names.")
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(
            "--price-per-gpu-hour",
            help="Adds what the search costs, in the same currency.",
            min=0,
            max=1e9,
            callback=finite,
        ),
    ] = None,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs to compare.")] = "1,8,64,512",
    storage: Annotated[
        float,
        typer.Option(
            "--storage-mb-per-second",
            help="What the storage of the latents gives in all.",
            min=1e-3,
            max=1e9,
            callback=finite,
        ),
    ] = STORAGE_MEGABYTES,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw wall time and utilisation against the number of GPUs (.png).")
    ] = None,
) -> None:
    """Estimate denoiser evaluations, wall time, GPU-hours and money of a search: the plain way, and as it will run.

    Examples:

    ```
    keystep estimate shapes-sd --measure
    keystep estimate sd14 --seconds-per-evaluation 0.02 \\
        --price-per-gpu-hour 2.5 --plot cost.png
    keystep estimate sd14 --set search.lookahead=64 \\
        --seconds-per-evaluation 0.02 --gpus 8,64
    ```
    """
    if seconds is not None and measure:
        raise ValueError("give --seconds-per-evaluation or --measure, not both")
    if price is not None and seconds is None and not measure:
        raise ValueError("--price-per-gpu-hour needs times: give --seconds-per-evaluation, or --measure")
    if plot is not None and plot.suffix != ".png":
        raise ValueError(f"--plot is a .png file, got {plot}")
    counts = _numbers(gpus)
    import json

    from keystep.cluster.estimating.estimate import estimate as estimated
    from keystep.cluster.estimating.estimate_report import draw, report, to_json
    from keystep.cluster.estimating.replayed import replayed_trials
    from keystep.search.reporting.plots import save
    from keystep.search.reporting.report_formats import show
    from keystep.search.spec.loading import load_spec

    loaded = load_spec(spec, overrides or [])
    trials, seeds = replayed_trials(loaded)
    found = estimated(
        loaded,
        pace=_pace(loaded, seconds, measure),
        gpus=counts,
        replayed=trials,
        seeds_a_prompt=seeds,
        storage_bytes_per_second=storage * 1e6,
    )
    if plot is not None:
        save(draw(found), plot)
    if as_json:
        print(json.dumps(to_json(found, price), indent=1))
        return
    console = table_console()
    show(report(found, price), console)
    if plot is not None:
        console.print(f"-> {plot}", highlight=False, soft_wrap=True)


def _pace(spec: "SearchSpec", seconds: float | None, measure: bool) -> "Pace | None":
    from keystep.cluster.estimating.driver_pace import SECONDS_PER_RESULT, SECONDS_PER_TRIAL
    from keystep.cluster.estimating.simulation import Pace

    driver = {"result": SECONDS_PER_RESULT, "trial": SECONDS_PER_TRIAL}
    if seconds is not None:
        return Pace(evaluation=seconds, loading=LOADING_SECONDS, **driver)
    if not measure:
        return None
    from keystep.cluster.estimating.measured import measure as measured

    found = measured(spec)
    return Pace(evaluation=found.evaluation, image=found.image, loading=found.loading, **driver)


def _numbers(text: str) -> list[int]:
    try:
        counts = sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise ValueError(f"--gpus is a list of numbers such as 1,8,64, got {text[:40]!r}") from None
    if counts[0] < 1 or counts[-1] > MAX_GPUS or len(counts) > MAX_ROWS:
        raise ValueError(
            f"--gpus is a list of at most {MAX_ROWS} numbers, each at least 1 and at most {MAX_GPUS:,}, got "
            f"{text[:40]!r}"
        )
    return counts
