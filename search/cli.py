"""The `keystep` command: one module a command in `keystep.search.commands`, imported when the command line starts.

A command's module holds a function with typer's annotations and imports what is heavy (torch, ray, a
detector) inside it, so that `keystep --help` answers at once. To add a command, write its module and name the
function in `commands`. `keystep.cluster.cli` adds the commands of the room above and is what is installed as `keystep`.
"""

import importlib.util
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer

HELP = """Find the one denoising step at which to repair a text-to-image model, and ship it as a small config.

Examples, in the order of a first visit:

```
keystep search --out step_config.json
keystep report shapes-sd
keystep generate "a photo of a red circle and a blue star" --compare out.png
keystep ui
```

`keystep COMMAND --help` has more of each.
"""

# Installed by the `search` extra, and needed by every command.
NEEDED = ("typer", "rich", "yaml", "scipy")

Commands = Mapping[str, Callable[..., None]]
"""Every command's function, by the name it is called by, in the order that help lists them."""


def main(more: Callable[[], Commands] | None = None) -> None:
    """Run the command line; says what to install if the `search` extra is missing.

    Args:
        more: what brings the commands of another room.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"keystep: the command line needs {', '.join(missing)}, which come with the search extra:\n"
            "    pip install 'keystep[search]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    heed_interrupts()
    build_app({**commands(), **(more() if more else {})})()


def heed_interrupts() -> None:
    """Have SIGINT end this process even as a script's background job, for which shells ignore it.

    `keystep stop` sends it to a local search.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def commands() -> Commands:
    """The commands of this room."""
    from keystep.search.commands.export import export
    from keystep.search.commands.generate import generate
    from keystep.search.commands.prompts import prompts
    from keystep.search.commands.report import report
    from keystep.search.commands.score import score
    from keystep.search.commands.search import search
    from keystep.search.commands.ui import ui

    return {
        "search": search,
        "report": report,
        "export": export,
        "generate": generate,
        "prompts": prompts,
        "score": score,
        "ui": ui,
    }


def build_app(shown: Commands | None = None) -> "typer.Typer":
    """The command line as a typer application. User errors end it with exit code 2 and one message.

    Args:
        shown: its commands; None is those of this room.
    """
    import typer

    from keystep.search.commands.errors import PlainErrors

    app = typer.Typer(
        cls=PlainErrors,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=HELP,
    )

    @app.callback()
    def options(
        debug: Annotated[
            bool, typer.Option("--debug", envvar="KEYSTEP_DEBUG", help="Show the traceback of an error.")
        ] = False,
    ) -> None:
        """`debug` is read by PlainErrors, which also accepts it after the command."""

    for name, function in (commands() if shown is None else shown).items():
        app.command(name)(function)
    return app
