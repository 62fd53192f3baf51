"""What is measured beside TIAM, from its values to the report, MLflow's numbers and the exported evidence."""

import numpy as np
import pytest

from keystep.core.config import StepConfig
from keystep.search.choice.metric_estimates import MetricsFound, metric_found
from keystep.search.choice.result import SearchResult
from keystep.search.reporting.report import metrics_table, report
from keystep.search.shipping.exporting import step_config
from keystep.search.spec.search_spec import MetricsSpec
from keystep.search.storing.storage import Storage
from keystep.search.tracking.run_fields import metric_values
from tests.search.found_search import finished, part, spec

HELD_OUT = part("held_out", seeds=(7, 8))
NUMBERS = [instance.number for instance in HELD_OUT.instances]
MODELS = {"clip": {"name": "a clip", "fingerprint": "f0"}, "aesthetics": {"name": "a head", "fingerprint": "f1"}}


def values(first: float, second: float) -> dict[int, float]:
    """`first` with the first seed of every prompt, `second` with the other."""
    return {number: second if number % 2 else first for number in NUMBERS}


@pytest.fixture(scope="module")
def found() -> MetricsFound:
    rising = {number: 0.2 + 0.2 * (number // 2) / (len(NUMBERS) / 2 - 1) for number in NUMBERS}
    clip = {"unrefined": values(0.2, 0.4), "winner": rising, "runner-up": values(0.3, 0.4)}
    looks = {"unrefined": values(5.0, 6.0), "winner": values(5.0, 5.5), "runner-up": values(11.0, 12.0)}
    return MetricsFound(
        MODELS,
        {
            "clip_full": metric_found(HELD_OUT, "clip_full", clip),
            "aesthetics": metric_found(HELD_OUT, "aesthetics", looks),
        },
    )


def test_means_and_gains_are_over_prompts(found: MetricsFound) -> None:
    clip, looks = found.metrics["clip_full"], found.metrics["aesthetics"]
    assert clip.settings["unrefined"].mean == pytest.approx(0.3)
    assert clip.settings["unrefined"].num_prompts == 24 and clip.settings["unrefined"].num_images == 48
    winner, error = clip.settings["winner"], np.std(np.linspace(0.2, 0.4, 24), ddof=1) / np.sqrt(24)
    assert winner.mean == pytest.approx(0.3)
    assert winner.high - winner.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert list(clip.gains) == ["winner", "runner-up"] and clip.gains["runner-up"].mean == pytest.approx(0.05)
    # Above the usual range of 0 to 10: then what it took is its range.
    assert looks.settings["runner-up"].mean == 11.5 and looks.gains["winner"].mean == -0.25


def test_a_result_a_report_and_mlflow_have_them(found: MetricsFound, tmp_path) -> None:
    result = finished(metrics=found, spec=spec(metrics=MetricsSpec(clip="a clip", aesthetics="head.npz")))
    result.save(Storage(str(tmp_path)))
    assert SearchResult.read(Storage(str(tmp_path))) == result
    table = metrics_table(result)
    assert table is not None and table.titles == [
        "Also measured",
        "unrefined",
        "winner",
        "runner-up",
        "winner - unrefined",
    ]
    assert [row[0] for row in table.rows] == ["CLIP, whole prompt", "aesthetics"]
    assert table.rows[0][1].startswith("0.3000 [") and table.rows[1][4].startswith("-0.2500 [")
    assert "clip a clip, aesthetics a head" in table.note
    assert table in report(result, figures=False).sections[0].blocks
    assert metrics_table(finished()) is None
    logged = metric_values(found)
    assert logged["held_out_aesthetics_baseline"] == 5.5 and logged["held_out_aesthetics"] == 5.25
    assert logged["held_out_aesthetics_gain"] == -0.25 and logged["held_out_clip_full_runner_up"] == pytest.approx(0.35)
    assert len(logged) == 2 * 4 * 3 and logged["held_out_clip_full_low"] < 0.3 < logged["held_out_clip_full_high"]


def test_an_exported_config_has_them_in_its_evidence(found: MetricsFound, tmp_path) -> None:
    path = step_config(finished(metrics=found)).save(tmp_path / "step.json")
    evidence = StepConfig.load(path).evidence
    assert evidence is not None and list(evidence.metrics) == ["clip_full", "aesthetics"]
    looks = evidence.metrics["aesthetics"]
    assert (looks.before.value, looks.after.value, looks.model) == (5.5, 5.25, "a head")
    second = step_config(finished(metrics=found), runner_up=True).evidence
    assert second is not None and second.metrics["aesthetics"].after.value == 11.5
    assert second.metrics["clip_full"].model == "a clip"


def test_aesthetics_need_a_clip() -> None:
    with pytest.raises(ValueError, match="aesthetics reads what a CLIP sees: set clip too"):
        MetricsSpec(aesthetics="head.npz")
