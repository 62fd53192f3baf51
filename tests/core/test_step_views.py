"""Views of steps: what is seen is what is sampled."""

import numpy as np
import pytest
import torch

from keystep.core.backbones import backbone_for
from keystep.core.config import IterRef, Refinement, SamplerConfig
from keystep.core.prompts import Entity, Prompt
from keystep.core.sampling import Sampler
from keystep.core.step_views import step_views
from tests.tiny_models import TINY_MODELS

PROMPT = Prompt("a red circle and a blue star", [Entity("circle", "red"), Entity("star", "blue")])
STEPS, SEEDS = 4, (3, 5)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_views_are_of_the_samples_that_the_sampler_makes(scheduler: str) -> None:
    config = SamplerConfig(scheduler=scheduler, num_inference_steps=STEPS, guidance_scale=3.0, height=128, width=128)
    backbone = backbone_for(TINY_MODELS["sd"](seed=0))
    sampler = Sampler(backbone, config)
    refinement = Refinement(iterref=IterRef(step_index=2, iterations=2))
    views = list(step_views(sampler, PROMPT, SEEDS, refinement))
    conditioning = backbone.encode([PROMPT] * len(SEEDS))

    assert [view.step_index for view in views] == list(range(STEPS))
    assert [view.timestep for view in views] == [float(timestep) for timestep in sampler.timesteps]
    assert [[trace.kind for trace in view.traces] for view in views] == [[], [], ["iterref"], []]

    # Maps: those of the very loss that refinement starts from, which the trace has.
    before = sampler.advance(sampler.start(SEEDS), conditioning, until=2)
    unrefined = list(step_views(sampler, PROMPT, SEEDS))
    peaks = unrefined[2].maps.amax(dim=(-2, -1))
    both = unrefined[2].maps
    shared = torch.minimum(both[:, 0], both[:, 1]).sum(dim=(-2, -1)) / both.sum(dim=(1, 2, 3))
    losses = [sample[0] for sample in views[2].traces[0].trace.losses]
    assert losses == pytest.approx((((1 - peaks).clamp(min=0).amax(dim=1) + shared) / 2).tolist(), abs=1e-5)
    assert before.point.step_index == 2
    assert not torch.equal(views[2].maps, unrefined[2].maps) and torch.equal(views[1].maps, unrefined[1].maps)

    # Estimates: at the end nothing is left to remove, and they are the images.
    end = sampler.advance(sampler.start(SEEDS), conditioning, refinement=refinement)
    for estimate, image in zip(views[-1].estimates, sampler.decode(end.point), strict=True):
        apart = np.abs(np.asarray(estimate, dtype=float) - np.asarray(image, dtype=float))
        assert apart.mean() < 3
