"""Arguments that several commands share."""

from typing import Annotated

import typer

SpecArgument = Annotated[
    str, typer.Argument(help="A .yaml file, or a built-in spec: shapes-sd, shapes-sd3, sd14, sd3-medium, sdxl.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value of the spec, as in search.trials=40. Repeatable.", metavar="KEY=VALUE"),
]
