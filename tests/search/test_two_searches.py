"""Two searches at once on one storage: each finds what it finds alone, and what one has stored the other reads.

Nothing is locked, so an image that both make at the same moment is made twice, to the same end. What is promised is
that what was stored when a block began is not made again in it.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from keystep.search.choice.result import SearchResult
from keystep.search.storing.storage import Storage
from tests.search.whole_search import PROMPTS, ROOT, found_in, keystep_search, shards, spec_in, without_times

pytestmark = pytest.mark.usefixtures("quick_workers")

OTHER = ["--set", "space.steps=[2,3,4]", "--set", "name=other"]


def driver(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", "from keystep.search.cli import main; main()", "search"]
    return subprocess.Popen(
        [*command, str(spec_in(folder)), *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def results_in(folder: Path) -> dict[str, SearchResult]:
    """By name."""
    files = (folder / "runs" / "searches").glob("*/result.json")
    found = [SearchResult.read(Storage(str(file.parent))) for file in files]
    return {result.spec.name: result for result in found}


def outcomes_in(folder: Path) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Setting, prompt and seed to every outcome that was stored, without what making it took."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for name, text in shards(folder).items():
        for row in json.loads(text)["outcomes"]:
            shown = {key: row[key] for key in ("tiam", "found", "bound", "evaluations_alone", "failure", "entities")}
            found[Path(name).parent.name, row["prompt"], row["seed"]].append(shown)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_searches_at_once_do_one_another_no_harm(searched: tuple[Path, Result], tmp_path: Path) -> None:
    undisturbed, _ = searched
    drivers = [driver(tmp_path), driver(tmp_path, *OTHER)]
    try:
        told = [each.communicate(timeout=800)[1] for each in drivers]
    finally:
        for each in drivers:
            each.kill()
    assert [each.returncode for each in drivers] == [0, 0], told
    first, other = (results_in(tmp_path)[name] for name in ("tiny", "other"))
    assert first.search_id != other.search_id and {first.status, other.status} == {"finished"}

    alone = found_in(undisturbed)
    here = without_times(first.model_dump(mode="json"))
    for name in ("chosen", "held_out"):
        assert here[name] == alone[name]
    for name in ("refinement", "state", "values", "tiam"):
        assert [trial[name] for trial in here["trials"]] == [trial[name] for trial in alone["trials"]]
    assert other.baseline.values == first.baseline.values
    ours = {trial.refinement.model_dump_json(): trial for trial in first.trials if trial.refinement}
    both = [trial for trial in other.trials if trial.refinement and trial.refinement.model_dump_json() in ours]
    assert len(both) == 2 and all(trial.values == ours[trial.refinement.model_dump_json()].values for trial in both)  # type: ignore[union-attr]

    outcomes = outcomes_in(tmp_path)
    assert all(every == every[:1] * len(every) for every in outcomes.values()), "made twice, it is the same"
    assert max(map(len, outcomes.values())) <= 2, "each makes an image once at most"
    assert len(outcomes) >= PROMPTS * (1 + 4)

    # A third one needs nothing that the two have not stored: it makes no image.
    made = shards(tmp_path)
    again = keystep_search(tmp_path, *OTHER, "--fresh")
    assert again.exit_code == 0, again.stderr
    assert shards(tmp_path) == made and results_in(tmp_path)["other"].chosen == other.chosen
