"""`keystep doctor`: whether a search can run on a cluster, before it does."""

from typing import Annotated

import typer

from keystep.search.commands.options import Overrides, SpecArgument
from keystep.search.commands.output import table_console


def doctor(
    spec: SpecArgument = "shapes-sd",
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster. [default: RAY_ADDRESS, else this machine]", metavar="RAY"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try on every node what a search needs: versions, room, models, memory, storage, tracking, clocks.

    Ends with exit code 1 if something is not as it must be, and says what to do.

    Examples:

    ```
    keystep doctor shapes-sd
    keystep doctor sd14.yaml --address 10.0.0.5:6379
    ```
    """
    import json
    import sys
    from dataclasses import replace

    from rich.console import Console

    from keystep.cluster.checks.checks_report import report
    from keystep.cluster.checks.preflight import doctor as examine
    from keystep.search.checks.spec_checks import check_spec
    from keystep.search.reporting.report_formats import show
    from keystep.search.spec.loading import load_spec
    from keystep.search.storing.secrets import masked

    loaded = load_spec(spec, overrides or [])
    check_spec(loaded, writes=False)  # before the imports below, which take seconds

    errors = Console(file=sys.stderr, highlight=False)
    with errors.status("preflight") as status:

        def tell(step: str) -> None:
            status.update(f"preflight: {step}")
            if not errors.is_terminal:
                errors.print(f"preflight: {step}", markup=False)

        checks = [replace(check, found=masked(check.found)) for check in examine(loaded, address, tell)]
    if as_json:
        print(json.dumps([vars(check) for check in checks], indent=1))
    else:
        show(report(loaded.name, checks), table_console())
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
