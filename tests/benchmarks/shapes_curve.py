"""The paper's curve for the embedded models: accumulated TIAM by refined step, with and without GSNg.

    python -m tests.benchmarks.shapes_curve docs/images

Read from the recorded grids (tests/benchmarks/record_grid.py): 10 iterations, weights 1 and 1, all recorded prompts.
Writes curve-<model>.png and prints the numbers.
"""

import argparse
from pathlib import Path

from keystep.core.config import Refinement
from keystep.evaluation.statistics import Estimate, compare, interval
from keystep.search.replaying.recorded_grid import RecordedGrid, load_grid
from keystep.search.reporting.plots import CurvePoint, save, tiam_by_timestep

ITERATIONS, IOU = 10, 1.0


def estimate(grid: RecordedGrid, setting: Refinement | None) -> Estimate:
    """Of a setting on all recorded prompts; the sets are of one size."""
    return interval(grid.outcomes[grid.rows[setting]].astype(float))


def curve(grid: RecordedGrid) -> list[tuple[CurvePoint, Estimate]]:
    """The points, and each one's paired difference to the unrefined model."""
    points = []
    baseline = grid.outcomes[grid.rows[None]].astype(float)
    for setting, row in grid.rows.items():
        if setting is None or setting.iterref is None or setting.weights.iou != IOU:
            continue
        step = setting.iterref.step_index
        if setting.iterref.iterations == ITERATIONS:
            point = CurvePoint(step, grid.timesteps[step], setting.gsng is not None, estimate(grid, setting))
            points.append((point, compare(grid.outcomes[row].astype(float), baseline).difference))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["shapes-sd", "shapes-sd3"])
    options = parser.parse_args()
    for name in options.models:
        grid = load_grid(name)
        points = curve(grid)
        baseline = estimate(grid, None)
        alone, *_ = [estimate(grid, setting) for setting in grid.space.guidance_alone()]
        print(f"{name}: unrefined {_shown(baseline)}, GSNg alone {_shown(alone)}")
        for point, difference in points:
            place = f"step {point.step_index:>2} {'GSNg' if point.gsng else '':4}"
            print(f"  {place}  {_shown(point.estimate)}  difference {_shown(difference, '+')}")
        title = f"{name}: TIAM by the step that is refined, {baseline.num_prompts} prompts"
        figure = tiam_by_timestep([point for point, _ in points], baseline, alone, title=title)
        print(save(figure, options.folder / f"curve-{name}.png"))


def _shown(value: Estimate, sign: str = "") -> str:
    return f"{value.mean:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
