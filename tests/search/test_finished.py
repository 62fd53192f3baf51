"""A search that has ended, called again: read in seconds, and only what is missing is made."""

from pathlib import Path

import pytest
from click.testing import Result

from search import finished, runner
from search.finished import finished_result
from search.spec_io import load_spec
from search.stored_searches import search_folder
from tests.search.whole_search import Reader, contents, keystep_search, result_in, runs_in, spec_in

pytestmark = pytest.mark.usefixtures("quick_workers")


def never(*_: object, **__: object) -> None:
    raise AssertionError("a finished search needs no models")


def test_a_finished_search_is_only_read(
    searched: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = searched
    files, runs = contents(folder), runs_in(folder)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "WorkerPool", never)
        patch.setattr(finished, "WorkerPool", never)
        # The least p of four prompts is 1/16: whatever the model draws, there is no significant gain.
        refused = keystep_search(folder, "--out", str(tmp_path / "step.json"))
        said = keystep_search(folder, "--sheet", str(tmp_path / "new" / "sheet.png"))
    assert refused.exit_code == 2 and not (tmp_path / "step.json").exists()
    assert "found no significant gain, and nothing was exported" in refused.stderr and "--force" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert said.exit_code == 0 and "nothing is left to search; --fresh starts over" in said.stderr
    assert "not shown to be better" in said.stdout
    assert (tmp_path / "new" / "sheet.png").read_bytes() == (folder / "sheet.png").read_bytes()
    assert contents(folder) == files, "not a byte is written"
    assert {slot: len(of) for slot, of in runs_in(folder).items()} == {slot: len(of) for slot, of in runs.items()}


def test_of_a_finished_search_what_is_missing_is_made(searched: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = searched
    (sheet,) = (folder / "runs" / "searches").glob("*/pictures/*/before_after.png")
    drawn, found = sheet.read_bytes(), (sheet.parents[2] / "result.json").read_bytes()
    sheet.unlink()
    with Reader(folder) as reader:
        said = keystep_search(folder, "--sheet", str(tmp_path / "sheet.png"))
    assert said.exit_code == 0, said.stderr
    assert {result.status for result in reader.seen} == {"finished"}
    assert (tmp_path / "sheet.png").read_bytes() == sheet.read_bytes() == drawn
    assert (sheet.parents[2] / "result.json").read_bytes() == found


def test_a_budget_that_cut_a_search_short_leaves_it_open(searched: tuple[Path, Result]) -> None:
    folder, _ = searched
    spec = load_spec(spec_in(folder)).anchored()
    whole = result_in(folder)
    assert finished_result(spec) == whole
    resources = whole.spec.resources.model_copy(update={"max_hours": 1.0})
    limited = whole.model_copy(update={"spec": whole.spec.model_copy(update={"resources": resources})})
    place = search_folder(spec.storage.path, spec.search_id)
    try:
        limited.save(place)
        assert finished_result(spec) == limited, "all its trials were made within the budget"
        limited.model_copy(update={"trials": limited.trials[:-1]}).save(place)
        assert finished_result(spec) is None
        limited.model_copy(update={"status": "interrupted"}).save(place)
        assert finished_result(spec) is None
    finally:
        whole.save(place)
