"""Every table of this room on terminals of 80 and 60 columns: names, intervals and p stay whole."""

import io
import random
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from keystep.core.config import GSNg, IterRef, Refinement
from keystep.evaluation.metric_names import METRICS
from keystep.evaluation.prompt_sets import STANDARD_SETS
from keystep.evaluation.statistics import interval
from keystep.search.choice.metric_estimates import MetricFound, MetricsFound
from keystep.search.choice.result import setting_row
from keystep.search.cli import build_app
from keystep.search.reporting.fitted_table import FittedTable
from keystep.search.reporting.report import report
from keystep.search.reporting.report_formats import Command, Report, Section, Table, show
from keystep.search.settings.settings_text import setting_text
from tests.search.found_search import finished, outcomes, part, stored
from tests.search.whole_cells import check_shown

NARROW = (80, 60)


def printed(what, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    if isinstance(what, Table):
        console.print(FittedTable(what), crop=False)
    else:
        show(what, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def everything(**changes):
    """A finished search with long names, all metrics, and trials with everything that a setting can have."""
    validation = part("validation")
    half = outcomes(validation, lambda prompt, _: prompt % 2 == 0)
    long = Refinement(
        iterref=IterRef(step_index=12, iterations=50, step_size=12.5, optimizer="adam"), gsng=GSNg(start=2, stop=9)
    )
    reason = "worse than the best so far: 0.125 against 0.500 on 24 prompts, p = 0.0004"
    rows = (
        *finished().trials,
        setting_row(validation, long, half, slot=117, evaluations_alone=100.0 * 48),
        setting_row(validation, long, {0: 1.0}, slot=118, state="pruned", reason=reason, evaluations_alone=100.0),
    )
    found = interval([[0.2113], [0.2514], [0.1999]])
    gain = interval([[-0.0113], [0.0514], [0.0999]], bounds=(-1, 1))
    names = ("unrefined", "winner", "runner-up")
    one = MetricFound({name: found for name in names}, {name: gain for name in names[1:]})
    models = {"clip": {"name": "keystep/shapes-clip"}, "captioner": {"name": "Salesforce/blip-image-captioning-base"}}
    return finished(**({"trials": rows, "metrics": MetricsFound(models, {name: one for name in METRICS})} | changes))


@pytest.mark.parametrize("width", NARROW)
def test_nothing_of_a_report_is_cut(width: int) -> None:
    made = report(everything(), figures=False)
    text = printed(made, width)
    tables = [block for section in made.sections for block in section.blocks if isinstance(block, Table)]
    assert len(tables) == 6
    for table in tables:
        check_shown(table, printed(table, width), width)
        assert printed(table, width) in text


@pytest.mark.parametrize("width", NARROW)
def test_the_main_table_keeps_p_and_intervals_on_the_terminal(tmp_path, width: int) -> None:
    stored(tmp_path)
    shown = CliRunner().invoke(
        build_app(), ["report", "tried", "--storage", str(tmp_path)], env={"COLUMNS": str(width)}
    )
    assert shown.exit_code == 0, shown.stderr
    # 12 of 24 prompts moved, all up: p = 2**-12, by Holm doubled.
    assert re.search(r"^ winner\b", shown.stdout, re.MULTILINE)
    assert len(re.findall(r"(?<!\S)0\.00049(?!\S)", shown.stdout)) >= 2
    assert len(re.findall(r"\+50\.0 \[\+29\.2, \+70\.8\]", shown.stdout)) == 2
    assert max(map(len, shown.stdout.splitlines())) <= width


@pytest.mark.parametrize("width", NARROW)
def test_the_standard_sets_keep_their_names_and_numbers(width: int) -> None:
    shown = CliRunner().invoke(build_app(), ["prompts"], env={"COLUMNS": str(width)}).stdout
    assert all(re.search(rf"^ {name} +[\d,]+ ", shown, re.MULTILINE) for name in STANDARD_SETS)
    assert max(map(len, shown.splitlines())) <= width


def test_any_table_is_whole_on_any_terminal() -> None:
    draw = random.Random(0)

    def words(most: int) -> str:
        return " ".join("".join(draw.choices("abc[]/.", k=draw.randint(1, 12))) for _ in range(draw.randint(1, most)))

    for _ in range(300):
        kinds = [draw.random() < 0.5 for _ in range(draw.randint(1, 8))]
        titles = [f"{words(3)} {number}" for number in range(len(kinds))]
        rows = [
            [
                f"{draw.random():.{draw.randint(1, 9)}f}{draw.choice(('', ' [0.125, 0.75]'))}"
                if numeric
                else (f"row{number}" if place == 0 else words(draw.choice((1, 15))))
                for place, numeric in enumerate(kinds)
            ]
            for number in range(draw.randint(1, 4))
        ]
        columns = [">" * numeric + title for numeric, title in zip(kinds, titles, strict=True)]
        secondary = draw.sample(titles[1:], draw.randint(0, len(titles) - 1))
        width = draw.randint(40, 140)
        table = Table(columns, rows, secondary=secondary)
        check_shown(table, printed(table, width), width)


def test_only_a_word_longer_than_the_line_is_broken() -> None:
    path = "/a/folder/of/a/name/that/is/longer/than/any/line/" * 3
    text = printed(Table(("", "found"), [("storage", f"cannot write {path}")]), 60)
    assert max(map(len, text.splitlines())) <= 60
    assert path in re.sub(r"\s+", "", text)


def test_columns_give_way_in_the_order_that_their_table_says() -> None:
    rows = [
        ("winner", setting_text(Refinement(iterref=IterRef(step_index=1, iterations=5))), "61.5 [53.6, 68.8]", "34")
    ]
    table = Table(("", "Setting", ">TIAM, %", ">Cost"), rows, secondary=("Cost", "Setting"))
    wide, narrow, least = (printed(table, width).splitlines() for width in (80, 50, 20))
    assert wide[3].split("   ") == [" winner", "step 1, 5 iterations", "61.5 [53.6, 68.8]", "  34"]
    assert narrow[3:5] == [" winner   step 1, 5 iterations   61.5 [53.6, 68.8]", "   Cost: 34"]
    assert least[1].strip() == "winner", "a list, for there is no room for two columns"


def test_a_long_gain_and_p_stand_side_by_side_on_60_columns() -> None:
    row = ("runner-up", "step 1 (t 831), 10 iterations", "63.5 [56.0, 70.3]", "+17.7 [+9.9, +25.5]", "0.0004")
    table = Table(("", "Setting", ">TIAM, %", ">Gain, points", ">p"), [row], secondary=("Setting",))
    assert " runner-up  63.5 [56.0, 70.3]  +17.7 [+9.9, +25.5]  0.0004" in printed(table, 60).splitlines()


def test_a_command_stays_on_one_line() -> None:
    command = "keystep export 0123456789ab --out " + "a/long/folder/" * 8 + "step_config.json --force"
    assert command in printed(Report("t", "l", [Section("Use it", [Command(command)])]), 60).splitlines()
