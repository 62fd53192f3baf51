"""IterRef with CN against the update of diffusers' own Attend-and-Excite, same weights and latents."""

import sys

import pytest
import torch
from diffusers import StableDiffusionAttendAndExcitePipeline

from keystep.core.backbones import backbone_for
from keystep.core.config import IterRef
from keystep.core.losses import LOSSES
from keystep.core.prompts import Entity, Prompt
from keystep.core.refine import iterative_refinement
from tests.tiny_models import tiny_sd

PROMPT = Prompt("a cat and a frog", (Entity("cat"), Entity("frog")))
TOKENS = [2, 5]


@pytest.mark.parametrize("size", [(128, 128), (128, 192)])
def test_iterative_refinement_is_attend_and_excites(size: tuple[int, int]) -> None:
    pipe = tiny_sd()
    backbone = backbone_for(pipe)
    conditioning = backbone.encode([PROMPT])
    start = torch.randn(1, *backbone.latent_shape(*size), generator=torch.Generator().manual_seed(3))
    timestep, step_size, iterations = torch.tensor(801), 20.0, 3

    def cn(latents, rows):
        maps = backbone.entity_maps(latents, timestep, conditioning.select(rows))
        return LOSSES["cn"](maps.maps, maps.mask)

    settings = IterRef(step_index=0, iterations=iterations, step_size=step_size)
    ours = iterative_refinement(cn, start, settings, num_steps=50, step_index=0)

    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    reference = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    store = sys.modules[StableDiffusionAttendAndExcitePipeline.__module__].AttentionStore
    reference.attention_store = store((size[0] // 32, size[1] // 32))
    reference.register_attention_control()
    _, theirs, _ = reference._perform_iterative_refinement_step(
        latents=start,
        indices=TOKENS,
        loss=torch.tensor(1.0),
        threshold=1.0,  # its loss never gets to 0 here, so that every iteration is made
        text_embeddings=conditioning.prompt_embeds,
        step_size=step_size,
        t=timestep,
        max_refinement_steps=iterations,
    )
    moved = (theirs.detach() - start).abs().amax()
    assert moved > 1e-3
    assert (ours.latents - theirs.detach()).abs().amax() <= 1e-4 * moved
    assert ours.trace.iterations == (iterations,)
