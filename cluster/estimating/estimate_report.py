"""An estimate as a report, as plain values, and as a picture."""

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter, ScalarFormatter

from keystep.cluster.estimating.driver_pace import SOURCE as DRIVER_SOURCE
from keystep.cluster.estimating.estimate import Estimate, Row
from keystep.cluster.estimating.limits import Limit, lookahead_for, saturation
from keystep.cluster.estimating.simulation import Simulated
from keystep.search.reporting.report_formats import Block, Report, Section, Table

SHOWN_STEPS = 12
LESS_OF_A_STEP = ("shared, GSNg on", "shared before it")  # beneath the row where a terminal is narrow
PLAIN, EXPECTED = "#8a8f98", "#0072b2"  # as in keystep.search.reporting.plots
LIMITS: dict[Limit, str] = {
    "none": "the GPUs",
    "lookahead": "lookahead",
    "driver": "driver",
    "storage": "storage",
    "loading": "loading models",
    "sequence": "too little at a time",
}


def report(found: Estimate, price: float | None = None) -> Report:
    """What is computed, step by step, and what it takes on each number of GPUs.

    Args:
        price: of a GPU-hour, in whatever currency; None leaves the money out.
    """
    spec = found.spec
    sections = [
        Section("What is computed", [_counts(found)]),
        Section("An image refined at a step, denoiser evaluations", _steps(found)),
        Section("Time" if price is None else "Time and money", _times(found, price)),
        Section("Assumptions", assumptions(found)),
    ]
    return Report(
        title=f"{spec.name}: what the search will cost",
        lead=(
            f"{found.expected.evaluations:,.0f} denoiser evaluations are expected, {found.saved:.0%} less than the "
            f"{found.plain.evaluations:,.0f} of the plain way (every setting on every instance, each image from noise)."
        ),
        sections=sections,
    )


def to_json(found: Estimate, price: float | None = None) -> dict[str, Any]:
    """The same as plain values; seconds, shares in [0, 1], and money where there is a price."""
    validation, held_out = found.parts
    return {
        "search_id": found.spec.search_id,
        "instances": {"validation": len(validation.instances), "held_out": len(held_out.instances)},
        "trials": found.settings,
        "evaluations": {"plain": found.plain.evaluations, "expected": found.expected.evaluations, "saved": found.saved},
        "images": {"plain": found.plain.images, "expected": found.expected.images},
        "latents_gigabytes": found.stored_gigabytes,
        "steps": [vars(step) for step in found.steps],
        "pace": None if found.pace is None else vars(found.pace),
        "rows": [_row_json(row, price) for row in found.rows],
        "assumptions": assumptions(found),
    }


def draw(found: Estimate) -> Figure:
    """Wall time and utilisation against the number of GPUs, plain way and expected.

    Raises:
        ValueError: an estimate without a pace has no times to draw.
    """
    if not found.rows:
        raise ValueError("--plot draws times: give --seconds-per-evaluation, or --measure")
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    figure.suptitle(f"{found.spec.name}: {found.settings} trials, lookahead {found.spec.search.lookahead}")
    hours, used = figure.subplots(1, 2)
    gpus = [row.gpus for row in found.rows]
    for name, color, marker in (("plain", PLAIN, "s"), ("expected", EXPECTED, "o")):
        ways: list[Simulated] = [getattr(row, name) for row in found.rows]
        label = "plain way" if name == "plain" else "with sharing and pruning"
        hours.plot(gpus, [way.seconds / 3600 for way in ways], color=color, marker=marker, label=label)
        used.plot(gpus, [way.utilisation for way in ways], color=color, marker=marker, label=label)
    hours.set_title("Wall time", loc="left", fontweight="bold")
    hours.set_ylabel("hours")
    hours.set_yscale("log")
    hours.yaxis.set_major_formatter("{x:g}")
    hours.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    hours.yaxis.set_minor_formatter("{x:g}")
    used.set_title("Utilisation of the GPUs", loc="left", fontweight="bold")
    used.set_ylabel("share of their time for what was needed")
    used.set_ylim(0, 1.02)
    used.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (hours, used):
        axes.set_xscale("log", base=2)
        axes.set_xticks(gpus)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("GPUs")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return figure


def advice(row: Row, found: Estimate) -> str:
    """What to change so that so many GPUs are of use; empty if they are."""
    workers, lookahead = row.expected.workers, found.spec.search.lookahead
    match row.limit:
        case "none":
            return ""
        case "lookahead":
            assert found.pace is not None
            enough = lookahead_for(found.expected, found.pace, workers, lookahead)
            return f"raise search.lookahead from {lookahead} to {enough:,}"
        case "driver":
            return "raise search.block_prompts, so that results are fewer"
        case "storage":
            return "name a disk of each node in storage.latents_path"
        case "loading":
            return "take fewer GPUs; keep the model's files on the nodes"
        case "sequence":
            return "take fewer GPUs, or raise search.trials"


def assumptions(found: Estimate) -> list[str]:
    """What the numbers rest on, a sentence each."""
    spec, pace = found.spec, found.pace
    lines = [*found.notes]
    lines.append(
        "A denoiser evaluation is one sample through the denoiser once; a shift of the latents counts as two, since it "
        "goes forward and back."
    )
    if spec.search.pruner == "none":
        lines.append("No trial is stopped early (search.pruner is none).")
    else:
        lines.append(
            f"{found.stopped:.0%} of the trials are stopped early, after as many prompts as in replays of the "
            "recorded grid of keystep/shapes-sd; those that saw all of its prompts see all of this search's."
        )
    lines.append(
        f"Settings are drawn at random and share what was computed before them in the order of their slots; the "
        f"latents take {found.stored_gigabytes:,.1f} GB in the end"
        + (
            f", of which only storage.latents_gb, {spec.storage.latents_gb:g}, are kept: raise it, or less is saved."
            if found.stored_gigabytes > spec.storage.latents_gb
            else f" (storage.latents_gb is {spec.storage.latents_gb:g})."
        )
    )
    if spec.space.threshold is not None or spec.space.ranges:
        lines.append("With a threshold or ranges only the unrefined steps before a setting acts are counted as shared.")
    if pace is None:
        return [*lines, "No times: give --seconds-per-evaluation, or --measure to run a step here."]
    lines.append(
        f"One evaluation takes {pace.evaluation:.4g} s an image, decoding and judging an image {pace.image:.3g} s, "
        f"loading the models {pace.loading:.3g} s a worker, once a search."
    )
    lines.append(
        f"The driver takes {1000 * pace.result:.0f} ms for a result and {1000 * pace.trial:.0f} ms for a trial "
        f"({DRIVER_SOURCE}); all workers together move a latent from or to the storage in {1000 * pace.point:.2g} ms."
    )
    gpus = f"{spec.resources.gpus:g}" if spec.resources.gpus else "by the spec none, here one"
    lines.append(
        f"GPUs of a worker: {gpus}. resources.workers, max_hours and max_gpu_hours are left aside; GPU-hours are those "
        "rented, busy or not; used is the share of them that went into what was needed."
    )
    return lines


def _counts(found: Estimate) -> Table:
    validation, held_out = found.parts

    def row(name: str, part: Any) -> tuple[str, ...]:
        prompts = len(part.instances) // len(part.seeds)
        return (
            name,
            str(len(part.sets)),
            f"{prompts:,}",
            str(len(part.seeds)),
            f"{len(part.instances):,}",
            str(len(part.blocks)),
        )

    return Table(
        ("", ">sets", ">prompts", ">seeds", ">instances", ">blocks"),
        (row("validation", validation), row("held-out", held_out)),
        note=f"{found.settings} settings are tried; {found.plain.images:,} images the plain way, "
        f"{found.expected.images:,} expected.",
    )


def _steps(found: Estimate) -> list[Block]:
    steps = found.steps
    every = -(-len(steps) // SHOWN_STEPS)
    shown = steps[::every]
    counts = sorted(shown[0].alone)
    guided = shown[0].saved_guided is not None
    columns = [">step", ">timestep", *(f">{count} iterations" for count in counts), ">shared before it"]
    rows = []
    for step in shown:
        row = [str(step.step_index), "-" if step.timestep is None else f"{step.timestep:g}"]
        row += [f"{step.alone[count]:g}" for count in counts] + [f"{step.saved:g}"]
        rows.append(row + ([f"{step.saved_guided:g}"] if guided else []))
    note = "From noise, without guidance (GSNg)."
    note += f" Every {every}th step is shown." if every > 1 else ""
    return [Table([*columns, *([">shared, GSNg on"] if guided else [])], rows, note=note, secondary=LESS_OF_A_STEP)]


def _times(found: Estimate, price: float | None) -> list[Block]:
    if not found.rows:
        return ["Not known without a pace."]
    money = price is not None
    columns = (
        ">GPUs",
        "way",
        ">wall time",
        ">GPU-hours",
        ">used",
        ">in vain",
        *((">money",) if money else ()),
        "limit",
        "to do",
    )
    rows = []
    for row in found.rows:
        for name, way in (("plain", row.plain), ("expected", row.expected)):
            hours = row.gpu_hours(way)
            cells = [f"{row.gpus:,}", name, duration(way.seconds), f"{hours:,.4g}" if hours < 1000 else f"{hours:,.0f}"]
            cells += [f"{way.utilisation:.0%}", f"{way.in_vain:.0%}"] + (
                [f"{hours * (price or 0.0):,.2f}"] if money else []
            )
            rows.append(cells + (["", ""] if name == "plain" else [LIMITS[row.limit], advice(row, found)]))
    return [Table(columns, rows, secondary=("to do", "limit")), _saturation(found)]


def _saturation(found: Estimate) -> str:
    """Where driver and storage would become the limit."""
    assert found.pace is not None
    driver, storage = (
        f"from about {workers:,.0f} workers on" if math.isfinite(workers) else "on no number of workers"
        for workers in saturation(found.expected, found.pace)
    )
    return f"If no trial had to wait, the driver would be the limit {driver}, and the storage {storage}."


def _row_json(row: Row, price: float | None) -> dict[str, Any]:
    def way(found: Simulated) -> dict[str, Any]:
        hours = row.gpu_hours(found)
        plain = {"wall_seconds": found.seconds, "gpu_hours": hours, "utilisation": found.utilisation}
        plain["in_vain"] = found.in_vain
        plain |= {"stages": found.stages, "driver": found.driver, "storage": found.storage}
        return plain | ({} if price is None else {"money": hours * price})

    return {"gpus": row.gpus, "plain": way(row.plain), "expected": way(row.expected), "limit": row.limit}


def duration(seconds: float) -> str:
    """In the two units that matter, as in "2 d 4 h" or "3 min 20 s"."""
    for unit, name, smaller, its_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            whole, rest = divmod(seconds, unit)
            return f"{whole:.0f} {name} {rest // smaller:.0f} {its_name}"
    return f"{seconds:.3g} s"
