"""The tables that `keystep score` ends with."""

from typing import TYPE_CHECKING

from keystep.search.commands.output import interval_text
from keystep.search.reporting.estimate_text import percent_with_interval
from keystep.search.reporting.table import Table

if TYPE_CHECKING:
    from keystep.evaluation.saved_scores import SavedScore
    from keystep.evaluation.scoring import SetScore


def score_table(scored: "SetScore", detector: str) -> Table:
    """Scores with their intervals, a row a confidence."""
    from keystep.evaluation.score_report import entity_rates, estimates

    found = [estimates(scored, index) for index in range(len(scored.confidences))]
    first = found[0]["tiam"]
    return Table(
        (">Confidence", ">TIAM, %", *((">without colours, %",) if scored.colored() else ())),
        [
            (f"{confidence:g}", *map(percent_with_interval, row.values()))
            for confidence, row in zip(scored.confidences, found, strict=True)
        ],
        title=f"{scored.prompts.name}: {first.num_images} images of {first.num_prompts} prompts, detector {detector}",
        note="Entities found: "
        + ", ".join(f"{rate['found']:.1%}" for rate in entity_rates(scored))
        + " (in the order of the prompt). Intervals: 95 %, over prompts.",
    )


def metric_table(scored: "SetScore", models: dict[str, dict[str, str]]) -> Table:
    """What was measured beside TIAM, a row a metric; `models` by their part: clip, captioner, aesthetics."""
    from keystep.evaluation.image_metrics import METRICS
    from keystep.evaluation.score_report import metric_estimates

    named = ", ".join(f"{part} {model['name']}" for part, model in models.items())
    return Table(
        ("Metric", ">Mean"),
        [(METRICS[name].title, interval_text(estimate)) for name, estimate in metric_estimates(scored).items()],
        title=f"Measured with {named}",
        note="Higher is better. Intervals: 95 %, over prompts.",
    )


def saved_table(kind: "SavedScore") -> Table:
    """Scores out of files of TIAMv2, a row a confidence."""
    columns = [kind.tiam] + ([] if kind.without_colors is None else [kind.without_colors])
    return Table(
        (">Confidence", ">TIAM, %", *((">without colours, %",) if len(columns) > 1 else ())),
        [
            (f"{confidence:g}", *map(percent_with_interval, estimates))
            for confidence, *estimates in zip(kind.confidences, *columns, strict=True)
        ],
        title=f"{kind.name.removesuffix('.json')}: {kind.tiam[0].num_prompts} prompts",
    )
