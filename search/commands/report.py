"""`keystep report`: what a search found, on the terminal and as a file."""

from pathlib import Path
from typing import Annotated

import typer

from keystep.search.commands.output import table_console


def report(
    search: Annotated[
        str, typer.Argument(help="A search: its id, its name, its folder or its result.json.", metavar="SEARCH")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write it: .html (one file, figure inside) or .md (figure beside it)."),
    ] = None,
    settings: Annotated[int, typer.Option(help="Settings listed at most, the best first.", min=1)] = 30,
    storage: Annotated[str | None, typer.Option(help="The search's storage.path. [default: ./keystep-runs]")] = None,
) -> None:
    """Show the verdict on held-out prompts, TIAM by step, every setting tried and what the search cost.

    Works while the search is running, too.

    Examples:

    ```
    keystep report shapes-sd
    keystep report shapes-sd --out report.html
    ```
    """
    from keystep.search.choice.stored_searches import load_result
    from keystep.search.reporting.report import print_report
    from keystep.search.reporting.report import report as make_report
    from keystep.search.reporting.report_formats import SUFFIXES, write_report

    if out is not None and out.suffix not in SUFFIXES:
        raise ValueError(f"--out is a file that ends in {' or '.join(SUFFIXES)}, got {out}")
    result = load_result(search, storage)
    console = table_console()
    print_report(result, console, shown=settings)
    if out is not None:
        for path in write_report(make_report(result, shown=settings), out):
            console.print(f"-> {path}", highlight=False, soft_wrap=True)
