"""One iteration of refinement: ours against the usual way, as ratios measured in one run.

UNet of SD 1.4's size, 512 px, CN on two entities: ours against diffusers' own Attend-and-Excite, which
takes one latent at a time. MMDiT of SD3's width, 768 px: the text columns alone against whole attention
matrices. Weights are random. Run ``python -m tests.benchmarks.bench_core`` (``--help`` for more).
"""

import argparse
import datetime
import statistics
import sys
from dataclasses import dataclass

import diffusers
import torch

from tests.benchmarks.core_cases import CASES, Measurement, measure
from tests.benchmarks.report_files import REPORTS, report_path, this_cpu


@dataclass(frozen=True)
class Row:
    """Ours and the usual way of one case; medians."""

    case: str
    ours: Measurement
    usual: Measurement

    def __str__(self) -> str:
        time_ratio = self.usual.seconds / self.ours.seconds
        memory_ratio = self.ours.mebibytes / self.usual.mebibytes
        attention = ""
        if self.usual.attention_mebibytes:
            share = self.ours.attention_mebibytes / self.usual.attention_mebibytes
            attention = f"{share:.3f} ({self.ours.attention_mebibytes:.0f}/{self.usual.attention_mebibytes:.0f} MiB)"
        return (
            f"| {self.case} | {self.ours.seconds:.2f} | {self.usual.seconds:.2f} | {time_ratio:.2f}x "
            f"| {self.ours.mebibytes:.0f} | {self.usual.mebibytes:.0f} | {memory_ratio:.3f} | {attention} |"
        )


BARE = ("sd3-batch1", "sd3-batch4", "sd14-batch1")
"""Cases measured against a bare forward and backward."""

HEADER = (
    "| case | ours, s/image | usual, s/image | faster | ours, MiB | usual, MiB | memory, ours/usual "
    "| attention memory, ours/usual |\n|---|---|---|---|---|---|---|---|"
)


def compare(case: str, repeats: int, device: str) -> Row:
    """Measure a case both ways, turn by turn, so that a busy machine slows both; the first turn warms up."""
    turns = [(measure(case, "ours", device), measure(case, "usual", device)) for _ in range(repeats + 1)][1:]
    return Row(case, *(_median(side) for side in zip(*turns, strict=True)))


@dataclass(frozen=True)
class AgainstBare:
    """Seconds an image of some ways of a case, by way; turns in order."""

    case: str
    seconds: dict[str, tuple[float, ...]]

    def __str__(self) -> str:
        bare = self.seconds["bare"]
        cells = [f"{statistics.median(bare):.2f}"]
        for way in ("apart", "ours"):
            ratios = [one / other for one, other in zip(self.seconds[way], bare, strict=True)]
            least = min(self.seconds[way]) / min(bare)
            cells += [f"{statistics.median(self.seconds[way]):.2f}", f"{statistics.median(ratios):.2f}", f"{least:.2f}"]
        return f"| {self.case} | {' | '.join(cells)} |"


BARE_HEADER = (
    "| case | bare, s/image | 0.1, s/image | 0.1/bare | of minima | ours, s/image | ours/bare | of minima |\n"
    "|---|---|---|---|---|---|---|---|"
)


def against_bare(case: str, repeats: int, device: str) -> AgainstBare:
    """Ours, and the way of keystep 0.1, against a bare forward and backward, turn by turn."""
    ways = ("bare", "apart", "ours")
    count = -(-repeats // CASES[case].batch)
    turns = [[measure(case, way, device).seconds for way in ways] for _ in range(count)]
    return AgainstBare(case, dict(zip(ways, zip(*turns, strict=True), strict=True)))


def _median(measurements: tuple[Measurement, ...]) -> Measurement:
    fields = zip(*(vars(one).values() for one in measurements), strict=True)
    return Measurement(*(statistics.median(values) for values in fields))


def hardware(device: str) -> str:
    """The machine in a word or two, as in a file name."""
    if device == "cuda":
        return torch.cuda.get_device_name().lower().replace(" ", "-")
    return this_cpu(torch.get_num_threads())


def report(rows: list[Row], bare: list[AgainstBare], device: str, repeats: int) -> str:
    """The table with what is needed to make it again."""
    how = (
        "peak of allocated memory above the weights (torch.cuda.max_memory_allocated)"
        if device == "cuda"
        else "peak of the bytes that autograd keeps for the backward pass, without weights"
    )
    clock = "of the clock" if device == "cuda" else "CPU seconds of all threads, the machine being shared"
    return "\n".join(
        [
            f"# One refinement iteration, {hardware(device)}, {datetime.date.today()}",
            "",
            f"`{' '.join(['python -m tests.benchmarks.bench_core', *sys.argv[1:]])}`; torch {torch.__version__}, "
            f"diffusers {diffusers.__version__}, {torch.get_num_threads()} threads. Time: median of "
            f"{repeats} turns after one to warm up, ours and the usual way in alternation, an image; {clock}. "
            f"Memory: {how}. Attention memory: what "
            "autograd keeps inside attention layers, and of the reading of maps, a block.",
            "",
            *([HEADER, *map(str, rows), ""] if rows else []),
            "Against a bare forward and backward: of the same blocks, left after the last layer's attention, whose "
            "columns nobody reads. 0.1 computed every layer's logits again beside the fused kernel, fewer queries at a "
            "time the larger the batch; ours lets the kernel add up the text columns where matrices are large. The "
            "three in alternation, as many images of each case, no turn to warm up; medians of the turns' ratios, and "
            "the ratio of the fastest turns.",
            "",
            BARE_HEADER,
            *map(str, bare),
        ]
    )


def main() -> None:
    """Print the table, and save it if asked."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=_defaults(device))
    parser.add_argument("--bare", nargs="*", choices=list(CASES), default=list(BARE), help="cases against a bare pass")
    parser.add_argument("--repeats", type=int, default=3, help="turns a case")
    parser.add_argument("--save", action="store_true", help=f"write the report to {REPORTS.name}/ too")
    arguments = parser.parse_args()
    bare = [against_bare(case, arguments.repeats, device) for case in arguments.bare]
    rows = [compare(case, arguments.repeats, device) for case in arguments.cases]
    text = report(rows, bare, device, arguments.repeats)
    print(text)
    if arguments.save:
        report_path("core-refinement", hardware(device)).write_text(text + "\n", encoding="utf-8")


def _defaults(device: str) -> list[str]:
    return [name for name, case in CASES.items() if device == "cuda" or not case.gpu_only]


if __name__ == "__main__":
    main()
