"""The study's log, in a file and in an object store, through Optuna itself."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from pyarrow.fs import LocalFileSystem

from keystep.search.settings.journal import FileJournal, Journal, ObjectJournal, forget, open_journal
from keystep.search.settings.study import read_study
from keystep.search.storing.storage import Storage

OPENERS: dict[str, Callable[[Path], Journal]] = {
    "file": lambda folder: FileJournal(folder / "study.log"),
    "objects": lambda folder: ObjectJournal(Storage(str(folder), LocalFileSystem()), "study"),
}


def trials_of(journal: Journal) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="study", storage=JournalStorage(journal)).trials


@pytest.mark.parametrize("kind", OPENERS)
def test_what_was_written_is_read_by_the_next(kind: str, tmp_path: Path):
    journal = OPENERS[kind](tmp_path)
    storage = JournalStorage(journal)
    study = optuna.create_study(study_name="study", storage=storage, direction="maximize")
    for number in range(12):  # more than 10: object names must sort
        study.add_trial(create_trial(state=TrialState.RUNNING))
        storage.set_trial_intermediate_value(number, 0, float(number))
        study.tell(number, float(number))
    before = study.trials
    assert [trial.value for trial in before] == [float(number) for number in range(12)]
    assert trials_of(OPENERS[kind](tmp_path)) == before


@pytest.mark.parametrize("kind", OPENERS)
def test_a_batch_is_there_whole_or_not_at_all(kind: str, tmp_path: Path):
    journal = OPENERS[kind](tmp_path)
    storage = JournalStorage(journal)
    study = optuna.create_study(study_name="study", storage=storage)
    study.add_trial(create_trial(state=TrialState.RUNNING))
    with pytest.raises(ZeroDivisionError), journal.batch():
        storage.set_trial_intermediate_value(0, 0, 1.0)
        raise ZeroDivisionError
    assert trials_of(OPENERS[kind](tmp_path))[0].intermediate_values == {}
    with journal.batch():
        storage.set_trial_intermediate_value(0, 0, 1.0)
        storage.set_trial_intermediate_value(0, 1, 2.0)
        assert trials_of(OPENERS[kind](tmp_path))[0].intermediate_values == {}
    assert study.trials[0].intermediate_values == {0: 1.0, 1: 2.0}
    assert trials_of(OPENERS[kind](tmp_path))[0].intermediate_values == {0: 1.0, 1: 2.0}


@pytest.mark.parametrize("left", [0, 1, 7])
def test_every_line_cut_off_is_dropped_and_the_rest_is_read(left: int, tmp_path: Path):
    journal = OPENERS["file"](tmp_path)
    study = optuna.create_study(study_name="study", storage=JournalStorage(journal))
    study.add_trial(create_trial(state=TrialState.RUNNING))
    log = tmp_path / "study.log"
    whole = log.read_bytes()
    study.tell(0, 1.0)
    last_line = log.read_bytes()[len(whole) :]
    log.write_bytes(whole + last_line[:left])
    reopened = OPENERS["file"](tmp_path)
    assert log.read_bytes() == whole
    again = optuna.load_study(study_name="study", storage=JournalStorage(reopened))
    again.tell(0, 2.0)
    assert [json.loads(line)["op_code"] for line in log.read_text().splitlines()] == [0, 4, 6]
    assert again.trials[0].value == 2.0


def test_a_damaged_line_is_named_and_fresh_always_works(tmp_path: Path):
    with open_journal(str(tmp_path), "0123") as (storage, _):
        study = optuna.create_study(study_name="study", storage=storage)
        study.add_trial(create_trial(state=TrialState.RUNNING))
    log = tmp_path / "searches" / "0123" / "study.log"
    for damaged in (b"\0" * 80 + b"\n", b'{"op_code": 4, "trial\n', b'{"op_code": 99}\n', b"[]\n", b"\xff\xfe\n"):
        whole = log.read_bytes()
        log.write_bytes(whole + damaged)
        with (
            pytest.raises(ValueError, match=f"line 3 of {log} is damaged .*--fresh"),
            open_journal(str(tmp_path), "0123"),
        ):
            pass
        with pytest.raises(ValueError, match=f"line 3 of {log} is damaged .*--fresh"):
            read_study(str(tmp_path), "0123")
        forget(str(tmp_path), "0123")
        assert not log.exists()
        log.write_bytes(whole)


def test_a_log_of_an_older_version_goes_on(tmp_path: Path):
    log = tmp_path / "study.log"
    old = JournalStorage(JournalFileBackend(str(log)))
    optuna.create_study(study_name="study", storage=old).add_trial(create_trial(state=TrialState.RUNNING))
    assert b"sha256" not in log.read_bytes()
    again = optuna.load_study(study_name="study", storage=JournalStorage(FileJournal(log)))
    again.tell(0, 0.5)
    assert [trial.value for trial in trials_of(FileJournal(log))] == [0.5]
    assert b"sha256" in log.read_bytes().splitlines()[-1]


def test_a_log_that_makes_no_sense_is_named(tmp_path: Path):
    place = tmp_path / "searches" / "0123"
    place.mkdir(parents=True)
    (place / "study.log").write_text('{"op_code": 4}\n')
    with pytest.raises(ValueError, match=r"study\.log is damaged .*--fresh"), open_journal(str(tmp_path), "0123"):
        pass
    with pytest.raises(ValueError, match=r"study\.log is damaged .*--fresh"):
        read_study(str(tmp_path), "0123")


def test_one_search_has_one_driver_at_a_time(tmp_path: Path):
    with open_journal(str(tmp_path), "0123"):
        with (
            pytest.raises(ValueError, match="already running as process"),
            open_journal(str(tmp_path), "0123"),
        ):
            pass
        with open_journal(str(tmp_path), "4567"):
            pass
    with open_journal(str(tmp_path), "0123"):
        pass


def test_a_path_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"storage.path: cannot write to"), open_journal(str(tmp_path / "file"), "0"):
        pass


def test_without_room_nothing_is_lost(tmp_path: Path):
    journal = OPENERS["file"](tmp_path)
    study = optuna.create_study(study_name="study", storage=JournalStorage(journal))
    study.add_trial(create_trial(state=TrialState.RUNNING))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "study.log").stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            study.tell(0, 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = optuna.load_study(study_name="study", storage=JournalStorage(OPENERS["file"](tmp_path)))
    assert again.trials[0].state == TrialState.RUNNING
    again.tell(0, 1.0)
    assert again.trials[0].value == 1.0
