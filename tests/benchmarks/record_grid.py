"""Record what every setting of a grid makes of every instance, so that searches can be replayed without a model.

    python -m tests.benchmarks.record_grid shapes-sd
    python -m tests.benchmarks.record_grid shapes-sd3

The models are sampled as the built-in specs say. What was computed is kept in the outcome store of --storage:
interrupted, the same command goes on. A row of the file is an instance of a part under one setting.
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from keystep.core.config import Refinement
from keystep.search.images.evaluator import Evaluator
from keystep.search.replaying.recorded_grid import GRIDS, save_grid
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.spec.loading import load_spec
from keystep.search.spec.schedule import timesteps_of
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.work.evaluators import evaluator_for

COMMON = (
    "space.gsng=[off, on]",
    "space.step_size=[20.0]",
    "prompts.seeds=[0]",
    "prompts.held_out_seeds=[100]",
    "search.sampler=grid",
    "resources.batch_size=32",
    "storage.latents_gb=40",
)
GRIDS_OF = {
    "shapes-sd": (*COMMON, "space.iou=[0.0, 1.0]", "space.iterations=[5, 10]"),
    "shapes-sd3": (*COMMON, "space.iou=[1.0]", "space.iterations=[10]", "prompts.held_out=8"),
}
"""What the recorded grids differ in from the built-in specs."""


def grid_spec(name: str, storage: str) -> SearchSpec:
    """The spec whose grid is recorded."""
    return load_spec(name, [*GRIDS_OF[name], f"storage.path={storage}"])


def settings_of(spec: SearchSpec, timesteps: list[float]) -> Iterator[tuple[dict[str, Any], Refinement | None]]:
    """Params and setting: unrefined, GSNg alone, then the grid: without GSNg first, then the most iterations."""
    space = Space(spec, timesteps)
    yield {"step_index": -1, "gsng": "off"}, None
    for alone in space.guidance_alone():
        yield {"step_index": -1, "gsng": "on"}, alone
    for params in sorted(space.grid(), key=lambda params: (params["gsng"] != "off", -params.get("iterations", 0))):
        yield params, space.refinement(params)


def record(spec: SearchSpec, index: int) -> tuple[int, list[dict[str, Any]]]:
    """The rows of setting number `index`."""
    evaluator = evaluator_for(spec)
    assert isinstance(evaluator, Evaluator)
    params, refinement = list(settings_of(spec, evaluator.timesteps))[index]
    rows = []
    for part in make_parts(spec):
        for number, outcome in evaluator.evaluate(refinement, part.instances).items():
            place = {"part": part.name, "number": number, "tiam": int(outcome.tiam)}
            cost = {"evaluations_alone": outcome.evaluations_alone, "seconds": outcome.seconds}
            rows.append({"setting": index, **params, **place, **cost})
    return index, rows


def portable(spec: SearchSpec) -> SearchSpec:
    """The spec without the folder of the machine that recorded."""
    return spec.model_copy(update={"storage": spec.storage.model_copy(update={"path": "./keystep-runs"})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", choices=GRIDS_OF)
    parser.add_argument("--out", type=Path, help="default: search/grids/<spec>.parquet")
    parser.add_argument("--storage", default="runs/grid", help="outcomes and latents (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    spec = grid_spec(options.spec, options.storage)
    path = options.out or GRIDS / f"{options.spec}.parquet"
    timesteps = list(timesteps_of(spec))
    indices = range(len(list(settings_of(spec, timesteps))))
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        # The unrefined model first and alone: it leaves the prefixes that all others start from.
        rows += pool.submit(record, spec, 0).result()[1]
        futures = [pool.submit(record, spec, index) for index in indices[1:]]
        for done, future in enumerate(as_completed(futures), 1):
            rows += future.result()[1]
            left = (time.monotonic() - began) / done * (len(futures) - done)
            print(f"{done}/{len(futures)} settings, about {left / 60:.0f} min left", flush=True)
    rows.sort(key=lambda row: (row["setting"], row["part"], row["number"]))
    names = dict.fromkeys(name for row in rows for name in row if name != "seconds")
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    save_grid(table, portable(spec), timesteps, path)
    print(f"{path} written, {path.stat().st_size / 1e3:.0f} kB, {len(rows)} outcomes")


if __name__ == "__main__":
    main()
