"""A search against the plain way of the same trials, and two workers against one: ratios measured in one run.

    python -m tests.benchmarks.bench_search --save

The plain way: a process a trial that loads the model, draws every validation image from noise and judges it; as many at
once as the search has workers. Both run the baseline first. The winner of the plain way is chosen by the same rule from
the same settings, all of them seen whole. Needs a machine that does nothing else; a worker has one thread.
"""

import argparse
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import ray
import torch

from keystep.core.config import Refinement
from keystep.search.choice.selection import Candidate, select
from keystep.search.images.evaluator import Evaluator
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.spec.loading import load_spec
from keystep.search.spec.schedule import timesteps_of
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.stages.tuning import run_trials
from keystep.search.work.pool import WorkerPool
from tests.benchmarks.report_files import report_path, this_cpu

Outcomes = dict[int, float]


@dataclass(frozen=True)
class Measured:
    """A way to run the trials: seconds of the clock, denoiser evaluations, who wins."""

    seconds: float
    evaluations: float
    winner: Refinement | None
    settings: tuple[Refinement, ...] = ()
    pruned: int = 0


def spec_for(folder: Path, workers: int, options: argparse.Namespace) -> SearchSpec:
    """The built-in search of shapes-sd, of the sizes asked for, with a storage of its own."""
    changes = [
        f"storage.path={folder}",
        f"resources.workers={workers}",
        f"prompts.validation={options.validation}",
        f"search.trials={options.trials}",
        "tracking.enabled=false",
    ]
    return load_spec("shapes-sd", changes)


def ours(folder: Path, workers: int, options: argparse.Namespace) -> Measured:
    """Baseline and trials as `keystep search` runs them, workers started anew."""
    spec = spec_for(folder, workers, options)
    part, _ = make_parts(spec)
    began = time.perf_counter()
    with WorkerPool(spec) as pool:
        found = next(iter(pool.run([(None, block) for block in part.blocks]).values()))
        baseline = {number: outcome.tiam for number, outcome in found.items()}
        records = run_trials(spec, Space(spec, timesteps_of(spec)), part, baseline, pool=pool)
        ahead, _ = pool.in_vain()
    seconds = time.perf_counter() - began
    candidates = [
        Candidate(record.refinement, record.values, record.evaluations_alone / len(record.values)) for record in records
    ]
    choice = select(baseline, candidates, part)
    return Measured(
        seconds=seconds,
        evaluations=sum(outcome.evaluations for outcome in found.values())
        + sum(record.evaluations for record in records)
        + ahead,
        winner=None if choice.winner is None else choice.winner.refinement,
        settings=tuple(record.refinement for record in records),
        pruned=sum(record.state == "pruned" for record in records),
    )


def plain_trial(spec: SearchSpec, refinement: Refinement | None) -> tuple[Outcomes, float]:
    """One trial the plain way: outcomes and evaluations. The process has loaded nothing before."""
    with tempfile.TemporaryDirectory() as folder:
        storage = spec.storage.model_copy(update={"path": folder})
        part, _ = make_parts(spec)
        found = Evaluator(spec.model_copy(update={"storage": storage})).evaluate(refinement, part.instances)
    return (
        {number: outcome.tiam for number, outcome in found.items()},
        sum(outcome.evaluations for outcome in found.values()),
    )


def plainly(folder: Path, workers: int, options: argparse.Namespace, settings: tuple[Refinement, ...]) -> Measured:
    """The same settings the plain way."""
    spec = spec_for(folder, workers, options)
    part, _ = make_parts(spec)
    began = time.perf_counter()
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        (baseline, spent), *trials = pool.map(plain_trial, [spec] * (len(settings) + 1), [None, *settings])
    seconds = time.perf_counter() - began
    candidates = [
        Candidate(setting, values, evaluations / len(part.instances))
        for setting, (values, evaluations) in zip(settings, trials, strict=True)
    ]
    choice = select(baseline, candidates, part)
    evaluations = spent + sum(trial[1] for trial in trials)
    return Measured(seconds, evaluations, None if choice.winner is None else choice.winner.refinement)


def report(one: Measured, two: Measured, plain: Measured, options: argparse.Namespace) -> str:
    """The table with what is needed to make it again."""
    rows = [
        "| | seconds | denoiser evaluations | pruned |",
        "|---|---:|---:|---:|",
        f"| plain way, 2 at once | {plain.seconds:.0f} | {plain.evaluations:,.0f} | |",
        f"| keystep, 2 workers | {two.seconds:.0f} | {two.evaluations:,.0f} | {two.pruned} of {len(two.settings)} |",
        f"| keystep, 1 worker | {one.seconds:.0f} | {one.evaluations:,.0f} | {one.pruned} of {len(one.settings)} |",
    ]
    same = "the same" if plain.winner == two.winner else "NOT the same"
    return "\n".join(
        [
            f"# A search against the plain way, {this_cpu()}",
            "",
            f"`python -m tests.benchmarks.bench_search --trials {options.trials} --validation {options.validation} "
            f"--save`; python {platform.python_version()}, torch {torch.__version__}, ray {ray.__version__}. "
            f"Baseline and {options.trials} trials of keystep/shapes-sd, {options.validation} prompts of 4 sets x 2 "
            "seeds, every worker one thread; start of workers and loading of models included, start of Ray not.",
            "",
            *rows,
            "",
            f"Evaluations, keystep to plain: {two.evaluations / plain.evaluations:.2f}. Time: "
            f"{two.seconds / plain.seconds:.2f}. Two workers against one: {one.seconds / two.seconds:.2f}x. The winner "
            f"is {same}; one worker and two find {'the same' if one.winner == two.winner else 'DIFFERENT ones'}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--validation", type=int, default=16, help="prompts a set (default: %(default)s)")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    start_ray()
    with tempfile.TemporaryDirectory() as folder:
        two = ours(Path(folder, "two"), 2, options)
        one = ours(Path(folder, "one"), 1, options)
        plain = plainly(Path(folder, "plain"), 2, options, two.settings)
    text = report(one, two, plain, options)
    print(text)
    if options.save:
        report_path("search", this_cpu()).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
