"""Which attention layers the maps come from."""

from collections.abc import Mapping

from torch import nn

from keystep.core.config import AttentionChoice

Grid = tuple[int, int]

MIN_QUERIES = 64
"""Queries that a grid must have to be taken where the rule finds none: 8 x 8."""


def choose_layers(
    layers: Mapping[str, tuple[nn.Module, Grid]], choice: AttentionChoice, target: Grid
) -> tuple[dict[str, nn.Module], Grid]:
    """The chosen layers and their query grid.

    ``choice.layers`` names layers or the blocks that hold them; ``choice.resolution`` takes the layers of
    that grid (of those named, if some are). With neither: the layers at ``target`` or, if there are none,
    at the coarsest grid of at least ``MIN_QUERIES`` queries.

    Args:
        layers: all there are, with their grids (h, w).
        choice: as the user asked.
        target: the grid of the rule.

    Raises:
        ValueError: a name or grid that the model has not, layers of different grids, or no grid that is fine
            enough; lists what there is.
    """
    available = sorted({grid for _, grid in layers.values()}, reverse=True)
    listed = ", ".join(f"{height} x {width}" for height, width in available) or "none"
    chosen = dict(layers)
    if choice.layers is not None:
        chosen = _named(layers, choice.layers)
    if choice.resolution is not None:
        chosen = {name: layer for name, layer in chosen.items() if layer[1] == choice.resolution}
        if not chosen:
            raise ValueError(
                "no attention layer (of those named, if some are) has the resolution "
                f"{choice.resolution[0]} x {choice.resolution[1]}; at this image size there are {listed}"
            )
    elif choice.layers is None:
        ruled = target in available and min(target) > 1
        fine_enough = [grid for grid in available if grid[0] * grid[1] >= MIN_QUERIES and min(grid) > 1]
        if not ruled and not fine_enough:
            raise ValueError(
                f"no attention layer at {target[0]} x {target[1]}, nor one of {MIN_QUERIES} queries or more "
                f"(there are {listed}): make larger images, or set the resolution of the attention choice"
            )
        grid = target if ruled else min(fine_enough, key=lambda grid: grid[0] * grid[1])
        chosen = {name: layer for name, layer in layers.items() if layer[1] == grid}
    grids = {grid for _, grid in chosen.values()}
    if len(grids) > 1:
        raise ValueError(
            f"the attention layers named have different query grids {sorted(grids)}: name layers of one grid, or "
            "set the resolution too"
        )
    return {name: module for name, (module, _) in chosen.items()}, grids.pop()


def _named(layers: Mapping[str, tuple[nn.Module, Grid]], names: tuple[str, ...]) -> dict[str, tuple[nn.Module, Grid]]:
    for wanted in names:
        if not any(name == wanted or name.startswith(wanted + ".") for name in layers):
            raise ValueError(f"no attention layer is called {wanted!r}; there are {', '.join(layers)}")
    return {
        name: layer
        for name, layer in layers.items()
        if any(name == wanted or name.startswith(wanted + ".") for wanted in names)
    }
