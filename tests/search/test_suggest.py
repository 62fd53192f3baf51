"""The searcher on a real Optuna study, driven by hand in many orders of events. No Ray process runs here."""

import json
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from keystep.search.settings.journal import open_journal
from keystep.search.settings.pruning import PRUNERS
from keystep.search.settings.rounds import prompt_numbers
from keystep.search.settings.study import read_study
from tests.search.by_hand import Stopped, drive
from tests.search.small_search import make_spec, study_folder, summary, surroundings, told, winner
from tests.search.stand_in import outcome


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


PRUNER_OPTIONS: dict[str, dict[str, Any]] = {
    "PercentilePruner": {"percentile": 50.0, "n_startup_trials": 2},
    "MedianPruner": {"n_startup_trials": 2},
    "ThresholdPruner": {"lower": 0.4},
    "PatientPruner": {"wrapped_pruner": "MedianPruner", "patience": 0},
    "WilcoxonPruner": {"p_threshold": 0.2},
}
NAMES = sorted(PRUNERS)


def test_pruners_are_optunas_and_our_own():
    optunas = {name for name in vars(optuna.pruners) if name.endswith("Pruner")} - {"BasePruner", "NopPruner"}
    assert set(NAMES) == optunas | {"none", "paired"}


@pytest.mark.parametrize("pruner", NAMES)
def test_every_pruner_finds_the_same_whatever_the_timing(pruner: str, tmp_path: Path):
    search = {"pruner": pruner, "pruner_options": PRUNER_OPTIONS.get(pruner, {}), "trials": 16}
    runs = [
        drive(make_spec(tmp_path / str(order), search=search), workers=workers, order=order)
        for order, workers in enumerate((1, 2, 3, 3))
    ]
    for run in runs[1:]:
        assert summary(run) == summary(runs[0])
    states = Counter(record.state for record in runs[0])
    assert set(states) <= {"complete", "pruned"}
    assert (states["pruned"] > 0) is (pruner != "none")
    assert all(len(record.values) == 32 for record in runs[0] if record.state == "complete")
    assert all(record.reason for record in runs[0] if record.state == "pruned")
    for order in range(4):
        spec = make_spec(tmp_path / str(order), search=search)
        assert all(len(states) == 1 for states in told(spec).values())
        assert len(told(spec)) == 16


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_killed_anywhere_and_gone_on_with_it_finds_the_same(sampler: str, tmp_path: Path):
    search = {"sampler": sampler, "trials": 16}
    whole = drive(make_spec(tmp_path / "whole", search=search), workers=2, order=5)
    spec = make_spec(tmp_path / "cut", search=search)
    for order, events in enumerate((1, 3, 5, 6, 4, 7)):
        with pytest.raises(Stopped):
            drive(spec, workers=1 + order % 3, order=order, events=events)
    assert summary(drive(spec, workers=2, order=9)) == summary(whole)
    assert all(len(states) == 1 for states in told(spec).values())
    assert winner(whole).params["step_index"] in (2, 3, 4)


def test_grid_is_the_whole_grid_once_in_order(tmp_path: Path):
    spec = make_spec(tmp_path, search={"sampler": "grid", "trials": 1000})
    space, _, _ = surroundings(spec)
    assert [record.params for record in drive(spec, workers=3)] == list(space.grid())


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_finite_space_is_tried_once_and_ends(sampler: str, tmp_path: Path):
    spec = make_spec(tmp_path, search={"sampler": sampler, "trials": 1000})
    space, _, _ = surroundings(spec)
    params = [json.dumps(record.params, sort_keys=True) for record in drive(spec, workers=2)]
    assert sorted(params) == sorted(json.dumps(point, sort_keys=True) for point in space.grid())


def test_a_space_of_one_setting(tmp_path: Path):
    spec = make_spec(tmp_path, space={"steps": [3], "gsng": ["off"]})
    (record,) = drive(spec)
    assert (record.state, record.params) == ("complete", {})


def test_a_failed_trial_is_told_with_its_error_and_changes_nothing_else_by_timing(tmp_path: Path):
    runs = [drive(make_spec(tmp_path / str(order)), workers=1 + order, order=order, fail=(2, 6)) for order in range(3)]
    assert summary(runs[0]) == summary(runs[1]) == summary(runs[2])
    failed = [record for record in runs[0] if record.state == "failed"]
    assert [(record.slot, record.reason) for record in failed] == [(n, "ZeroDivisionError: by nothing") for n in (2, 6)]
    for order in range(3):
        states = told(make_spec(tmp_path / str(order)))
        assert len(states) == 12 and all(len(once) == 1 for once in states.values())
        assert [trial for trial, (state,) in states.items() if state == TrialState.FAIL] == [2, 6]


def test_when_all_fails_nothing_is_told_and_it_goes_on_later(tmp_path: Path):
    spec = make_spec(tmp_path / "out")
    records = drive(spec, workers=2, fail=tuple(range(12)))
    assert told(spec) == {}
    assert 3 <= len(records) < 12
    whole = drive(make_spec(tmp_path / "whole"))
    assert summary(drive(spec, order=1)) == summary(whole)


def test_reported_values_are_outcomes_at_instance_numbers(tmp_path: Path):
    spec = make_spec(tmp_path)
    records = drive(spec)
    for record, trial in zip(records, read_study(spec.storage.path, spec.search_id).trials, strict=True):
        expected = {
            number: outcome(record.refinement.model_dump(mode="json"), number) for number in range(len(record.values))
        }
        assert trial.intermediate_values == expected
        assert trial.state == {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}[record.state]


def test_a_study_can_be_read_while_the_search_runs_and_only_then(tmp_path: Path):
    spec = make_spec(tmp_path)
    with pytest.raises(ValueError, match="has no trials yet"):
        read_study(spec.storage.path, spec.search_id)
    with pytest.raises(Stopped):
        drive(spec, events=9)
    with open_journal(spec.storage.path, spec.search_id):
        study = read_study(spec.storage.path, spec.search_id)
        assert study.study_name == f"keystep-{spec.search_id}"
        assert study.get_trials(states=(TrialState.COMPLETE,))


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path):
    spec = make_spec(tmp_path)
    with pytest.raises(Stopped):
        drive(spec, events=9)
    log = study_folder(spec) / "study.log"
    whole = log.read_bytes()
    (log.parent / "study.log.lock").symlink_to(log)
    log.write_bytes(whole[:-20])
    assert summary(drive(spec)) == summary(drive(make_spec(tmp_path / "whole")))


def test_gpu_hours_end_the_asking_and_more_of_them_go_on(tmp_path: Path):
    """A block takes 0.5 s of one GPU; 4 blocks a trial at most: 6 s are used up within 3 to 12 trials."""
    spec = make_spec(tmp_path / "some", resources={"gpus": 1, "max_gpu_hours": 6 / 3600})
    some = drive(spec)
    assert 3 <= len(some) < 12
    assert all(record.state in ("complete", "pruned") for record in some)
    spent = sum(record.seconds for record in some)
    assert 6 <= spent <= 6 + 2
    more = make_spec(tmp_path / "some", resources={"gpus": 1, "max_gpu_hours": 1})
    assert summary(drive(more, order=1)) == summary(drive(make_spec(tmp_path / "whole")))


def test_prompts_are_whole_and_in_block_order(tmp_path: Path):
    spec = make_spec(tmp_path, prompts={"validation": 8, "seeds": [0, 1]}, search={"block_prompts": 2})
    _, part, _ = surroundings(spec)
    numbers = prompt_numbers(part)
    assert sorted(number for group in numbers for number in group) == list(range(32))
    for group in numbers:
        texts = {(part.instances[n].set_name, part.instances[n].prompt.text) for n in group}
        assert len(texts) == 1 and len(group) == 2


def test_no_room_for_the_study_stops_the_search_and_it_goes_on_later(tmp_path: Path):
    spec, whole = make_spec(tmp_path / "cut"), make_spec(tmp_path / "whole")
    expected = drive(whole)
    size = (study_folder(whole) / "study.log").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(OSError, match=r"no longer be written \(File too large\).* run the same command again"):
            drive(spec, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < len(told(spec)) < 12
    assert summary(drive(spec, order=1)) == summary(expected)
    assert all(len(states) == 1 for states in told(spec).values())
