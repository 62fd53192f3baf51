"""Which pruner and which sampler find a good setting, and for how many denoiser evaluations: replayed searches.

    python -m tests.benchmarks.bench_replay --seeds 200 --save

Every search is replayed on the recorded grid of keystep/shapes-sd (tests/benchmarks/record_grid.py) with its own draw
of validation prompts: with replacement, of the recorded ones, on all of which the winner is judged (fewer than 40 a set
are split off instead, and the winner is judged on the rest). `grid` tries every setting, the paper's exhaustive
protocol; `random` and `tpe` try --trials of them. Good is what is within 0.01 accumulated TIAM of the best setting.
"""

import argparse
import itertools
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from scipy.stats import binomtest

from keystep.search.replaying.recorded_grid import load_grid
from keystep.search.replaying.replay import replay
from tests.benchmarks.report_files import report_path, this_cpu

matplotlib.use("Agg")

PRUNERS = ("none", "MedianPruner", "HyperbandPruner", "WilcoxonPruner", "paired")
SAMPLERS = ("grid", "random", "tpe")
LABELS = {"MedianPruner": "median", "HyperbandPruner": "hyperband", "WilcoxonPruner": "Wilcoxon"}
COLORS = {"none": "#777777", "MedianPruner": "#d18f00", "HyperbandPruner": "#3a86c8", "WilcoxonPruner": "#8e5bb5"}
MARKERS = {"grid": "s", "random": "o", "tpe": "^"}
GOOD = 0.01
RECORDED = 40  # prompts a set


class Run(NamedTuple):
    """One replayed search: held-out regret and gain, evaluations, and the plain way's for the same settings."""

    regret: float
    gain: float
    evaluations: float
    plain: float
    pruned: float


def replayed(sampler: str, pruner: str, seed: int, trials: int, validation: int) -> Run:
    """One search."""
    grid = load_grid()
    found = replay(
        grid,
        sampler=sampler,  # pyright: ignore[reportArgumentType]
        pruner=pruner,
        seed=seed,
        trials=grid.space.size if sampler == "grid" else trials,
        workers=grid.spec.search.lookahead,
        lookahead=grid.spec.search.lookahead,
        validation=validation,
    )
    pruned = sum(trial.state == "pruned" for trial in found.trials) / len(found.trials)
    return Run(found.regret, found.gain, found.evaluations, found.plain_evaluations, pruned)


def measure(seeds: int, trials: int, validation: int, workers: int) -> dict[tuple[str, str], list[Run]]:
    """The searches of every combination, with progress."""
    combinations = list(itertools.product(SAMPLERS, PRUNERS))
    runs: dict[tuple[str, str], list[Run]] = {combination: [] for combination in combinations}
    began = time.monotonic()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {
            pool.submit(replayed, *combination, seed, trials, validation): combination
            for seed in range(seeds)
            for combination in combinations
        }
        for done, future in enumerate(as_completed(futures), 1):
            runs[futures[future]].append(future.result())
            if done % 100 == 0 or done == len(futures):
                left = (time.monotonic() - began) / done * (len(futures) - done)
                print(f"{done}/{len(futures)} searches, about {left / 60:.0f} min left", flush=True)
    return runs


def row(sampler: str, pruner: str, runs: list[Run], exhaustive: float) -> dict[str, Any]:
    """A line of the table. `exhaustive`: evaluations of the paper's protocol, every setting from noise."""
    good = sum(run.regret <= GOOD + 1e-9 for run in runs)
    low, high = binomtest(good, len(runs)).proportion_ci(method="wilson")
    spent = np.array([run.evaluations for run in runs])
    return {
        "sampler": sampler,
        "pruner": LABELS.get(pruner, pruner),
        "within 0.01": f"{good / len(runs):.2f} [{low:.2f}, {high:.2f}]",
        "regret": f"{np.mean([run.regret for run in runs]):.3f}",
        "gain": f"{np.mean([run.gain for run in runs]):+.3f}",
        "pruned": f"{np.mean([run.pruned for run in runs]):.0%}",
        "evaluations": f"{spent.mean() / 1000:.0f}k ± {spent.std() / 1000:.0f}k",
        "of the plain way": f"{np.mean([run.evaluations / run.plain for run in runs]):.0%}",
        "of exhaustive": f"{spent.mean() / exhaustive:.0%}",
        "_share": spent.mean() / exhaustive,
        "_regret": np.array([run.regret for run in runs]),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    names = [name for name in rows[0] if not name.startswith("_")]
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in names]
    lines = ["| " + " | ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)) + " |"]
    lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for line in rows:
        cells = (line[name].ljust(width) for name, width in zip(names, widths, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path, seeds: int) -> None:
    """Held-out regret against evaluations: low and left is good."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.6), dpi=130)
    by_label = {LABELS.get(name, name): name for name in PRUNERS}
    for line in rows:
        error = 1.96 * line["_regret"].std(ddof=1) / np.sqrt(seeds)
        color = COLORS.get(by_label[line["pruner"]], "#c1272d")
        axes.errorbar(
            100 * line["_share"],
            line["_regret"].mean(),
            yerr=error,
            marker=MARKERS[line["sampler"]],
            color=color,
            capsize=3,
            markersize=7,
            linestyle="",
        )
    for pruner, name in by_label.items():
        axes.plot([], [], color=COLORS.get(name, "#c1272d"), linewidth=4, label=f"pruner {pruner}")
    for sampler, marker in MARKERS.items():
        axes.plot([], [], color="#444444", marker=marker, linestyle="", label=f"sampler {sampler}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g} %" if value in (2, 5, 20, 50) else "")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("denoiser evaluations, of every setting on every instance from noise")
    axes.set_ylabel("accumulated TIAM short of the best setting\n(mean, 95 % interval)")
    axes.set_title(f"{seeds} replayed searches each, keystep/shapes-sd: low and left is good")
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize=8, frameon=False, ncols=2)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--trials", type=int, default=24, help="of random and tpe (default: %(default)s)")
    parser.add_argument("--validation", type=int, default=40, help="prompts a set (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write the table and the plot to tests/benchmarks/reports")
    options = parser.parse_args()
    runs = measure(options.seeds, options.trials, options.validation, options.workers)
    exhaustive = float(np.mean([run.plain for run in runs["grid", "none"]]))
    rows = [row(*combination, found, exhaustive) for combination, found in runs.items()]
    command = (
        f"python -m tests.benchmarks.bench_replay --seeds {options.seeds} --trials {options.trials} "
        f"--validation {options.validation} --save"
    )
    judged = (
        "The winner is judged on all recorded prompts, from which those of validation are drawn with replacement"
        if options.validation >= RECORDED
        else "The winner is judged on the recorded prompts that are not in the validation part"
    )
    text = f"# Replayed searches of keystep/shapes-sd\n\n`{command}`\n\n{judged}.\n\n{markdown(rows)}\n"
    print(text)
    if options.save:
        path = report_path("replay", this_cpu())
        path.write_text(text + f"\n![Regret against evaluations]({path.stem}.png)\n", encoding="utf-8")
        plot(rows, path.with_suffix(".png"), options.seeds)
        print(f"{path} and its plot written")


if __name__ == "__main__":
    main()
