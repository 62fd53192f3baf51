"""`keystep export` of a search laid down by hand, and the result file it reads."""

import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from keystep.core.config import GSNg, Refinement, StepConfig
from keystep.search.choice.result import setting_row
from keystep.search.choice.stored_searches import load_result
from keystep.search.cli import build_app
from keystep.search.shipping.exporting import step_config
from keystep.search.spec.search_spec import StorageSpec, TrackingSpec
from keystep.search.storing.places import search_folder
from tests.search.found_search import PRUNED, RUNNER_UP, TIMESTEPS, WINNER, finished, part, spec, stored


def run(*arguments):
    return CliRunner().invoke(build_app(), [*map(str, arguments)], env={"COLUMNS": "220"})


def test_a_search_is_found_by_id_name_folder_and_file(tmp_path):
    result = stored(tmp_path)
    folder = tmp_path / "searches" / "0123456789ab"
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    for search in ("0123456789ab", "0123", "tried"):
        assert load_result(search, str(tmp_path)) == result
    for search in (str(folder), str(folder / "result.json"), folder.as_uri(), f"{folder.as_uri()}/result.json"):
        assert load_result(search) == result
    assert load_result("tried", tmp_path.as_uri()) == result
    with pytest.raises(ValueError, match="no search has got so far there"):
        load_result(str(tmp_path))
    later = stored(tmp_path, search_id="0123ffffffff", updated="2026-02-01T00:00:00+00:00")
    assert load_result("tried", str(tmp_path)) == later
    with pytest.raises(ValueError, match="begins the ids of several searches"):
        load_result("0123", str(tmp_path))
    with pytest.raises(ValueError, match=r"no search called 'other'.*0123456789ab \(tried, finished\)"):
        load_result("other", str(tmp_path))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "Unterminated|Expecting"),
        (lambda text: text.replace('"status": "finished"', '"status": "odd"'), "status"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema_version"),
        (lambda text: text.replace('"status"', '"colour"'), "colour"),
    ],
)
def test_a_damaged_result_is_refused_with_its_place(tmp_path, damage, reason):
    stored(tmp_path)
    file = tmp_path / "searches" / "0123456789ab" / "result.json"
    unsealed = re.sub(r',\s*"sha256": "[0-9a-f]{64}"', "", file.read_text())  # as an older version wrote it
    file.write_text(damage(unsealed))
    with pytest.raises(ValueError, match=reason) as error:
        load_result("0123456789ab", str(tmp_path))
    assert str(file) in str(error.value)


def test_export_writes_a_config_with_its_evidence(tmp_path):
    stored(tmp_path)
    out = tmp_path / "step_config.json"
    result = run("export", "tried", "--storage", tmp_path, "--out", out)
    assert result.exit_code == 0, result.stderr
    config = StepConfig.load(out)
    assert config.refinement == WINNER and config.timestep == 801.0 and config.model == "keystep/shapes-sd"
    evidence = config.evidence
    assert evidence is not None
    assert (evidence.tiam_before.value, evidence.tiam_after.value) == (0.25, 0.75)
    assert evidence.p_value == pytest.approx(2 * 2**-12) or evidence.p_value < 0.001
    assert evidence.seeds == (7, 8) and evidence.search_id == "0123456789ab"
    assert set(evidence.prompt_sets) == {"shapes_two", "shapes_three"}
    assert (evidence.seconds_per_image, evidence.seconds_per_image_before) == (0.75, 0.5)
    second = run("export", "tried", "--storage", tmp_path, "--out", out, "--runner-up")
    assert second.exit_code == 0 and StepConfig.load(out).refinement == RUNNER_UP


def test_no_gain_exports_nothing_unless_forced(tmp_path):
    stored(tmp_path, gain=False)
    out = tmp_path / "step_config.json"
    refused = run("export", "tried", "--storage", tmp_path, "--out", out)
    assert refused.exit_code == 2 and not out.exists()
    assert "found no significant gain, and nothing was exported" in refused.stderr
    assert "difference +0.000" in refused.stderr and "--force" in refused.stderr and "Traceback" not in refused.stderr
    forced = run("export", "tried", "--storage", tmp_path, "--out", out, "--force")
    assert forced.exit_code == 0 and "p = 1 of no gain" in forced.stdout
    config = StepConfig.load(out)
    assert config.evidence is not None and config.evidence.p_value == 1.0


def test_what_is_not_there_cannot_be_exported():
    whole = finished()
    with pytest.raises(ValueError, match="has not run its held-out prompts yet: call keystep search"):
        step_config(finished(status="interrupted", held_out=None, chosen=None), force=True)
    assert whole.chosen is not None
    nothing = type(whole.chosen)(None, None, "none of the 3 settings was evaluated on every instance of validation")
    with pytest.raises(ValueError, match="has nothing to export: none of the 3 settings"):
        step_config(finished(held_out=None, chosen=nothing), force=True)


def test_a_complete_row_needs_every_outcome():
    validation = part("validation")
    with pytest.raises(ValueError, match="a complete setting has 1 of 48 outcomes"):
        setting_row(validation, PRUNED, {0: 1.0})


def test_no_password_is_written(tmp_path, monkeypatch):
    path = str(tmp_path)
    secret = spec(storage=StorageSpec(path=path), tracking=TrackingSpec(uri="postgresql://me:hunter2@db/mlflow"))
    failed = setting_row(part("validation"), PRUNED, {}, slot=3, state="failed", reason="no http://me:hunter2@hub/x")
    saved = finished(spec=secret, trials=(failed,))
    saved.save(search_folder(path, saved.search_id))
    contents = (tmp_path / "searches" / "0123456789ab" / "result.json").read_text()
    assert "hunter2" not in contents
    read = load_result("tried", path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    refused = run("export", "tried", "--storage", path, "--out", tmp_path / "step.json", "--register", "shapes")
    assert refused.exit_code == 2 and "give the whole address with --tracking-uri" in refused.stderr
    assert read.spec.tracking.uri == "postgresql://***@db/mlflow" and read.trials[0].reason == "no http://***@hub/x"


def test_guidance_alone_is_exported_with_the_timestep_that_it_begins_at(tmp_path):
    result = finished()
    assert result.held_out is not None
    guided = replace(result.held_out.winner.measured, refinement=Refinement(gsng=GSNg(start=2, stop=6)))
    held_out = replace(result.held_out, winner=replace(result.held_out.winner, measured=guided))
    config = StepConfig.load(step_config(finished(held_out=held_out)).save(tmp_path / "step.json"))
    assert config.refinement == Refinement(gsng=GSNg(start=2, stop=6)) and config.timestep == TIMESTEPS[2] == 851.0
