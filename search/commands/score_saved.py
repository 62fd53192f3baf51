"""`keystep score --from-json`: the scores in per-prompt TIAMv2 files, with intervals."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from keystep.search.commands.output import print_table, write_json
from keystep.search.commands.score_tables import saved_table


def score_saved(folder: Path, out: Path | None) -> None:
    """Aggregate the files of `folder`, show a table a kind of prompts, and write all of it to `out` if given."""
    from keystep.evaluation.saved_scores import read_saved

    saved = read_saved(folder)
    for kind in saved:
        print_table(saved_table(kind))
    if out is not None:
        write_json(out, {kind.name: asdict(kind) for kind in saved})
        Console().print(f"-> {out}", highlight=False, soft_wrap=True)
