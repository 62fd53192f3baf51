"""Ways in which gradients are off or cut without an error: refined all the same, or refused; never believed."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0, SlicedAttnProcessor
from torch import Tensor

from keystep.core.backbones import Backbone, backbone_for
from keystep.core.config import IterRef, Refinement
from keystep.core.gradients import Gradients
from keystep.core.refine import iterative_refinement
from keystep.core.sampling import Sampler
from tests.core.sampling_cases import PROMPTS, sampler_config, use_scheduler
from tests.tiny_models import TINY_MODELS

REFINEMENT = Refinement(iterref=IterRef(step_index=1, iterations=2, step_size=20.0))
PROCESSORS: dict[str, Any] = {"sd": AttnProcessor2_0, "sd3": JointAttnProcessor2_0}
SCHEDULERS = {"sd": "euler", "sdxl": "euler", "sd3": "flow"}


def sample(backbone: Backbone, name: str, refinement: Refinement | None = REFINEMENT):
    config = sampler_config(SCHEDULERS[name], num_inference_steps=3, height=64, width=64)
    use_scheduler(backbone.pipe, config)
    sampler = Sampler(backbone, config)
    conditioning = backbone.encode(PROMPTS[:2])
    return sampler.advance(sampler.start([5, 3]), conditioning, refinement=refinement)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_inference_mode_refines_as_elsewhere(name: str) -> None:
    backbone = backbone_for(TINY_MODELS[name]())
    expected, plain = sample(backbone, name), sample(backbone, name, None)
    with torch.inference_mode():
        refined = sample(backbone, name)
    assert not torch.equal(expected.point.latents, plain.point.latents)
    assert torch.equal(refined.point.latents, expected.point.latents)
    assert refined.traces[0].trace.losses == expected.traces[0].trace.losses
    assert refined.traces[0].trace.failures == (None, None)


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        backbone = backbone_for(TINY_MODELS["sd"]())
    with pytest.raises(ValueError, match=r"weights were made under torch\.inference_mode.*load the pipeline outside"):
        sample(backbone, "sd")


def cutting(base: type, how: str) -> Any:
    """A processor of a caller's own, which computes the stock result and cuts the gradient."""

    class Processor(base):
        def __call__(self, attn, hidden_states, *args, **kwargs):
            if how == "detached input":
                return super().__call__(attn, hidden_states.detach(), *args, **kwargs)
            with torch.no_grad() if how == "no_grad" else torch.inference_mode():
                return super().__call__(attn, hidden_states, *args, **kwargs)

    return Processor()


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "detached input"])
@pytest.mark.parametrize(("name", "where"), [("sd", "attn2"), ("sd", "attn1"), ("sd3", "attn")])
def test_a_processor_that_cuts_the_gradient_is_refused_by_its_name(name: str, where: str, how: str) -> None:
    """In the last layer that is captured, and in the one before it, which is not."""
    backbone = backbone_for(TINY_MODELS[name]())
    layers, _ = backbone.attention_layers(8, 8)
    modules = dict(backbone.denoiser.named_modules())
    place = list(layers)[-1].rpartition(".")[0] + "." + where
    modules[place].set_processor(cutting(PROCESSORS[name], how))
    unrefined = sample(backbone, name, None).point.latents
    with pytest.raises(ValueError, match=r"\(Processor\)") as raised:
        sample(backbone, name)
    assert place in str(raised.value)
    assert "gradient" in str(raised.value)
    # Of use as values, maps need no gradient.
    with torch.no_grad():
        maps = backbone.entity_maps(torch.zeros(2, *backbone.latent_shape(64, 64)), 500, backbone.encode(PROMPTS[:2]))
    assert maps.maps.isfinite().all()
    assert torch.equal(sample(backbone, name, None).point.latents, unrefined)


def test_processors_without_torchs_attention_have_one_stand_in() -> None:
    backbone = backbone_for(TINY_MODELS["sd"]())
    expected = sample(backbone, "sd").traces[0].trace.losses
    backbone.pipe.enable_attention_slicing(1)
    found = sample(backbone, "sd").traces[0].trace.losses
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    kinds = {type(processor) for processor in backbone.denoiser.attn_processors.values()}
    assert kinds == {SlicedAttnProcessor}, "and are there again"


class WithoutTorch:
    """Attention by whole matrices."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        )
        query, key, value = split
        matrix = (query @ key.transpose(-1, -2) * attn.scale).softmax(dim=-1)
        return attn.to_out[0]((matrix @ value).transpose(1, 2).flatten(2))


def test_a_processor_that_cannot_be_read_is_refused_by_its_name() -> None:
    backbone = backbone_for(TINY_MODELS["sd"]())
    backbone.denoiser.set_attn_processor(WithoutTorch())
    with pytest.raises(ValueError, match=r"without the attention of .*\(WithoutTorch\).*set_default_attn_processor"):
        sample(backbone, "sd")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.denoiser.modules())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_casts_that_autocast_kept_without_a_gradient_are_not_used_for_one(name: str) -> None:
    """The unrefined steps before, without gradients, fill autocast's cache of weights."""
    backbone = backbone_for(TINY_MODELS[name]())
    conditioning = backbone.encode(PROMPTS[:2])
    noise = torch.randn(2, *backbone.latent_shape(64, 64), generator=torch.Generator().manual_seed(0))

    def slope(warm: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            if warm:
                with torch.no_grad():
                    backbone.noise_pred(noise, 500, conditioning, 4.0)
            leaf = noise.clone().requires_grad_(True)
            maps = backbone.entity_maps(leaf, 500, conditioning).maps
            assert maps.dtype == torch.float32
            return torch.autograd.grad(maps.square().sum(), leaf)[0]

    fresh, after = slope(False), slope(True)
    assert fresh.abs().max() > 0
    assert torch.equal(fresh, after)


def constant(latents: Tensor, rows: Any) -> Tensor:
    return torch.full((len(rows),), 0.7)


def cut(latents: Tensor, rows: Any) -> Tensor:
    return latents.detach().square().mean(dim=(1, 2, 3))


def elsewhere(latents: Tensor, rows: Any) -> Tensor:
    return torch.ones(len(rows), requires_grad=True) * latents.detach().square().mean()


@pytest.mark.parametrize("loss_fn", [constant, cut, elsewhere])
@pytest.mark.parametrize("inference", [False, True])
def test_a_loss_that_does_not_hang_on_the_latents_is_refused_unless_it_is_0(loss_fn, inference: bool) -> None:
    with torch.inference_mode(inference), pytest.raises(ValueError, match="does not hang on the latents"):
        iterative_refinement(loss_fn, torch.ones(2, 1, 2, 2), IterRef(step_index=0), num_steps=4, step_index=0)
    losses, gradients = Gradients(lambda latents, rows: loss_fn(latents, rows) * 0)(torch.ones(2, 1, 2, 2), [0, 1])
    assert losses.tolist() == [0, 0]
    assert not gradients.any()


@pytest.mark.parametrize("inference", [False, True])
def test_a_sample_that_no_shift_moved_is_told_and_one_of_loss_0_is_well(inference: bool) -> None:
    factors = torch.tensor([1.0, 0.0, 1.0]).reshape(-1, 1, 1, 1)
    offsets = torch.tensor([0.0, 0.7, 0.0])

    def loss_fn(latents: Tensor, rows: Any) -> Tensor:
        """Moving; 0.7 with a gradient of 0; saturated at 0 from the start."""
        means = (factors[rows] * latents).square().mean(dim=(1, 2, 3)) + offsets[rows]
        return torch.where(torch.tensor(rows) == 2, torch.relu(means - 100), means)

    start = torch.ones(3, 1, 2, 2)
    settings = IterRef(step_index=0, iterations=3, step_size=0.1)
    with torch.inference_mode(inference):
        result = iterative_refinement(loss_fn, start, settings, num_steps=4, step_index=0)
    assert [torch.equal(given, after) for given, after in zip(start, result.latents, strict=True)] == [
        False,
        True,
        True,
    ]
    moved, stuck, saturated = result.trace.failures
    assert (moved, saturated) == (None, None)
    assert stuck == "no shift moved the latents, at a loss of 0.7: its gradient is 0, or too small for their precision"


def test_shifts_below_the_precision_of_the_latents_are_told() -> None:
    start = torch.full((1, 1, 2, 2), 100.0, dtype=torch.bfloat16)
    settings = IterRef(step_index=0, iterations=1, step_size=1e-3)
    result = iterative_refinement(
        lambda latents, _: latents.mean(dim=(1, 2, 3)), start, settings, num_steps=4, step_index=0
    )
    assert torch.equal(result.latents, start)
    failure = result.trace.failures[0]
    assert failure is not None
    assert "no shift moved the latents, at a loss of 100" in failure
