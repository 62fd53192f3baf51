"""What a search ends with, as MLflow shows it: a few numbers, a note in Markdown, the held-out outcomes."""

from typing import TYPE_CHECKING, Any

from keystep.search.reporting.estimate_text import percent_with_interval
from keystep.search.settings.settings_text import setting_text
from keystep.search.tracking.run_fields import metric_name

if TYPE_CHECKING:
    from keystep.search.choice.result import Chosen
    from keystep.search.choice.search_costs import SearchCosts
    from keystep.search.choice.selection import HeldOut
    from keystep.search.spec.search_spec import SearchSpec

MEANINGS = (
    "Metrics under `cost/` are those of result.json and the report: `evaluations_spent` and `evaluations_plain` count "
    "denoiser evaluations of the search and of the plain way, `evaluations_saved` is the share of the latter that was "
    "not spent; `wall_seconds` are those that the search ran, `worker_seconds` those of its workers together."
)


def conclusion(
    spec: "SearchSpec",
    chosen: "Chosen",
    held_out: "HeldOut | None",
    export_command: str,
    costs: "SearchCosts | None" = None,
) -> dict[str, Any]:
    """JSON values: `note`, `metrics`, `tags`, and `outcomes` (setting to instance number to outcome, held-out).

    Args:
        costs: of the whole search, as result.json has them.
    """
    data: dict[str, Any] = {"metrics": {}, "tags": {}, "outcomes": {}}
    if chosen.winner is not None:
        data["tags"]["keystep.winner"] = setting_text(chosen.winner)
    if held_out is not None:
        comparison = held_out.winner.comparison
        assert comparison is not None
        gain = comparison.difference
        data["tags"] |= {"keystep.significant": held_out.significant, "keystep.p": f"{comparison.p_adjusted:.4g}"}
        data["metrics"] = {
            "held_out/baseline": held_out.baseline.tiam.mean,
            "held_out/tiam": held_out.winner.tiam.mean,
            "held_out/gain": gain.mean,
            "held_out/gain_low": gain.low,
            "held_out/gain_high": gain.high,
        }
        for name, confirmed in (("baseline", held_out.baseline), ("winner", held_out.winner)):
            values = confirmed.measured.values
            data["outcomes"][name] = {str(number): float(value) for number, value in values.items()}
    if costs is not None:
        data["metrics"] |= costs.metrics()
    data["note"] = _note(spec, chosen, held_out, export_command, costs)
    return data


def _note(
    spec: "SearchSpec",
    chosen: "Chosen",
    held_out: "HeldOut | None",
    export_command: str,
    costs: "SearchCosts | None",
) -> str:
    spent = [] if costs is None else ["", f"Cost: {costs.text}", "", MEANINGS]
    if chosen.winner is None:
        return "\n".join([f"# {spec.name}: no winner", "", chosen.reason, *spent]) + "\n"
    lines = [f"# {spec.name}: {setting_text(chosen.winner)}", "", f"Chosen as the {chosen.reason}.", ""]
    if held_out is not None:
        lines += [f"**{held_out.summary}.**", "", *_table(held_out), ""]
        if held_out.significant:
            lines += ["Export it:", "", "```", export_command, "```"]
        else:
            lines.append("There is no significant gain, so nothing is exported unless you insist (`--force`).")
    lines += [*spent, "", f"Search `{spec.search_id}`; the figures are under Artifacts, `plots`."]
    return "\n".join(lines) + "\n"


def _table(held_out: "HeldOut") -> list[str]:
    """Held-out TIAM of every setting, over all sets and by set, per cent with 95 % intervals; cost an image."""
    columns = held_out.settings
    rows = [["TIAM on held-out prompts, %", *columns], ["---", *("---:" for _ in columns)]]
    rows.append(["all sets", *(percent_with_interval(confirmed.tiam) for confirmed in columns.values())])
    for name in held_out.baseline.by_set:
        cells = [percent_with_interval(confirmed.by_set[name]) for confirmed in columns.values()]
        rows.append([metric_name(name).replace("_", " "), *cells])
    evaluations = [f"{confirmed.measured.evaluations_per_image:.0f}" for confirmed in columns.values()]
    rows.append(["denoiser evaluations an image", *evaluations])
    seconds = [f"{confirmed.measured.seconds_per_image:.3g}" for confirmed in columns.values()]
    rows.append(["seconds an image", *seconds])
    return [f"| {' | '.join(row)} |" for row in rows]
