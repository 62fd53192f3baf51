"""The embedded models are fit for their purpose: they fail as real ones do, localise, and repair at some step alone."""

import pytest

from keystep.core.config import AttentionChoice, IterRef, Refinement
from keystep.core.shapes.models import resolve_model
from tests.benchmarks.shapes_fitness import SAMPLERS, Bench, show_curve, show_rates

MODELS = tuple(SAMPLERS)
STEPS = (1, 2, 6, 11)
"""Two at which both models are repaired, and two that may come too late; `shapes_curve` has them all."""


def bench(model: str) -> Bench:
    return Bench(resolve_model(f"keystep/{model}"), AttentionChoice(), SAMPLERS[model])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", MODELS)
def test_fails_as_real_models_do_and_localises(model: str) -> None:
    rates = show_rates(bench(model), num_prompts=64, num_seeds=4)
    assert rates["shapes_one"] >= 0.90
    assert 0.35 <= rates["shapes_two"] <= 0.80
    assert 0.05 <= rates["shapes_three"] <= 0.50
    assert rates["localisation"] >= 4


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("model", MODELS)
def test_refinement_helps_at_some_step_and_not_at_another(model: str) -> None:
    refinements = {
        str(step): Refinement(iterref=IterRef(step_index=step, iterations=10, step_size=20.0)) for step in STEPS
    }
    curve = show_curve(bench(model), refinements, num_prompts=24, num_seeds=2)
    gains = [tuple(curve[step][1:]) for step in refinements]
    best, low, _ = max(gains)
    assert best >= 0.08 and low > 0
    assert any(mean < 0.08 and high < best for mean, _, high in gains), "no step is worse for certain"
