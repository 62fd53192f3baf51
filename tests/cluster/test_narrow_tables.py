"""The tables of `keystep estimate` and `keystep doctor` on terminals of 80 and 60 columns: nothing is cut."""

import io
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

import keystep.cluster.cli
from keystep.cluster.checks.checks_report import report as checks_report
from keystep.cluster.checks.node_checks import Check
from keystep.cluster.estimating.estimate import Estimate, estimate
from keystep.cluster.estimating.estimate_report import report
from keystep.cluster.estimating.simulation import Pace
from keystep.search.cli import build_app
from keystep.search.reporting.fitted_table import FittedTable
from keystep.search.reporting.report_formats import Report, Table
from keystep.search.spec.loading import load_spec
from tests.search.whole_cells import check_shown

NARROW = (80, 60)
LONG = "/shared/a/folder/of/many/parts"


@pytest.fixture(scope="module")
def found() -> Estimate:
    """Four columns of iterations, guidance, and prices in millions."""
    spec = load_spec("shapes-sd", ["space.gsng=[off, on]", "space.iterations=[5, 10, 20, 50]", "search.trials=40"])
    pace = Pace(evaluation=60.0, loading=5.0, result=0.02, trial=0.05)
    return estimate(spec, pace=pace, gpus=(1, 64, 4096), replayed=(), seeds_a_prompt=2, storage_bytes_per_second=1e8)


def check_tables(made: Report, width: int) -> None:
    tables = [block for section in made.sections for block in section.blocks if isinstance(block, Table)]
    assert tables
    for table in tables:
        console = Console(width=width, file=io.StringIO())
        console.print(FittedTable(table), crop=False)
        assert isinstance(console.file, io.StringIO)
        check_shown(table, console.file.getvalue(), width)


@pytest.mark.parametrize("width", NARROW)
def test_nothing_of_an_estimate_is_cut(found: Estimate, width: int) -> None:
    check_tables(report(found, price=2000.0), width)


@pytest.mark.parametrize("width", NARROW)
def test_the_steps_of_an_estimate_are_numbered_in_full(width: int) -> None:
    app = build_app(keystep.cluster.cli.commands())
    given = ["estimate", "shapes-sd", "--seconds-per-evaluation", "0.02", "--price-per-gpu-hour", "2.5"]
    shown = CliRunner().invoke(app, given, env={"COLUMNS": str(width)})
    assert shown.exit_code == 0, shown.stderr
    steps = shown.stdout[shown.stdout.index("An image refined") : shown.stdout.index("From noise")]
    assert [int(step) for step in re.findall(r"^ +(\d+) {2,}\d", steps, re.MULTILINE)] == list(range(12))
    assert max(map(len, shown.stdout.splitlines())) <= width


@pytest.mark.parametrize("width", NARROW)
@pytest.mark.parametrize("bad", [False, True])
def test_nothing_of_the_checks_is_cut(width: int, bad: bool) -> None:
    checks = [
        Check("nodes", True, "12 alive, 384 CPUs, 96 GPUs", ""),
        Check("versions", True, "python 3.12.3, torch 2.11.0, diffusers 0.36.0, ray 2.52.0", ""),
        Check("room for workers", True, "16 of 16", ""),
    ]
    if bad:
        checks.append(Check("storage", False, f"{LONG}: Permission denied on 10.0.0.5", f"make {LONG} writable there"))
    check_tables(checks_report("sd14", checks), width)
