"""The figures of a search: what is drawn is what was measured."""

import numpy as np
import optuna
import pytest
from PIL import Image

from keystep.evaluation.statistics import Estimate
from keystep.search.reporting import plots
from keystep.search.reporting.plots import CurvePoint
from keystep.search.tracking.study_plots import write_study_plots


def estimate(mean: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(mean, mean - 0.1 if low is None else low, mean + 0.1 if high is None else high, 0.95, 8, 16)


def curve() -> list[CurvePoint]:
    return [
        CurvePoint(0, 901.0, False, estimate(0.3)),
        CurvePoint(3, 601.0, False, estimate(0.5)),
        CurvePoint(5, 401.0, False, estimate(0.4), complete=False),
        CurvePoint(3, 601.0, True, estimate(0.7)),
    ]


def test_the_curve_shows_every_point_interval_and_band():
    axes = plots.tiam_by_timestep(curve(), estimate(0.25), estimate(0.35), title="mini").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["IterRef alone"].get_ydata(), [0.3, 0.5])  # the pruned one is not joined
    np.testing.assert_allclose(np.round(lines["IterRef alone"].get_xdata()), [0, 3])
    np.testing.assert_allclose(lines["IterRef with GSNg"].get_ydata(), [0.7])
    np.testing.assert_allclose(lines["unrefined"].get_ydata(), [0.25, 0.25])
    np.testing.assert_allclose(lines["GSNg alone"].get_ydata(), [0.35, 0.35])
    spans = {tuple(np.round(path[:, 1], 3)) for c in axes.collections for path in c.get_segments()}
    assert spans == {(0.2, 0.4), (0.4, 0.6), (0.3, 0.5), (0.6, 0.8)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["901\n0", "601\n3", "401\n5"]
    assert axes.get_title(loc="left") == "mini" and "95%" in axes.get_ylabel()
    assert [text.get_text() for text in axes.texts] == ["t 601: 70%"]


def test_best_so_far_is_a_staircase():
    axes = plots.best_so_far([estimate(0.3), estimate(0.5)], [10, 30], estimate(0.2)).axes[0]
    best = next(line for line in axes.lines if line.get_label() == "best")
    np.testing.assert_allclose(best.get_xydata(), [[10, 0.3], [30, 0.5]])
    assert best.get_drawstyle() == "steps-post"


def test_bars_stand_for_the_sets():
    before = {"two": estimate(0.2), "two_colored": estimate(0.1, 0.0)}
    after = {"two": estimate(0.6), "two_colored": estimate(0.3)}
    axes = plots.sets_before_after(before, after).axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [0.2, 0.1, 0.6, 0.3])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["two", "two colored"]
    assert [text.get_text() for text in axes.texts] == ["20", "10", "60", "30"]


def test_figures_become_png(tmp_path):
    path = plots.save(plots.tiam_by_timestep(curve()), tmp_path / "new" / "curve.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 1000
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10  # there is something on it
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no trial has an outcome"):
        plots.tiam_by_timestep([])
    with pytest.raises(ValueError, match="as many estimates as instance counts"):
        plots.best_so_far([estimate(0.5)], [])
    with pytest.raises(ValueError, match="same sets"):
        plots.sets_before_after({"two": estimate(0.1)}, {"three": estimate(0.1)})


def test_a_study_is_plotted_by_optuna(tmp_path):
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    page = tmp_path / "plots" / "study.html"
    assert not write_study_plots(study, page)
    study.optimize(lambda trial: trial.suggest_float("cn", 0, 1) + 0 * trial.suggest_int("step_index", 0, 9), 6)
    assert write_study_plots(study, page)
    text = page.read_text()
    for found in ("Hyperparameter Importances", "Slice Plot", "Optimization History", "step_index", "Plotly.newPlot"):
        assert found in text
    assert text.count("plotly.js v") == 1  # its code once, so that no network is needed
