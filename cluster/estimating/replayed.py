"""How early trials are stopped, from searches replayed on the recorded grid that comes with keystep."""

from keystep.search.replaying.recorded_grid import load_grid
from keystep.search.replaying.replay import ReplayedTrial, replay
from keystep.search.spec.search_spec import SearchSpec

NUM_REPLAYS = 3


def replayed_trials(spec: SearchSpec) -> tuple[tuple[ReplayedTrial, ...], int]:
    """The trials of replays with the spec's sampler and pruner, and the seeds of each of their prompts.

    The trials of the replays are in the order of their slots: the first of each, then the second of each.
    A replay tries as many settings as the spec, or as the grid has.

    Raises:
        ValueError: there is no recorded grid.
    """
    if spec.search.pruner == "none":
        return (), 1
    grid = load_grid()
    size = grid.space.size
    assert size is not None, "a recorded grid has as many settings as were recorded"
    trials = min(spec.search.trials, size)
    replays = [
        replay(
            grid,
            sampler=spec.search.sampler,
            pruner=spec.search.pruner,
            pruner_options=dict(spec.search.pruner_options),
            seed=spec.search.seed + number,
            trials=trials,
            lookahead=spec.search.lookahead,
        )
        for number in range(NUM_REPLAYS)
    ]
    ordered = [trial for slot in zip(*(found.trials for found in replays), strict=True) for trial in slot]
    return tuple(ordered), len(grid.spec.prompts.seeds)
