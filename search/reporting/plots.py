"""The figures of a search: TIAM by refined step, the best so far, each prompt set before and after.

All are matplotlib figures without pyplot, so that any thread may draw them; `save` writes a PNG.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from keystep.evaluation.statistics import Estimate

# Okabe and Ito's colours, told apart by people with any colour vision.
INK, FAINT, HAIRLINE = "#1c1e22", "#707680", "#dee1e6"
WITHOUT, WITH, BASELINE = "#0072b2", "#d55e00", "#8a8f98"
SERIES = {False: (WITHOUT, "o", "IterRef alone"), True: (WITH, "s", "IterRef with GSNg")}


@dataclass(frozen=True)
class CurvePoint:
    """TIAM of the best setting tried at one step.

    Attributes:
        step_index, timestep: where it refines.
        gsng: whether guidance was on as well.
        estimate: accumulated TIAM with its interval.
        complete: seen on all instances; else it was pruned, and the estimate is of what it saw.
    """

    step_index: int
    timestep: float
    gsng: bool
    estimate: Estimate
    complete: bool = True


def tiam_by_timestep(
    points: Sequence[CurvePoint],
    baseline: Estimate | None = None,
    gsng_alone: Estimate | None = None,
    *,
    title: str = "TIAM by the step that is refined",
) -> Figure:
    """Accumulated TIAM against the refined step, noisiest at the left, with and without GSNg.

    Bars are intervals; hollow marks were pruned before they saw all instances. Bands are the model unrefined
    and with GSNg alone, with their intervals. ValueError if there is nothing to draw.
    """
    if not points:
        raise ValueError("there is no refined step to draw: no trial has an outcome yet")
    figure, axes = _canvas(title, (8.4, 4.8))
    for band, color, label in ((baseline, BASELINE, "unrefined"), (gsng_alone, WITH, "GSNg alone")):
        if band is not None:
            axes.axhspan(band.low, band.high, color=color, alpha=0.14, linewidth=0)
            axes.axhline(band.mean, color=color, linewidth=1.4, linestyle=(0, (4, 3)), label=label)
    aside = 0.09 if len({point.gsng for point in points}) == 2 else 0.0  # two series would hide each other's bars
    shifts = {False: -aside, True: aside}
    for gsng, (color, marker, label) in SERIES.items():
        series = sorted((point for point in points if point.gsng == gsng), key=lambda point: point.step_index)
        if series:
            _draw_series(axes, series, color, marker, label, shift=shifts[gsng])
    _name_best(axes, points, shifts)
    if any(not point.complete for point in points):
        axes.plot([], [], "o", markerfacecolor="white", color=FAINT, markersize=5, label="pruned: fewer instances")
    confidence = points[0].estimate.confidence
    axes.set_ylabel(f"TIAM, mean of the prompt sets ({confidence:.0%} intervals)")
    axes.set_xlabel("refined step: timestep, and step index below")
    _step_axis(axes, points)
    axes.margins(y=0.12)  # room for the name of the best
    _share_axis(axes)
    _legend(axes)
    return figure


def best_so_far(
    values: Sequence[Estimate], instances: Sequence[int], baseline: Estimate | None = None, *, title: str = ""
) -> Figure:
    """The best fully evaluated setting after each trial that ended, against the instances run until then.

    Args:
        values: of the best so far, one a trial ended.
        instances: run in all until that trial ended, rising.
        baseline: the unrefined model.
    """
    if not values or len(values) != len(instances):
        raise ValueError(f"expected as many estimates as instance counts, got {len(values)} and {len(instances)}")
    figure, axes = _canvas(title or "The best setting so far", (8.4, 4.2))
    if baseline is not None:
        axes.axhspan(baseline.low, baseline.high, color=BASELINE, alpha=0.14, linewidth=0)
        axes.axhline(baseline.mean, color=BASELINE, linewidth=1.4, linestyle=(0, (4, 3)), label="unrefined")
    low, high = [value.low for value in values], [value.high for value in values]
    axes.fill_between(instances, low, high, step="post", color=WITHOUT, alpha=0.16, linewidth=0)
    axes.step(instances, [value.mean for value in values], where="post", color=WITHOUT, linewidth=2.2, label="best")
    axes.plot(instances[-1], values[-1].mean, "o", color=WITHOUT, markersize=6)
    axes.set_xlabel("images judged in all trials")
    axes.set_ylabel(f"TIAM ({values[0].confidence:.0%} interval)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _share_axis(axes)
    _legend(axes)
    return figure


def sets_before_after(
    before: Mapping[str, Estimate], after: Mapping[str, Estimate], *, title: str = "", after_label: str = "refined"
) -> Figure:
    """Bars for each prompt set, unrefined and refined, with intervals. The sets are those of `before`."""
    if not before or set(before) != set(after):
        raise ValueError(f"before and after must have the same sets, got {sorted(before)} and {sorted(after)}")
    figure, axes = _canvas(title or "Before and after, by prompt set", (max(5.6, 1.5 * len(before) + 2.2), 4.6))
    width = 0.36
    for side, (found, color, label) in enumerate(((before, BASELINE, "unrefined"), (after, WITHOUT, after_label))):
        for place, name in enumerate(before):
            estimate, x = found[name], place + (side - 0.5) * (width + 0.03)
            axes.bar(x, estimate.mean, width, color=color, label=label if place == 0 else None, zorder=2)
            error = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
            axes.errorbar(x, estimate.mean, yerr=error, color=INK, linewidth=1.2, capsize=3, zorder=3)
            axes.annotate(
                f"{100 * estimate.mean:.0f}",
                (x, estimate.high),
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                fontsize=9,
                color=INK,
            )
    axes.set_xticks(range(len(before)), [name.replace("_", " ") for name in before])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"TIAM ({next(iter(before.values())).confidence:.0%} intervals)")
    axes.set_ylim(bottom=0)
    _share_axis(axes)
    axes.margins(y=0.1)
    _legend(axes)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG; a reader sees the whole file or none. Folders are made. Returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    figure.savefig(draft, format="png", dpi=144, facecolor="white")
    return draft.replace(path)


def _canvas(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(HAIRLINE)
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _draw_series(axes: Axes, series: Sequence[CurvePoint], color: str, marker: str, label: str, shift: float) -> None:
    """A line through complete points; every point with its interval, moved aside a little from its twin."""
    complete = [point for point in series if point.complete]
    line = [point.step_index + shift for point in complete], [point.estimate.mean for point in complete]
    axes.plot(*line, color=color, linewidth=1.8, marker=marker, markersize=5.5, label=label, zorder=3)
    for point in series:
        x, estimate = point.step_index + shift, point.estimate
        faint = 0.75 if point.complete else 0.4
        axes.vlines(x, estimate.low, estimate.high, color=color, linewidth=1.2, alpha=faint, zorder=2)
        if not point.complete:
            axes.plot(x, estimate.mean, marker, color=color, markerfacecolor="white", markersize=4.5, zorder=4)


def _name_best(axes: Axes, points: Sequence[CurvePoint], shifts: Mapping[bool, float]) -> None:
    complete = [point for point in points if point.complete]
    if complete:
        best = max(complete, key=lambda point: point.estimate.mean)
        axes.annotate(
            f"t {best.timestep:.0f}: {best.estimate.mean:.0%}",
            (best.step_index + shifts[best.gsng], best.estimate.high),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            fontsize=10,
            fontweight="bold",
            color=SERIES[best.gsng][0],
        )


def _step_axis(axes: Axes, points: Sequence[CurvePoint]) -> None:
    """Ticks at refined steps, labelled with timestep and step index, thinned to what can be read."""
    timesteps = {point.step_index: point.timestep for point in points}
    steps = sorted(timesteps)
    every = -(-len(steps) // 14)
    shown = steps[::every]
    axes.set_xticks(shown, [f"{timesteps[step]:.0f}\n{step}" for step in shown])
    axes.set_xlim(steps[0] - 0.6, steps[-1] + 0.6)


def _share_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(1.06, high))


def _legend(axes: Axes) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(frameon=False, fontsize=9, labelcolor=INK, loc="outside lower center", ncols=5)
