"""`keystep ui`: browse searches in MLflow's user interface."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def ui(
    storage: Annotated[
        Path | None,
        typer.Option(help="The storage folder of a search: opens where its newest search is tracked.", metavar="DIR"),
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(
            help="The store itself: sqlite:///FILE, postgresql://..., or the http address of a running server. "
            "[default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db]"
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the browser, or only print the address.")
    ] = True,
) -> None:
    """Open MLflow's user interface at the store that searches are tracked in. Ctrl-C ends it.

    Examples:

    ```
    keystep ui
    keystep ui --storage keystep-runs --port 5001
    keystep ui --uri postgresql://user:password@host/mlflow --no-browser
    ```
    """
    from keystep.search.tracking.ui_server import find_store, open_browser, serving

    console = Console()
    store = find_store(storage, uri)
    with serving(store, port) as server:
        console.print(f"Searches in {server.shown} are at [bold]{server.address}[/bold]", soft_wrap=True)
        if browser:
            open_browser(server.address)
        server.wait()
