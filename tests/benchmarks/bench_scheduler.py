"""What a search of SD 1.4 takes on 1 to 512 GPUs, by the simulated scheduler: as the spec is, and with what it advises.

    python -m tests.benchmarks.bench_scheduler --save

The same as `keystep estimate sd14`, for two specs in one report; needs no GPU and no model.
"""

import argparse
import io
from pathlib import Path

from keystep.cluster.commands.estimate import LOADING_SECONDS, STORAGE_MEGABYTES
from keystep.cluster.estimating.driver_pace import SECONDS_PER_RESULT, SECONDS_PER_TRIAL
from keystep.cluster.estimating.estimate import estimate
from keystep.cluster.estimating.estimate_report import draw, report
from keystep.cluster.estimating.replayed import replayed_trials
from keystep.cluster.estimating.simulation import Pace
from keystep.search.reporting.report_formats import Block, Figure, Report, Section, write_report
from keystep.search.spec.loading import load_spec
from tests.benchmarks.report_files import REPORTS

SECONDS = 0.02  # of an evaluation of one image at 512 px and batch 8: taken for granted, not measured
SPECS = {"as the spec is": [], "with a lookahead of 512": ["search.lookahead=512", "search.trials=2048"]}
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def sections(name: str, overrides: list[str], price: float) -> list[Section]:
    """Table, figure and assumptions of one spec."""
    spec = load_spec("sd14", overrides)
    trials, seeds = replayed_trials(spec)
    found = estimate(
        spec,
        pace=Pace(evaluation=SECONDS, loading=LOADING_SECONDS, result=SECONDS_PER_RESULT, trial=SECONDS_PER_TRIAL),
        gpus=GPUS,
        replayed=trials,
        seeds_a_prompt=seeds,
        storage_bytes_per_second=STORAGE_MEGABYTES * 1e6,
    )
    made = report(found, price)
    png = io.BytesIO()
    draw(found).savefig(png, format="png", dpi=110)
    figure: Block = Figure(png.getvalue(), f"wall time and utilisation against GPUs, {name}")
    _, _, times, assumed = made.sections
    return [Section(f"sd14, {name}", [made.lead, *times.blocks, figure]), Section("Assumptions", assumed.blocks)]


def main() -> None:
    """Print where the report was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", type=float, default=2.5, help="of a GPU-hour (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help=f"write to {REPORTS.name}/ instead of out/")
    options = parser.parse_args()
    found = [section for name, overrides in SPECS.items() for section in sections(name, overrides, options.price)]
    lead = "python -m tests.benchmarks.bench_scheduler --save: a simulation; no GPU was there to measure on."
    place = (REPORTS if options.save else Path("out")) / "scheduler_simulated.md"
    for path in write_report(Report("A search on 1 to 512 GPUs, simulated", lead, found), place):
        print(path)


if __name__ == "__main__":
    main()
