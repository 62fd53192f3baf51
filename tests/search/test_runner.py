"""Whole searches of the embedded model from the command line: gone on with, started over, killed, refused."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from keystep.search.choice.result import SearchResult
from keystep.search.reporting.report import report
from keystep.search.settings.journal import sole_driver
from tests.search.whole_search import (
    CONFIRMED,
    PROMPTS,
    ROOT,
    STEPS,
    TRIALS,
    found_in,
    keystep_search,
    result_in,
    rows,
    runs_in,
    shards,
    spec_in,
)

pytestmark = pytest.mark.usefixtures("quick_workers")


def test_a_search_ends_with_a_verdict(searched: tuple[Path, Result]) -> None:
    folder, said = searched
    assert said.exit_code == 0, said.stderr
    result = result_in(folder)
    assert result.status == "finished" and result.chosen is not None and result.held_out is not None
    assert [trial.slot for trial in result.trials] == list(range(TRIALS))
    assert {trial.state for trial in result.trials} == {"complete"}
    steps = [trial.refinement.iterref.step_index for trial in result.trials if trial.refinement.iterref]
    assert sorted(steps) == [1, 2, 3]

    best = max(sum(trial.values.values()) for trial in result.trials)
    winner = next(trial for trial in result.trials if trial.refinement == result.chosen.winner)
    assert result.chosen.winner is not None and sum(winner.values.values()) <= best
    assert set(winner.values) == set(range(PROMPTS)) == set(result.held_out.winner.measured.values)
    confirmed = [result.held_out.baseline, result.held_out.winner, result.held_out.runner_up]
    for part in confirmed:
        assert part is not None and part.tiam.mean == sum(part.measured.values.values()) / PROMPTS
    assert result.held_out.winner.measured.seconds_per_image > 0

    # Every image once. From noise a step is 2 evaluations, an iteration 2; trials begin where the baseline was.
    assert len(rows(folder)) == len(set(rows(folder))) == PROMPTS * (1 + TRIALS + CONFIRMED)
    plain, refined = 2 * STEPS, 2 * STEPS + 2 * 2
    assert result.evaluations_plain == PROMPTS * (plain * 2 + refined * (TRIALS + CONFIRMED - 1))
    saved = {trial.slot: PROMPTS * refined - trial.evaluations for trial in result.trials}
    assert saved == {trial.slot: PROMPTS * 2 * step for trial, step in zip(result.trials, steps, strict=True)}

    assert "Tracked in sqlite:///" in said.stderr and "held-out" in said.stderr
    assert "not shown to be better" in said.stdout and f"keystep export {result.search_id}" in said.stdout
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    runs = runs_in(folder)
    assert len(runs["parent"]) == 1
    (told,) = runs["parent"]
    costs = {name: value for name, value in told.data.metrics.items() if name.startswith("cost/")}
    assert costs == {
        "cost/evaluations_spent": result.evaluations_spent,
        "cost/evaluations_plain": result.evaluations_plain,
        "cost/evaluations_saved": pytest.approx(1 - result.evaluations_spent / result.evaluations_plain),
        "cost/wall_seconds": pytest.approx(result.wall_seconds, abs=1e-3),
        "cost/worker_seconds": pytest.approx(result.worker_seconds, abs=1e-3),
    }
    share, minutes = 100 * costs["cost/evaluations_saved"], costs["cost/wall_seconds"] / 60
    assert f"{share:.0f}% less than" in said.stdout and f"{minutes:.1f} minutes of wall time" in said.stdout
    assert "4 held-out prompts can never show a gain" in said.stderr and result.notes[0] in said.stderr
    for trial in result.trials:
        (run,) = runs[str(trial.slot)]
        assert run.data.metrics["tiam"] == sum(trial.values.values()) / PROMPTS


def test_a_running_search_can_be_read(watched: tuple[Path, Result, list[SearchResult]]) -> None:
    *running, last = watched[2]
    assert last.status == "finished" and {result.status for result in running} == {"running"}
    assert [len(result.trials) for result in running] == sorted(len(result.trials) for result in running)
    first = next(result for result in running if result.trials)
    assert len(first.trials) < TRIALS, "told as soon as a trial had ended"
    assert {trial.slot: trial for trial in last.trials} == {
        trial.slot: trial for trial in [*first.trials, *last.trials]
    }
    shown = report(first, figures=False)
    assert shown.lead.startswith(f"The search is running; {len(first.trials)} trials have ended")


@pytest.mark.slow
def test_fresh_tries_again_what_was_judged_already(searched: tuple[Path, Result]) -> None:
    folder, _ = searched
    made, before, runs = shards(folder), result_in(folder), runs_in(folder)
    (study,) = (folder / "runs" / "searches").glob("*/study.log")
    log = study.read_text()
    said = keystep_search(folder, "--fresh")
    assert said.exit_code == 0, said.stderr
    assert shards(folder) == made
    after = result_in(folder)
    assert after.status == "finished" and after.chosen == before.chosen
    assert [(trial.refinement, trial.values) for trial in after.trials] == [
        (trial.refinement, trial.values) for trial in before.trials
    ]
    assert [trial.evaluations for trial in after.trials] == [0.0] * TRIALS
    assert after.wall_seconds < before.wall_seconds, "counts from the new beginning"
    assert log not in study.read_text() and study.read_text().count('"op_code": 6') == log.count('"op_code": 6')
    assert len(runs_in(folder)["parent"]) == len(runs["parent"]) + 1


@pytest.mark.slow
@pytest.mark.timeout(1800)  # imports alone take minutes on a busy machine
def test_a_killed_search_goes_on_to_the_same_end(searched: tuple[Path, Result], tmp_path: Path) -> None:
    undisturbed, _ = searched
    driver = subprocess.Popen(
        [sys.executable, "-c", "from keystep.search.cli import main; main()", "search", str(spec_in(tmp_path))],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: len(rows(tmp_path)) >= PROMPTS + 2, driver)  # within the first trial
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    assert result_in(tmp_path).status == "running"
    assert len(rows(tmp_path)) < PROMPTS * (1 + TRIALS)

    said = keystep_search(tmp_path)
    assert said.exit_code == 0, said.stderr
    after, expected = result_in(tmp_path), result_in(undisturbed)
    assert after.status == "finished" and after.chosen == expected.chosen
    for name in ("refinement", "state", "values", "tiam", "params"):
        assert [getattr(trial, name) for trial in after.trials] == [getattr(trial, name) for trial in expected.trials]
    assert after.held_out is not None and expected.held_out is not None
    assert after.held_out.winner.measured.values == expected.held_out.winner.measured.values
    assert rows(tmp_path) == rows(undisturbed)
    assert len(runs_in(tmp_path)["parent"]) == 1


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 900
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "prompts.sets=[two]"], "prompts.sets: detector keystep/shapes-segmenter cannot see 'bicycle'"),
        (["--set", "space.steps=[12]"], "space.steps.0: step index 12 is outside the schedule: DDPMScheduler has"),
        (["--set", "search.trails=4"], "search.trails"),
        (["--set", "resources.cpus=999"], "resources: a worker wants cpus 999"),
        (["--out", "step.yaml"], "--out is a .json file"),
        (["--sheet", "sheet"], "--sheet is a .png file"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(options: list[str], message: str, tmp_path: Path) -> None:
    said = keystep_search(tmp_path, *options)
    assert said.exit_code == 2
    assert message in said.stderr and "Traceback" not in said.stderr + said.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "tiny.yaml"]


def test_a_colour_outside_the_palette_is_told_before_anything_is_made(tmp_path: Path) -> None:
    prompts = [("square", "red"), ("circle", "blue"), ("star", "orange"), ("moon", "green")]
    lines = [f"a photo of a {color} {noun},{noun},{color}" for noun, color in prompts]
    (tmp_path / "prompts.csv").write_text("\n".join(["prompt,entity1,adj1", *lines]) + "\n")
    sets = ["--set", f"prompts.sets=[{tmp_path}/prompts.csv]", "--set", "prompts.validation=2"]
    said = keystep_search(tmp_path, *sets, "--set", "prompts.held_out=2")
    assert said.exit_code == 2
    assert "prompts.sets: 'orange star' in 'a photo of a orange star' cannot be scored" in said.stderr
    assert not (tmp_path / "runs" / "outcomes").exists() and not (tmp_path / "mlflow.db").exists()


def test_a_second_driver_is_refused_and_changes_nothing(searched: tuple[Path, Result]) -> None:
    folder, _ = searched
    found, runs = found_in(folder), runs_in(folder)
    with sole_driver(str(folder / "runs"), found["search_id"]):
        said = keystep_search(folder)
    assert said.exit_code == 2 and f"already running as process {os.getpid()}" in said.stderr
    assert found_in(folder) == found and found["status"] == "finished"
    assert len(runs_in(folder)["parent"]) == len(runs["parent"])
