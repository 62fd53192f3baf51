"""How many results the driver takes: a soak of trials of milliseconds through the real Ray Tune loop of a search.

Every trial goes through `keystep.search.stages.tuning.run_trials`, the pool of `keystep.search.work` and a study on
disk, as in a search; only the images are made up. Results a second, the driver's time a trial and its memory are
measured over the run, so that a driver that slows down or grows with the number of trials shows. Run
``python -m tests.benchmarks.bench_driver --save``.
"""

import argparse
import datetime
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from matplotlib.figure import Figure
from ray import tune

from keystep.core.config import Refinement
from keystep.search.images.outcomes import Outcome
from keystep.search.spec.instances import Instance, make_parts
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.stages.tuning import run_trials
from keystep.search.tracking.tracker import Tracker
from keystep.search.tracking.tune_tracking import TuneTracking
from keystep.search.work.pool import WorkerPool
from tests.benchmarks.report_files import REPORTS, report_path, this_cpu
from tests.search.small_search import TIMESTEPS, make_spec, surroundings
from tests.search.stand_in import outcome

WINDOWS = 10  # of the run, between which throughput and memory are compared


class Quick:
    """Outcomes of the stand-in, made in `MILLISECONDS` a block, from when all workers are there."""

    MILLISECONDS = 2.0

    def __init__(self, spec: SearchSpec):
        self.computed: frozenset[int] = frozenset()
        there = Path(spec.storage.path, "workers")
        there.mkdir(exist_ok=True)
        (there / str(os.getpid())).touch()
        while len(list(there.iterdir())) < (spec.resources.workers or 1):
            time.sleep(0.1)

    def evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> dict[int, Outcome]:
        """One outcome an instance, by number."""
        time.sleep(self.MILLISECONDS / 1000)
        plain = None if refinement is None else refinement.model_dump(mode="json")
        self.computed = frozenset(instance.number for instance in instances)
        return {
            number: Outcome(outcome(plain, number), (True,), (True,), 10.0, 25.0, 0.001) for number in self.computed
        }


@dataclass
class Soak(tune.Callback):
    """The driver's clock, its memory and the number of results at the end of every trial."""

    began: float = 0.0
    results: int = 0
    ends: list[tuple[float, float, int, float]] = field(default_factory=list)  # clock, CPU, results so far, MiB

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        """Ray Tune begins."""
        self.began = time.perf_counter()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A block more."""
        self.results += 1

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial more; stopped ones count as complete for Ray Tune."""
        now, cpu = time.perf_counter() - self.began, time.process_time()
        self.ends.append((now, cpu, self.results, resident_mebibytes()))


def resident_mebibytes() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(trials: int, workers: int, sampler: str, folder: Path, *, tracked: bool = False, **search: Any) -> np.ndarray:
    """Run the trials. (trials, 4): seconds of the clock and of the driver's CPU, results, MiB, at the end of each.

    `search` overrides entries of that section of the spec; `tracked` searches are logged to MLflow in SQLite.
    """
    spec = make_spec(
        folder,
        space={
            "gsng": ["off", "on"],
            "cn": [0.25, 0.5, 1.0, 1.5, 2.0],
            "iou": [0.0, 0.25, 0.5, 1.0, 2.0],
            "iterations": [5, 10, 20, 50],
            "step_size": [10.0, 20.0, 40.0],
        },
        search={"trials": trials, "lookahead": 8 * workers, "sampler": sampler} | search,
        resources={"cpus": 0.25, "workers": workers},
        tracking={"uri": f"sqlite:///{folder}/mlflow.db", "enabled": tracked},
    )
    space, part, baseline = surroundings(spec)
    watch, tracker = Soak(), Tracker(spec, folder / "tracked")
    tracker.start(*make_parts(spec), TIMESTEPS)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with WorkerPool(spec, evaluator="tests.benchmarks.bench_driver:Quick") as pool:
            records = run_trials(
                spec,
                space,
                part,
                baseline,
                pool=pool,
                callbacks=[watch, TuneTracking(tracker)],
                on_end=tracker.trial_ended,
            )
    finally:
        ray.shutdown()
        tracker.close()
    assert len(records) == len(watch.ends) == trials
    return np.array(watch.ends)


def windows(ends: np.ndarray) -> list[tuple[str, float, float, float, float]]:
    """Each tenth: trials from-to, results a second of the clock and of the CPU, CPU seconds a trial, MiB at its end.

    The workers are awaited, so the clock of the first tenth begins with its first end.
    """
    edges = np.linspace(0, len(ends) - 1, WINDOWS + 1).astype(int)
    rows = []
    for first, last in itertools.pairwise(edges):
        clock, cpu, results, _ = ends[last] - ends[first]
        name = f"{first + 1}-{last + 1}"
        rows.append((name, results / clock, results / cpu, cpu / (last - first), ends[last, 3]))
    return rows


def costs(workers: int, sampler: str, trials: int = 200) -> tuple[float, float]:
    """CPU seconds of the driver for a result and for a trial: from trials of 4 blocks and of 16, none of them stopped.

    The first tenth of each run, in which the workers start, is left out.
    """
    seconds, blocks = [], []
    for block_prompts in (4, 1):
        with tempfile.TemporaryDirectory() as folder:
            ends = soak(trials, workers, sampler, Path(folder), block_prompts=block_prompts, pruner="none")
        first = trials // 10
        cpu, results = ends[-1, 1] - ends[first, 1], ends[-1, 2] - ends[first, 2]
        seconds.append(cpu / (trials - 1 - first))
        blocks.append(results / (trials - 1 - first))
    result = (seconds[1] - seconds[0]) / (blocks[1] - blocks[0])
    return float(result), float(seconds[0] - blocks[0] * result)


def overhead(sampler: str, trials: int = 100) -> float:
    """Seconds of the clock that a trial of 4 blocks takes beyond these, by one worker, with everything tracked.

    The first tenth is left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        ends = soak(trials, 1, sampler, Path(folder), tracked=True, block_prompts=4, pruner="none")
    first = trials // 10
    clock, _, results, _ = ends[-1] - ends[first]
    return float(clock - results * Quick.MILLISECONDS / 1000) / (trials - 1 - first)


def report(
    ends: np.ndarray, workers: int, sampler: str, cost: tuple[float, float], beyond: float, picture: str | None
) -> str:
    """The table and what is needed to make it again."""
    clock, _, results, _ = ends[-1]
    found = windows(ends)
    rows = [
        f"| {name} | {by_clock:.1f} | {by_cpu:.1f} | {1000 * each:.0f} | {mib:.0f} |"
        for name, by_clock, by_cpu, each, mib in found
    ]
    shown = [f"![Results a second and memory of the driver over the soak]({picture})", ""] if picture else []
    result, trial = cost
    cpu = ends[-1, 1] - ends[0, 1]
    return "\n".join(
        [
            f"# The driver under {len(ends):,} trials, {this_cpu()}, {datetime.date.today()}",
            "",
            f"`{' '.join(['python -m tests.benchmarks.bench_driver', *sys.argv[1:]])}`; python "
            f"{platform.python_version()}, ray {ray.__version__}, load {os.getloadavg()[0]:.0f} at the end. "
            f"{workers} workers on the driver's machine, {Quick.MILLISECONDS:g} ms a block of 8 images. Sampler "
            f"{sampler}, paired pruner, study on disk. The machine is shared with other work, so the driver's own CPU "
            "time says what it can take; the clock says what it took beside the rest.",
            "",
            f"{results:,.0f} results of {len(ends):,} trials in {clock:,.0f} s: {results / clock:.1f} results a second "
            f"of the clock, **{(results - ends[0, 2]) / cpu:.1f} a second of the driver's CPU**. Memory grew by "
            f"{1024 * (ends[-1, 3] - ends[0, 3]) / len(ends):.0f} KiB a trial.",
            "",
            f"A result takes {1000 * result:.1f} ms of the driver's CPU and a trial {1000 * trial:.1f} ms beside: from "
            "200 trials of 4 blocks and 200 of 16, none of them stopped.",
            "",
            f"One worker, all tracked in MLflow: a trial of 4 blocks takes {beyond:.2f} s of the clock beyond them "
            "(100 trials, none stopped).",
            "",
            *shown,
            "| trials | results a second | results a CPU second | CPU ms a trial | driver's memory, MiB |",
            "|---|---:|---:|---:|---:|",
            *rows,
        ]
    )


def draw(ends: np.ndarray) -> Figure:
    """Results a second and memory against trials ended."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    rate, memory = figure.subplots(1, 2)
    found = windows(ends)
    at = [int(name.split("-")[1]) for name, *_ in found]
    rate.plot(at, [row[2] for row in found], marker="o", color="#0072b2")
    rate.set_title("Throughput", loc="left", fontweight="bold")
    rate.set_ylabel("results a second of the driver's CPU")
    memory.plot(np.arange(len(ends)) + 1, ends[:, 3], color="#d55e00")
    memory.set_title("Driver's resident memory", loc="left", fontweight="bold")
    memory.set_ylabel("MiB")
    for axes in (rate, memory):
        axes.set_xlabel("trials ended")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
    return figure


def main() -> None:
    """Print the table, and save it with its figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--sampler", choices=("tpe", "random"), default="random", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--save", action="store_true", help=f"write the report to {REPORTS.name}/ too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ends = soak(options.trials, options.workers, options.sampler, Path(folder))
    cost, beyond = costs(options.workers, options.sampler), overhead(options.sampler)
    path = report_path(f"driver-soak-{options.sampler}", this_cpu())
    picture = path.with_suffix(".png")
    text = report(ends, options.workers, options.sampler, cost, beyond, picture.name if options.save else None)
    print(text)
    if options.save:
        path.write_text(text + "\n", encoding="utf-8")
        draw(ends).savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
