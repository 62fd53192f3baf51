"""`keystep search`: find the step, the weights and the number of iterations that repair a model best."""

from pathlib import Path
from typing import Annotated

import typer

from keystep.search.commands.options import Overrides, SpecArgument
from keystep.search.commands.output import table_console


def search(
    spec: SpecArgument = "shapes-sd",
    overrides: Overrides = None,
    print_spec: Annotated[
        bool, typer.Option("--print-spec", help="Print the spec as YAML, to save and edit, and do nothing else.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of going on. Images already judged are not made again.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the step config here when the search ends with a significant gain (.json)."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw held-out images before and after here (.png).")] = None,
) -> None:
    """Search the best refinement step of a model, confirm it on held-out prompts, and say how to export it.

    Examples:

    ```
    keystep search                                # the embedded model, minutes
    keystep search --print-spec sd14 > sd14.yaml  # a spec to edit
    keystep search sd14.yaml --set resources.workers=8 --set search.trials=200
    keystep search shapes-sd --out step_config.json --sheet before_after.png
    ```

    The same command again goes on where it stopped, after Ctrl-C or a crash: what was judged once is never made again.
    """
    from keystep.search.spec.loading import load_spec, spec_yaml

    for option, path, suffix in (("--out", out, ".json"), ("--sheet", sheet, ".png")):
        if path is not None and path.suffix != suffix:
            raise ValueError(f"{option} is a {suffix} file, got {path}")
    loaded = load_spec(spec, overrides or [])
    if print_spec:
        print(spec_yaml(loaded), end="")
        return
    from keystep.search.checks.spec_checks import check_spec

    check_spec(loaded)  # before the imports below, which take seconds
    from keystep.search.reporting.report import report
    from keystep.search.reporting.report_formats import show
    from keystep.search.shipping.exporting import step_config
    from keystep.search.stages.runner import run_search

    result = run_search(loaded, fresh=fresh, sheet=sheet)
    console = table_console()
    show(report(result, figures=False), console)
    if out is not None:
        step_config(result).save(out)
        console.print(f"-> {out}", highlight=False, soft_wrap=True)
