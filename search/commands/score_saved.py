"""`keystep score --from-json`: the scores in per-prompt TIAMv2 files, with intervals."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from search.commands.output import write_json
from search.reporting.estimate_text import percent_with_interval


def score_saved(folder: Path, out: Path | None) -> None:
    """Aggregate the files of `folder`, show a table a kind of prompts, and write all of it to `out` if given."""
    from evaluation.saved_scores import read_saved

    saved = read_saved(folder)
    console = Console()
    for kind in saved:
        table = Table(title=f"{kind.name.removesuffix('.json')}: {kind.tiam[0].num_prompts} prompts")
        table.add_column("Confidence", justify="right")
        table.add_column("TIAM, %", justify="right")
        columns = [kind.tiam]
        if kind.without_colors is not None:
            table.add_column("without colours, %", justify="right")
            columns.append(kind.without_colors)
        for confidence, *estimates in zip(kind.confidences, *columns, strict=True):
            table.add_row(f"{confidence:g}", *map(percent_with_interval, estimates))
        console.print(table)
    if out is not None:
        write_json(out, {kind.name: asdict(kind) for kind in saved})
        console.print(f"-> {out}", highlight=False, soft_wrap=True)
