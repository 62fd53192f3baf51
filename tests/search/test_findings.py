"""What stands in result.json while trials end: the truth, not too often, and at the end all of it."""

import errno
import itertools
from pathlib import Path
from typing import Any

import pytest

from keystep.core.config import GSNg, Refinement
from keystep.search.checks.preflight import Preflight
from keystep.search.choice.result import SearchResult
from keystep.search.choice.stored_searches import load_result
from keystep.search.images.outcomes import Outcome
from keystep.search.settings.ledger import TrialRecord
from keystep.search.spec.search_spec import StorageSpec
from keystep.search.stages.findings import LEAST_SECONDS, MOST_SHARE, Findings
from tests.search.found_search import TIMESTEPS, WINNER, part, spec


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def outcomes_of(right: int, per_image: float) -> dict[int, Outcome]:
    """The first `right` instances are right."""
    numbers = range(len(part("validation").instances))
    return {n: Outcome(float(n < right), (True,), (True,), per_image, per_image, 0.1) for n in numbers}


def record(slot: int, right: int = 12, state: Any = "complete") -> TrialRecord:
    numbers = range(48 if state == "complete" else 16)
    values = {number: float(number < right) for number in numbers}
    iterref = WINNER.iterref
    assert iterref is not None
    setting = Refinement(iterref=iterref.model_copy(update={"iterations": slot + 1}))
    return TrialRecord(slot, setting, {}, state, values, None, "", 100.0, 60.0 * len(values), 1.0)


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    """A search whose baseline is in."""
    there = Findings(
        spec(storage=StorageSpec(path=str(tmp_path))), part("validation"), part("held_out", seeds=(7, 8)), clock=Clock()
    )
    there.preflight = Preflight(TIMESTEPS, "e" * 12, "keystep/shapes-segmenter")
    there.add_baseline(None, outcomes_of(12, 40.0))
    there.save("running")
    return there


def written(found: Findings) -> SearchResult:
    return load_result(found.spec.search_id, found.spec.storage.path)


def pass_time(found: Findings, seconds: float) -> None:
    clock = found._clock
    assert isinstance(clock, Clock)
    clock.now += seconds


def test_a_running_search_tells_of_the_trials_so_far(found: Findings) -> None:
    pass_time(found, 60)
    found.add_trial(record(1, right=24))
    found.add_trial(record(0, right=6, state="pruned"))
    found.write_if_due()
    result = written(found)
    assert (result.status, [trial.slot for trial in result.trials]) == ("running", [0, 1])
    for trial, mean in zip(result.trials, (6 / 16, 0.5), strict=True):
        assert trial.tiam is not None and trial.tiam.low < trial.tiam.mean == mean < trial.tiam.high
    assert result.wall_seconds == 60 and result.evaluations_spent == 48 * 40 + 200
    # The plain way runs the trial that was stopped after 16 of 48 images to its end, at 60 evaluations each.
    assert result.evaluations_plain == 48 * (40 + 60 + 60)
    assert result.costs.evaluations_saved == pytest.approx(1 - (48 * 40 + 200) / (48 * 160))
    assert result.worker_seconds == pytest.approx(48 * 0.1 + 2)
    assert result.chosen is None and result.held_out is None


def test_thousands_of_trials_are_written_a_few_times(found: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    save = SearchResult.save

    def counted(result: SearchResult, folder: Any) -> None:
        times.append(found._clock())
        pass_time(found, 0.5)  # what writing takes
        save(result, folder)

    monkeypatch.setattr(SearchResult, "save", counted)
    for slot in range(100):
        found.add_trial(record(slot))
        found.write_if_due()
        pass_time(found, 0.25)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) >= 2 and min(gaps) >= max(LEAST_SECONDS, 0.5 / MOST_SHARE)
    pass_time(found, 60)
    found.write_if_due()
    assert len(written(found).trials) == 100, "nobody has to wait for a further trial to end"
    count = len(times)
    found.write_if_due()
    assert len(times) == count, "nothing new, nothing written"


def test_a_file_that_cannot_be_written_is_written_later(
    found: Findings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(result: SearchResult, folder: Any) -> None:
        raise OSError(errno.ENOSPC, "no room left")

    pass_time(found, 60)
    found.add_trial(record(0))
    with monkeypatch.context() as patch:
        patch.setattr(SearchResult, "save", refuse)
        found.write_if_due()
        assert "result.json is not up to date: [Errno 28] no room left" in caplog.text
        with pytest.raises(OSError, match="no room left"):
            found.save("finished")
    assert len(written(found).trials) == 0
    pass_time(found, 60)
    found.write_if_due()
    assert len(written(found).trials) == 1


def test_guidance_alone_may_win(found: Findings) -> None:
    alone = Refinement(gsng=GSNg())
    found.add_baseline(alone, outcomes_of(36, 50.0))
    assert found.best is not None and found.best.refinement == alone
    found.add_trial(record(0, right=20))
    choice = found.choose()
    assert choice.winner is not None and choice.winner.refinement == alone and choice.winner.cost == 50.0
    assert choice.runner_up is not None and choice.runner_up.refinement == record(0).refinement
    assert choice.reason.startswith("best of 2 fully evaluated settings: GSNg: TIAM 0.750, +0.500 against")
    # A trial that is better by more than noise wins all the same, though it is dearer.
    found.add_trial(record(1, right=48))
    winner = found.choose().winner
    assert winner is not None and winner.refinement == record(1).refinement


def test_a_result_that_names_its_wall_time_seconds_is_read(found: Findings) -> None:
    pass_time(found, 60)
    found.save("running")
    text = written(found).model_dump_json()
    old = text.replace('"wall_seconds":60.0', '"seconds":60.0')
    assert old != text and SearchResult.model_validate_json(old) == written(found)
