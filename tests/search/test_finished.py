"""A search that has ended, called again: read in seconds, and only what is missing is made."""

from pathlib import Path

import pytest
from click.testing import Result

from keystep.evaluation.clip import load_clip
from keystep.search.choice.result import SearchResult
from keystep.search.images.evaluator import Evaluator
from keystep.search.spec.instances import make_parts
from keystep.search.spec.loading import load_spec
from keystep.search.spec.search_spec import MetricsSpec
from keystep.search.stages import finished, runner
from keystep.search.stages.finished import finished_result
from keystep.search.storing.places import search_folder
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


def test_metrics_asked_for_later_are_measured_of_the_same_images(searched: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = searched
    before, clip = result_in(folder), ["--set", "metrics.clip=keystep/shapes-clip"]
    said = keystep_search(folder, *clip)
    assert said.exit_code == 0, said.stderr
    assert "metrics 0%" in said.stderr and "CLIP, least entity" in said.stdout
    after = result_in(folder)
    assert after.status == "finished" and after.metrics is not None and after.held_out is not None
    assert without(after) == without(before) and after.spec.metrics.clip == "keystep/shapes-clip"
    assert list(after.metrics.metrics) == ["clip_full", "clip_least"]
    (parent,) = runs_in(folder)["parent"]

    evaluator = Evaluator(load_spec(spec_in(folder), [f"storage.path={tmp_path}"]))
    instances, scorer = make_parts(after.spec)[1].instances, load_clip("keystep/shapes-clip")
    for name, confirmed in after.held_out.settings.items():
        images = evaluator.images(confirmed.measured.refinement, instances)
        scores = scorer.scores(images, [instance.prompt for instance in instances])
        for metric, values in (("clip_full", scores.full), ("clip_least", scores.least)):
            found = after.metrics.metrics[metric].settings[name]
            assert found.mean == pytest.approx(float(values.mean()), abs=1e-5) and found.num_prompts == len(instances)
            if name == "winner":
                assert parent.data.metrics[f"held_out_{metric}"] == pytest.approx(found.mean, abs=1e-6)
    assert parent.data.tags["keystep.metrics.clip"] == "keystep/shapes-clip"

    found = (folder / "runs" / "searches" / after.search_id / "result.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished, "WorkerPool", never)
        assert keystep_search(folder, *clip).exit_code == 0
    assert (folder / "runs" / "searches" / after.search_id / "result.json").read_bytes() == found


def test_a_clip_that_is_not_there_is_told_with_its_key(tmp_path: Path) -> None:
    said = keystep_search(tmp_path, "--set", "metrics.clip=nowhere")
    assert said.exit_code == 2 and "metrics.clip: no CLIP 'nowhere'" in said.stderr
    assert not (tmp_path / "runs" / "outcomes").exists()


def without(result: SearchResult) -> SearchResult:
    """A result before its metrics were measured."""
    spec = result.spec.model_copy(update={"metrics": MetricsSpec()})
    return result.model_copy(update={"metrics": None, "spec": spec})
