"""Ctrl-C says how far the work was and that the same command goes on: in words, and of a real search."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keystep.search.reporting.how_far import how_far
from keystep.search.reporting.progress import Watched
from tests.search.test_runner import wait_for
from tests.search.whole_search import PROMPTS, ROOT, TRIALS, keystep_search, rows, spec_in

GOES_ON = "The same command goes on from there; what was judged once is not made again."


def test_it_says_stage_trials_and_evaluations() -> None:
    state = Watched("tiny", 24)
    assert how_far(state, 0) == (
        "interrupted in preflight, before anything was judged. The same command starts it again."
    )
    state.stage, state.done, state.total, state.spent = "baseline", 3, 8, 1440.0
    assert (
        how_far(state, 0) == f"interrupted in baseline: 3 of 8 blocks done, 1,440 denoiser evaluations spent. {GOES_ON}"
    )
    state.stage, state.done, state.total, state.spent = "trials", 0, 0, 62816.4
    state.running = {12: (0.5, 8, 16), 13: (0.0, 0, 16)}
    assert how_far(state, 12) == (
        f"interrupted in trials: 12 of 24 trials ended, 2 under way, 62,816 denoiser evaluations spent. {GOES_ON}"
    )
    state.stage, state.done, state.total, state.running = "held-out", 5, 36, {}
    assert how_far(state, 24).startswith("interrupted in held-out: 5 of 36 blocks done, 24 of 24 trials ended, 62,816 ")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("quick_workers")
def test_an_interrupted_search_says_so_and_goes_on(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", "from keystep.search.cli import main; main()", "search", str(spec_in(tmp_path))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(rows(tmp_path)) >= 2 * PROMPTS + 2, driver)  # within the second trial
        os.killpg(driver.pid, signal.SIGINT)
        _, said = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 130 and "Traceback" not in said
    (told,) = re.findall(r"^keystep: (.*)$", said, re.MULTILINE)
    found = re.fullmatch(
        rf"interrupted in trials: (\d) of {TRIALS} trials ended(, 1 under way)?, \d+ denoiser evaluations spent\. "
        + re.escape(GOES_ON),
        told,
    )
    assert found is not None and 1 <= int(found[1]) <= TRIALS, told
    assert keystep_search(tmp_path).exit_code == 0
