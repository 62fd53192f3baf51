"""Captured attention against full forwards with whole matrices, and what a capture leaves behind."""

import pytest
import torch
from torch import Tensor

from keystep.core import probabilities as probabilities_module
from keystep.core.attention import AttentionCapture
from keystep.core.attention_call import TokenPlaces
from keystep.core.backbones import Backbone, MMDiTBackbone, backbone_for
from keystep.core.config import AttentionChoice
from keystep.core.entity_maps import smooth
from keystep.core.probabilities import head_sum_probabilities
from keystep.core.prompts import Entity, Prompt
from tests.core.whole_attention import plain_maps, plain_probabilities
from tests.tiny_models import TINY_MODELS, tiny_sd, tiny_sd3, tiny_sd35

PROMPT = Prompt("a red circle and a blue skateboard", (Entity("circle", "red"), Entity("skateboard", "blue")))
T5_LENGTH = 20
CIRCLE, SKATEBOARD, EOT = 3, 7, 8  # positions of CLIP, BOS counted
# T5 has no BOS, and spells skateboard in two: a, red, circle, and, a, blue, skate, board, </s>.
T5_TOKENS = [[77 + 2], [77 + 6, 77 + 7]]
CLIP_GROUPS = {
    "sd": ((1, 76), [[CIRCLE], [SKATEBOARD]]),
    "sd2": ((1, EOT), [[CIRCLE], [SKATEBOARD]]),
}

every_model = pytest.mark.parametrize("name", TINY_MODELS)


def groups_of(name: str):
    clip = CLIP_GROUPS.get(name, CLIP_GROUPS["sd2"])
    return [clip, ((77, 77 + 8), T5_TOKENS)] if "sd3" in name else [clip]


def encode(backbone: Backbone, prompts: list[Prompt]):
    length = T5_LENGTH if isinstance(backbone, MMDiTBackbone) else None
    return backbone.encode(prompts, max_sequence_length=length)


def case(name: str, dtype=torch.float64, batch: int = 1, **choice):
    """A backbone, a model input of 128 x 192 px that wants a gradient, a timestep, a conditioning."""
    backbone = backbone_for(TINY_MODELS[name]().to(dtype), AttentionChoice(**choice))
    noise = torch.randn(batch, *backbone.latent_shape(128, 192), generator=torch.Generator().manual_seed(1))
    model_input = noise.to(torch.promote_types(dtype, torch.float32)).requires_grad_(True)
    backbone.pipe.scheduler.set_timesteps(10)
    return backbone, model_input, backbone.pipe.scheduler.timesteps[3], encode(backbone, [PROMPT] * batch)


def gradient(maps: Tensor, model_input: Tensor) -> Tensor:
    """Of a loss that hangs on every pixel of every map, and on the peaks most."""
    loss = (1 - maps.amax(dim=(-2, -1))).amax() + (maps[..., 0, :, :] * maps[..., 1, :, :]).sum()
    return torch.autograd.grad(loss, model_input)[0]


@every_model
def test_maps_and_gradients_are_those_of_a_full_forward_with_whole_matrices(name: str, monkeypatch) -> None:
    monkeypatch.setattr(probabilities_module, "CHUNK_BYTES", 2**14)
    backbone, model_input, timestep, conditioning = case(name)
    grid = (8, 12) if "sd3" in name else (4, 6)
    captured = backbone.entity_maps(model_input, timestep, conditioning).maps
    ours = gradient(captured, model_input)

    whole = plain_probabilities(backbone, model_input, timestep, conditioning, grid)
    expected = plain_maps(backbone, whole[0], PROMPT, groups_of(name), grid)
    theirs = gradient(expected, model_input)
    torch.testing.assert_close(captured[0], expected, rtol=1e-6, atol=1e-9)
    assert theirs.abs().amax() > 1e-4, "a flat loss would show nothing"
    assert (ours - theirs).abs().amax() <= 1e-5 * theirs.abs().amax()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_half_precision_models_give_float32_maps_and_gradients(name: str, dtype: torch.dtype) -> None:
    backbone, model_input, timestep, conditioning = case(name, dtype)
    maps = backbone.entity_maps(model_input, timestep, conditioning).maps
    assert maps.dtype == torch.float32
    slope = gradient(maps, model_input)
    assert slope.dtype == torch.float32
    assert slope.isfinite().all()
    exact, exact_input, timestep, conditioning = case(name, torch.float32)
    expected = exact.entity_maps(exact_input, timestep, conditioning).maps
    assert (maps - expected).abs().mean() < 0.1 * expected.mean()


def test_chosen_blocks_alone_are_read() -> None:
    backbone, model_input, timestep, conditioning = case("sd3", layers=("transformer_blocks.1",))
    one = backbone.entity_maps(model_input, timestep, conditioning).maps
    every, *_ = case("sd3")
    assert not torch.allclose(one, every.entity_maps(model_input, timestep, conditioning).maps)


@pytest.mark.parametrize("chunk_bytes", [1, 600, 2**20])
def test_columns_of_probabilities_and_their_gradient(chunk_bytes: int, monkeypatch) -> None:
    monkeypatch.setattr(probabilities_module, "CHUNK_BYTES", chunk_bytes)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    columns = [(1, 3), (5, 6)]
    whole = (query @ key.transpose(-1, -2) * 0.7).softmax(dim=-1).sum(dim=1)
    torch.testing.assert_close(head_sum_probabilities(query, key, columns, 0.7), whole[..., [1, 2, 5]])
    assert torch.autograd.gradcheck(lambda q, k: head_sum_probabilities(q, k, columns, 0.7), (query, key))


def test_smoothing_has_the_constants_of_the_reference() -> None:
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 2, 2] = 1
    smoothed = smooth(point)[0, 0, 1:4, 1:4]
    edge, corner = 0.1221, 0.0449
    expected = torch.tensor([[corner, edge, corner], [edge, 0.3319, edge], [corner, edge, corner]])
    torch.testing.assert_close(smoothed, expected, atol=6e-5, rtol=0)
    # Reflection: of a point in the corner, the pixel next to it sees the point twice nowhere, itself once.
    constant = torch.full((1, 1, 3, 4), 0.7)
    torch.testing.assert_close(smooth(constant), constant)


def state_of(backbone: Backbone):
    model = backbone.denoiser
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    processors = {name: id(processor) for name, processor in model.attn_processors.items()}
    return hooks, processors, [weight.requires_grad for weight in model.parameters()]


@every_model
@pytest.mark.parametrize("ending", ["normal", "loss fails", "denoiser fails"])
def test_the_pipeline_is_afterwards_what_it_was(name: str, ending: str, monkeypatch) -> None:
    backbone, model_input, timestep, conditioning = case(name, torch.float32)
    next(backbone.denoiser.parameters()).requires_grad_(False)  # what was frozen stays frozen
    before = state_of(backbone)
    with torch.no_grad():
        output = backbone.noise_pred(model_input, timestep, conditioning, 5.0)
    layers, grid = backbone.attention_layers(*model_input.shape[-2:])
    places = backbone.token_places(*grid)
    if ending == "normal":
        gradient(backbone.entity_maps(model_input, timestep, conditioning).maps, model_input)
    elif ending == "loss fails":
        with pytest.raises(KeyboardInterrupt), AttentionCapture(backbone.denoiser, layers, [(0, 1)], places):
            raise KeyboardInterrupt
    else:
        last = list(layers.values())[-1]
        with monkeypatch.context() as patch:
            patch.setattr(last.to_q, "forward", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                backbone.entity_maps(model_input, timestep, conditioning)
    assert state_of(backbone) == before
    with torch.no_grad():
        assert torch.equal(backbone.noise_pred(model_input, timestep, conditioning, 5.0), output)
    backbone.entity_maps(model_input, timestep, conditioning)  # and it can be captured again


def test_captures_cannot_be_nested() -> None:
    backbone, model_input, timestep, conditioning = case("sd", torch.float32)
    layers, grid = backbone.attention_layers(16, 24)
    places = backbone.token_places(*grid)
    with AttentionCapture(backbone.denoiser, layers, [(0, 3)], places):
        with pytest.raises(ValueError, match="cannot be nested"):
            backbone.entity_maps(model_input, timestep, conditioning)
        with pytest.raises(ValueError, match="cannot be nested"):
            AttentionCapture(backbone.denoiser, layers, [(0, 3)], places).__enter__()
    assert backbone.entity_maps(model_input, timestep, conditioning).maps.shape == (1, 2, 4, 6)


def test_what_cannot_be_captured_is_an_error_that_says_what_to_do() -> None:
    pipe, places = tiny_sd(), TokenPlaces(16)
    with pytest.raises(ValueError, match="at least one"):
        AttentionCapture(pipe.unet, {}, [(0, 3)], places)
    pipe.unet.enable_gradient_checkpointing()
    layers, _ = backbone_for(pipe).attention_layers(16, 16)
    with pytest.raises(ValueError, match="disable_gradient_checkpointing"):
        AttentionCapture(pipe.unet, layers, [(0, 3)], places).__enter__()


def test_fused_projections_are_read_too() -> None:
    backbone, model_input, timestep, conditioning = case("sd3")
    expected = backbone.entity_maps(model_input, timestep, conditioning).maps
    backbone.denoiser.fuse_qkv_projections()
    found = backbone.entity_maps(model_input, timestep, conditioning).maps
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, model_input), gradient(expected, model_input))


def test_only_joint_attention_is_tapped_where_a_block_has_two() -> None:
    backbone = backbone_for(tiny_sd35())
    layers, _ = backbone.attention_layers(16, 16)
    blocks = backbone.denoiser.transformer_blocks
    assert [block.attn2 is not None for block in blocks] == [True, True, False]
    assert list(layers.values()) == [block.attn for block in blocks]
    assert all(layer.norm_k is not None for layer in layers.values())
    assert all(layer.norm_k is None for layer in backbone_for(tiny_sd3()).attention_layers(16, 16)[0].values())
