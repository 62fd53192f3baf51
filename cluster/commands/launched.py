"""`keystep status`, `keystep logs` and `keystep stop`: look after a search that was launched."""

import sys
from typing import Annotated

import typer
from rich.console import Console

Search = Annotated[
    str, typer.Argument(help="A search that keystep launch started: its id or its name.", metavar="SEARCH")
]


def status(search: Search) -> None:
    """Say where a launched search stands: its job, and, where its storage is seen from here, its trials.

    Examples:

    ```
    keystep status sd14
    keystep status 3f9c2a71b04d
    ```
    """
    from keystep.cluster.launching.progress import progress_line
    from keystep.cluster.sending.launches import find_launch
    from keystep.cluster.targets import TARGETS

    known = find_launch(search)
    console = Console(highlight=False, soft_wrap=True)
    state = TARGETS[known.target].state(known.handle)
    console.print(f"{known.name} ({known.search_id}), launched to {known.target} on {known.launched}", markup=False)
    console.print(f"{state.phase}: {state.detail}", markup=False)
    console.print(progress_line(known), markup=False)
    if not state.active:
        console.print("The same keystep launch goes on with it, if it is not finished.", markup=False)


def logs(
    search: Search,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the search ends.")] = False,
) -> None:
    """Print what a launched search has printed.

    Examples:

    ```
    keystep logs sd14
    keystep logs sd14 --follow
    ```
    """
    from keystep.cluster.sending.launches import find_launch
    from keystep.cluster.targets import TARGETS

    known = find_launch(search)
    try:
        for piece in TARGETS[known.target].logs(known.handle, follow):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None  # the search goes on; only the watching ends


def stop(search: Search) -> None:
    """End a launched search and give its machines back. What it has found stays: launched again, it goes on.

    Examples:

    ```
    keystep stop sd14
    ```
    """
    from keystep.cluster.sending.launches import find_launch
    from keystep.cluster.targets import TARGETS

    known = find_launch(search)
    said = TARGETS[known.target].stop(known.handle)
    Console(highlight=False, soft_wrap=True).print(f"{known.name} ({known.search_id}): {said}", markup=False)
