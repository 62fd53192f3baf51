"""The built-in searches of the embedded models, as a user runs them: they end with a config that helps."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from keystep.core.config import StepConfig
from keystep.search.choice.result import SearchResult
from keystep.search.cli import build_app
from keystep.search.storing.storage import Storage


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", ["shapes-sd", "shapes-sd3"])
def test_a_built_in_search_finds_a_step_that_helps_on_held_out_prompts(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(build_app(), ["search", model, "--out", "step_config.json", "--sheet", "sheet.png"])
    assert said.exit_code == 0, said.stderr
    (file,) = (tmp_path / "keystep-runs" / "searches").glob("*/result.json")
    result = SearchResult.read(Storage(str(file.parent)))
    assert result.held_out is not None and result.held_out.winner.comparison is not None
    spent = (
        f"{result.evaluations_spent:,.0f} of {result.evaluations_plain:,.0f} evaluations, {result.wall_seconds:.0f} s"
    )
    print(f"{model}: {result.held_out.summary}; {spent}")
    assert result.held_out.significant and result.held_out.winner.comparison.difference.low > 0
    config = StepConfig.load("step_config.json")
    assert config.evidence is not None and config.evidence.tiam_after.value > config.evidence.tiam_before.value
    assert config.sampler.num_inference_steps == result.spec.sampler.num_inference_steps
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
