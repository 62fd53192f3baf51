"""The tables that `keystep score` ends with."""

from typing import TYPE_CHECKING

from rich.table import Table

from search.commands.output import interval_text
from search.reporting.estimate_text import percent_with_interval

if TYPE_CHECKING:
    from evaluation.scoring import SetScore


def score_table(scored: "SetScore", detector: str) -> Table:
    """Scores with their intervals, a row a confidence."""
    from evaluation.score_report import entity_rates, estimates

    rows = [estimates(scored, index) for index in range(len(scored.confidences))]
    first = rows[0]["tiam"]
    table = Table(
        title=f"{scored.prompts.name}: {first.num_images} images of {first.num_prompts} prompts, detector {detector}",
        caption="Entities found: "
        + ", ".join(f"{rate['found']:.1%}" for rate in entity_rates(scored))
        + " (in the order of the prompt). Intervals: 95 %, over prompts.",
    )
    table.add_column("Confidence", justify="right")
    table.add_column("TIAM, %", justify="right")
    if scored.colored():
        table.add_column("without colours, %", justify="right")
    for confidence, row in zip(scored.confidences, rows, strict=True):
        table.add_row(f"{confidence:g}", *map(percent_with_interval, row.values()))
    return table


def metric_table(scored: "SetScore", models: dict[str, dict[str, str]]) -> Table:
    """What was measured beside TIAM, a row a metric; `models` by their part: clip, captioner, aesthetics."""
    from evaluation.image_metrics import METRICS
    from evaluation.score_report import metric_estimates

    named = ", ".join(f"{part} {model['name']}" for part, model in models.items())
    table = Table("Metric", title=f"Measured with {named}", caption="Higher is better. Intervals: 95 %, over prompts.")
    table.add_column("Mean", justify="right")
    for name, estimate in metric_estimates(scored).items():
        table.add_row(METRICS[name].title, interval_text(estimate))
    return table
