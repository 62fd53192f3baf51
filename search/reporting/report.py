"""What a search found, as a report: the verdict, the curve over the steps, every setting, how to repeat it."""

from collections.abc import Sequence

from rich.console import Console

from keystep.evaluation.metric_names import METRICS
from keystep.evaluation.statistics import Comparison, Estimate
from keystep.search.choice.result import SearchResult, SettingRow
from keystep.search.choice.selection import Confirmed
from keystep.search.reporting.estimate_text import percent_with_interval
from keystep.search.reporting.plots import CurvePoint
from keystep.search.reporting.report_formats import Block, Command, Figure, Report, Section, Table, show
from keystep.search.settings.settings_text import setting_text

SHOWN = 30  # settings in the table, the best first
CURVE_HEADS = {False: ">TIAM without GSNg, %", True: ">TIAM with GSNg, %"}


def report(result: SearchResult, *, figures: bool = True, shown: int | None = SHOWN) -> Report:
    """The report of a search, finished or not.

    Args:
        figures: whether to draw the curve (needs matplotlib).
        shown: settings in the table at most; None is all.
    """
    result = result.model_copy(update={"spec": result.spec.without_secrets()})
    sections = [
        Section("Held-out prompts", _held_out(result)),
        Section("To mind", result.notes),
        Section("By step", _by_step(result, figures)),
        Section("Settings tried", [settings_table(result, shown)]),
        Section("Cost", [result.costs.text]),
        Section("Use it", _use(result)),
        Section("Repeat it", [_provenance(result)]),
    ]
    return Report(
        title=f"{result.spec.name}: the best refinement step of {result.spec.model.id}",
        lead=_lead(result),
        sections=[section for section in sections if section.blocks],
    )


def print_report(result: SearchResult, console: Console, *, shown: int | None = SHOWN) -> None:
    """The report on a terminal, without its figures."""
    show(report(result, figures=False, shown=shown), console)


def curve(result: SearchResult) -> list[CurvePoint]:
    """TIAM by refined step, with and without GSNg: at each the best fully evaluated setting tried.

    Where none was fully evaluated, the best of those stopped early stands in, marked as not complete. The best of
    several is flattered by chance, and more so where more were tried; a grid of steps alone has one setting a point.
    """
    best: dict[tuple[int, bool], SettingRow] = {}
    for row in sorted(result.trials, key=lambda row: (row.state != "complete", -row.tiam.mean if row.tiam else 0.0)):
        if row.refinement is not None and row.refinement.iterref is not None and row.tiam is not None:
            best.setdefault((row.refinement.iterref.step_index, row.refinement.gsng is not None), row)
    return [
        CurvePoint(step, result.timesteps[step], guided, row.tiam, row.state == "complete")
        for (step, guided), row in sorted(best.items())
        if row.tiam is not None
    ]


def curve_table(result: SearchResult) -> Table:
    """The curve's numbers, with and without GSNg as far as tried."""
    found = {(point.step_index, point.gsng): point for point in curve(result)}
    heads = {guided: head for guided, head in CURVE_HEADS.items() if any(gsng == guided for _, gsng in found)}
    rows = []
    for step in sorted({step for step, _ in found}):
        cells = [_curve_cell(found.get((step, guided))) for guided in heads]
        rows.append((str(step), f"{result.timesteps[step]:g}", *cells))
    return Table(
        (">Step", ">Timestep", *heads.values()),
        rows,
        "The best setting tried at each step, on the validation prompts; in brackets the 95 % interval over prompts. "
        "A star: stopped early, over the prompts seen until then.",
    )


def held_out_table(result: SearchResult) -> Table | None:
    """Baseline, winner and runner-up on held-out prompts; None before they were measured."""
    held_out = result.held_out
    if held_out is None:
        return None
    rows = [_confirmed(result, name, confirmed) for name, confirmed in held_out.settings.items()]
    tiam = held_out.baseline.tiam
    return Table(
        ("", "Setting", ">TIAM, %", ">Gain, points", ">p", ">s/image", ">Evaluations/image"),
        rows,
        f"{tiam.num_images} images of {tiam.num_prompts} prompts that no setting was chosen on. In brackets 95 % "
        "intervals over prompts; gains are paired; p of no gain, one-sided, by Holm over the settings confirmed.",
        secondary=("Evaluations/image", "s/image", "Setting"),
    )


def metrics_table(result: SearchResult) -> Table | None:
    """What was measured beside TIAM on held-out prompts; None if nothing was."""
    if result.metrics is None:
        return None
    rows = []
    for name, metric in result.metrics.metrics.items():
        gain = metric.gains["winner"]
        change = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        rows.append((METRICS[name].title, *map(_as_it_is, metric.settings.values()), change))
    names = next(iter(result.metrics.metrics.values())).settings
    models = ", ".join(f"{kind} {model['name']}" for kind, model in result.metrics.models.items())
    return Table(
        ("Also measured", *(f">{name}" for name in names), ">winner - unrefined"),
        rows,
        f"Higher is better; they decided nothing. In brackets 95 % intervals over prompts. Measured by {models}.",
        secondary=tuple(reversed(list(names))),
    )


def sets_table(result: SearchResult) -> Table | None:
    """TIAM of each prompt set on held-out prompts; None before they were measured."""
    held_out = result.held_out
    if held_out is None:
        return None
    return Table(
        ("Prompt set", *(f">{name}, %" for name in held_out.settings)),
        [
            (name, *(percent_with_interval(confirmed.by_set[name]) for confirmed in held_out.settings.values()))
            for name in held_out.baseline.by_set
        ],
        secondary=("runner-up, %",),
    )


def settings_table(result: SearchResult, shown: int | None = SHOWN) -> Table:
    """The baselines, then the settings tried: fully evaluated ones first, the best at the top."""
    ranked = result.ranked()
    listed = ranked if shown is None else ranked[:shown]
    chosen = result.chosen
    rows = []
    for row in (result.baseline, *listed):
        mark = ""
        if chosen is not None and row.refinement is not None and row.state == "complete":
            named = (("winner", chosen.winner), ("runner-up", chosen.runner_up))
            mark = next((name for name, refinement in named if refinement == row.refinement), "")
        rows.append(
            (
                "" if row.slot is None else str(row.slot),
                setting_text(row.refinement, result.timesteps),
                "" if row.tiam is None else percent_with_interval(row.tiam),
                f"{row.evaluations_per_image:.0f}" if row.values else "",
                f"{len(row.values)}/{len(result.validation.instances)}",
                mark or (row.state if row.state == "complete" else f"{row.state}: {row.reason}"),
            )
        )
    left = len(ranked) - len(listed)
    return Table(
        (">Trial", "Setting", ">TIAM, %", ">Evaluations/image", ">Images", "Outcome"),
        rows,
        "On validation prompts, where the settings were chosen: the best of many is flattered by chance."
        + (f" {left} more are in result.json." if left else ""),
        secondary=("Evaluations/image", "Images", "Outcome"),
    )


def _as_it_is(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _curve_cell(point: CurvePoint | None) -> str:
    return "" if point is None else percent_with_interval(point.estimate) + ("" if point.complete else "*")


def _confirmed(result: SearchResult, name: str, confirmed: Confirmed) -> tuple[str, ...]:
    measured, comparison = confirmed.measured, confirmed.comparison
    return (
        name,
        setting_text(measured.refinement, result.timesteps),
        percent_with_interval(confirmed.tiam),
        "" if comparison is None else _gain(comparison),
        "" if comparison is None else f"{comparison.p_adjusted:.2g}",
        f"{measured.seconds_per_image:.3g}",
        f"{measured.evaluations_per_image:.0f}",
    )


def _gain(comparison: Comparison) -> str:
    gain = comparison.difference
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _lead(result: SearchResult) -> str:
    if result.held_out is not None:
        return f"{result.held_out.summary}. It is: {setting_text(result.chosen and result.chosen.winner)}."
    if result.chosen is not None and result.chosen.winner is None:
        return f"Nothing was found: {result.chosen.reason}."
    return f"The search is {result.status}; {len(result.trials)} trials have ended, and nothing is confirmed yet."


def _held_out(result: SearchResult) -> list[Block]:
    tables: list[Block] = [
        table for table in (held_out_table(result), sets_table(result), metrics_table(result)) if table is not None
    ]
    if tables and result.chosen is not None:
        tables.insert(0, f"Chosen on validation: {result.chosen.reason}.")
    return tables


def _by_step(result: SearchResult, figures: bool) -> list[Block]:
    points = curve(result)
    if not points:
        return []
    blocks: list[Block] = []
    if figures:
        blocks.append(Figure(_curve_png(result, points), "TIAM by the step that is refined, on validation prompts."))
    return [*blocks, curve_table(result)]


def _curve_png(result: SearchResult, points: Sequence[CurvePoint]) -> bytes:
    import io

    from keystep.search.reporting.plots import tiam_by_timestep

    alone = result.baselines[1].tiam if len(result.baselines) > 1 else None
    file = io.BytesIO()
    tiam_by_timestep(points, result.baseline.tiam, alone).savefig(file, format="png", dpi=144, facecolor="white")
    return file.getvalue()


def _use(result: SearchResult) -> list[Block]:
    if result.held_out is None:
        return []
    force = "" if result.held_out.significant else " --force"
    return [Command(f"{result.export_command}{force}")]


def _provenance(result: SearchResult) -> Table:
    spec = result.spec
    sets = ", ".join(f"{name} {digest[:12]}" for name, digest in result.held_out_part.sets.items())
    rows = [
        ("Search", result.search_id),
        ("Model", spec.model.id + (f" at {spec.model.revision}" if spec.model.revision else "")),
        (
            "Sampler",
            f"{spec.sampler.scheduler}, {spec.sampler.num_inference_steps} steps, guidance "
            f"{spec.sampler.guidance_scale:g}, {spec.sampler.width} x {spec.sampler.height} px",
        ),
        ("Detector", result.detector),
        ("Held-out prompts", sets),
        ("Seeds", f"validation {_listed(result.validation.seeds)}, held-out {_listed(result.held_out_part.seeds)}"),
        ("Search method", f"{spec.search.sampler}, pruner {spec.search.pruner}, seed {spec.search.seed}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))),
        ("Commit", result.git_commit or "not in a repository"),
    ]
    return Table(("", ""), rows)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
