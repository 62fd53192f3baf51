"""What `keystep report` says of a search laid down by hand, on the terminal and as a file."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from typer.testing import CliRunner

from keystep.core.config import GSNg, IterRef, Refinement
from keystep.search.choice.result import setting_row
from keystep.search.cli import build_app
from keystep.search.reporting.report import curve, curve_table, report, settings_table
from keystep.search.reporting.report_formats import Figure, Report, Section, Table, to_html, write_report
from tests.search.found_search import finished, outcomes, part, stored

NASTY = "<script>alert('x')</script> | `a` *b*"


def run(*arguments):
    return CliRunner().invoke(build_app(), ["report", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_curve_takes_the_best_complete_setting_of_each_step():
    validation = part("validation")
    half = outcomes(validation, lambda prompt, _: prompt % 2 == 0)
    more = outcomes(validation, lambda prompt, _: prompt % 4 != 3)
    early = {number: 1.0 for number in range(len(validation.blocks[0]))}

    def row(slot, step, values, *, gsng=None, state="complete"):
        setting = Refinement(iterref=IterRef(step_index=step, iterations=slot + 1), gsng=gsng)
        return setting_row(validation, setting, values, slot=slot, state=state)

    result = finished(
        trials=(
            row(0, 4, half),
            row(1, 4, more),
            row(2, 4, early, state="pruned"),
            row(3, 4, half, gsng=GSNg()),
            row(4, 2, early, state="pruned"),
            row(5, 6, {}, state="failed"),
        )
    )
    points = [
        (point.step_index, point.timestep, point.gsng, point.estimate.mean, point.complete) for point in curve(result)
    ]
    assert points == [
        (2, 851.0, False, 1.0, False),
        (4, 751.0, False, 0.75, True),
        (4, 751.0, True, 0.5, True),
    ]
    table = curve_table(result)
    assert table.columns == (">Step", ">Timestep", ">TIAM without GSNg, %", ">TIAM with GSNg, %")
    assert [row[3].startswith("50.0 [") for row in table.rows] == [False, True], "none was tried at step 2"
    alone = curve_table(finished(trials=(row(0, 4, half),)))
    assert alone.columns == (">Step", ">Timestep", ">TIAM without GSNg, %")
    assert [entry[1] for entry in settings_table(result).rows][:4] == [
        "unrefined",
        "step 4 (t 751), 2 iterations",
        "step 4 (t 751), 1 iteration",
        "step 4 (t 751), 4 iterations, GSNg",
    ]


def test_the_terminal_shows_verdict_curve_settings_and_command(tmp_path):
    stored(tmp_path)
    result = run("tried", "--storage", tmp_path)
    assert result.exit_code == 0, result.stderr
    text = re.sub(r"\s+", " ", result.stdout)
    assert "better than the unrefined model on 24 held-out prompts: TIAM 0.250 -> 0.750, difference +0.500" in text
    assert re.search(
        r"winner step 3 \(t 801\), 10 iterations 75.0 \[[\d., ]+\] \+50.0 \[[+\d., ]+\] 0.00049 0.75 60", text
    )
    assert re.search(r"runner-up step 5 \(t 701\), 20 iterations, GSNg 75.0", text)
    assert "shapes_three" in text and "pruned: worse, p = 0.03" in text
    assert "4,400 denoiser evaluations, 80% less than the 22,000 of the plain way" in text
    assert "1.5 minutes of wall time, 4.0 minutes of workers' time." in text
    assert "keystep export 0123456789ab --out step_config.json" in text and "--force" not in text


def test_a_page_holds_everything_and_nothing_runs_in_it(tmp_path):
    stored(tmp_path, git_commit=NASTY)
    assert run("tried", "--storage", tmp_path, "--out", tmp_path / "report.html").exit_code == 0
    page = (tmp_path / "report.html").read_text()
    seen = _Page()
    seen.feed(page)
    assert not seen.open and NASTY in seen.text
    assert "script" not in seen.tags and not [name for name in seen.attributes if name.startswith("on")]
    assert seen.tags.count("table") == 5 and len(seen.sources) == 1
    assert not re.search(r"https?://", page)
    with Image.open(io.BytesIO(base64.b64decode(seen.sources[0].removeprefix("data:image/png;base64,")))) as image:
        assert image.width > 600


def test_markdown_keeps_its_picture_beside_it(tmp_path):
    stored(tmp_path, git_commit=NASTY)
    result = run("tried", "--storage", tmp_path, "--out", tmp_path / "report.md")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "report.md").read_text()
    (name,) = re.findall(r"!\[.*\]\((.*)\)", text)
    with Image.open(tmp_path / name) as image:
        assert image.format == "PNG"
    tables = re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert len(tables) == 5 and "\\<script\\>" in text


def test_a_search_that_has_only_begun_is_reported_too(tmp_path):
    stored(tmp_path, trials=(), chosen=None, held_out=None, status="running")
    result = run("tried", "--storage", tmp_path, "--out", tmp_path / "report.html")
    assert result.exit_code == 0, result.stderr
    assert "The search is running; 0 trials have ended" in result.stdout and "unrefined" in result.stdout


def test_what_a_reader_has_to_mind_stands_in_the_report_and_the_file(tmp_path):
    note = "search.trials 24 cuts the grid of 36 settings short: 12 are left out, the last in its order: step 8."
    stored(tmp_path, notes=(note,))
    result = run("tried", "--storage", tmp_path)
    assert f"To mind\n{note}" in result.stdout
    assert "To mind" not in [section.title for section in report(finished(), figures=False).sections]


def test_without_a_gain_the_report_says_so():
    shown = report(finished(gain=False), figures=False)
    assert "not shown to be better than the unrefined model" in shown.lead
    (use,) = (section for section in shown.sections if section.title == "Use it")
    assert "--force" in str(use.blocks[0])


def test_only_so_many_settings_are_listed():
    result = finished()
    more = [replace(row, slot=slot) for slot, row in enumerate(result.trials * 5)]
    table = settings_table(finished(trials=tuple(more)), shown=4)
    assert len(table.rows) == 5 and "11 more are in result.json" in table.note


def test_reports_have_two_formats(tmp_path):
    with pytest.raises(ValueError, match=r"a report is written as \.html or \.md"):
        write_report(Report("t", "l", []), tmp_path / "report.pdf")
    result = run("tried", "--out", tmp_path / "report.pdf")
    assert result.exit_code == 2 and "--out is a file that ends in .html or .md" in result.stderr


def test_texts_are_escaped_in_every_block():
    figure = Figure(b"png", NASTY)
    page = to_html(Report(NASTY, NASTY, [Section(NASTY, [NASTY, Table((NASTY,), [(NASTY,)], NASTY), figure])]))
    assert "<script" not in page and page.count("&lt;script&gt;") == 10


class _Page(HTMLParser):
    """Tags, attributes, texts and picture sources of a page; the tags left open at its end."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.sources, self.open = [], [], [], []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.sources += [value for name, value in attrs if name == "src"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
