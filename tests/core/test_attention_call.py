"""One fused call read in both ways, against the whole softmax; and a family that captures by watching it."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from keystep.core import attention_call
from keystep.core.attention import AttentionCapture
from keystep.core.attention_call import AttentionCall, TokenPlaces

COLUMNS = [(1, 3), (5, 6)]
IMAGE_FIRST = TokenPlaces(queries=9, first_query=0, first_text=9)
TEXT_FIRST = TokenPlaces(queries=9, first_query=7, first_text=0)
TOKENS = 16


def tensors(dtype=torch.float64, key_heads: int = 4, factor: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, TOKENS, 6), (2, key_heads, TOKENS, 6), (2, key_heads, TOKENS, 6)]
    wide = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [(factor * tensor).to(dtype).requires_grad_(True) for tensor in wide]


def masks() -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(2, 1, TOKENS, TOKENS, generator=generator) > 0.3
    seen[..., 0] = True  # every query sees a key, as torch wants
    blind = torch.ones(2, 1, 1, TOKENS, dtype=torch.bool)
    blind[0, ..., 10:15] = False  # of the first sample all text columns wanted, where the image comes first
    return {
        "none": None,
        "boolean": seen,
        "additive": torch.randn(TOKENS, TOKENS, generator=generator, dtype=torch.float64),
        "padding": blind,
    }


def whole(query: Tensor, key: Tensor, mask: Tensor | None, places: TokenPlaces, scale: float) -> Tensor:
    """The definition: the whole softmax, then its rows and columns, summed over heads."""
    logits = scale * query @ key.repeat_interleave(4 // key.shape[1], dim=1).transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    rows = slice(places.first_query, places.first_query + places.queries)
    columns = [places.first_text + column for column in (1, 2, 5)]
    return logits.softmax(dim=-1)[:, :, rows, columns].sum(dim=1)


@pytest.mark.parametrize("places", [IMAGE_FIRST, TEXT_FIRST])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("with_output", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_columns_output_and_gradients_are_those_of_the_whole_softmax(
    places, mask: str, key_heads: int, with_output: bool, fused: bool, monkeypatch
) -> None:
    monkeypatch.setattr(attention_call, "FUSE_FROM_BYTES", 0 if fused else 2**60)
    query, key, value = tensors(key_heads=key_heads)
    given, scale = masks()[mask], 0.7
    call = AttentionCall(query, key, value, given, scale=scale, enable_gqa=key_heads == 2)
    assert call.holds(places, COLUMNS)
    found, output = call.read(places, COLUMNS, with_output=with_output)
    expected = whole(query, key, given, places, scale)
    torch.testing.assert_close(found, expected)
    assert (output is not None) == with_output
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=expected.dtype)
    ours, theirs = (found * weights).sum(), (expected * weights).sum()
    if with_output:
        plain = scaled_dot_product_attention(query, key, value, given, scale=scale, enable_gqa=key_heads == 2)
        torch.testing.assert_close(output, plain)
        ours, theirs = ours + output.sin().sum(), theirs + plain.sin().sum()
    wanted = (query, key, value) if with_output else (query, key)
    slopes = zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True)
    for mine, other in slopes:
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("factor", [1.0, 8.0])
@pytest.mark.parametrize("with_output", [False, True])
def test_the_fused_way_is_as_exact_as_the_other_in_float32(factor: float, with_output: bool, monkeypatch) -> None:
    """Also where text gets next to nothing or nearly all: logits up to +-1000."""
    exact = tensors(factor=factor)
    expected = whole(exact[0], exact[1], None, IMAGE_FIRST, 1.0)
    slope = torch.autograd.grad((expected**2).sum(), exact[:2])
    for fused in (0, 2**60):
        monkeypatch.setattr(attention_call, "FUSE_FROM_BYTES", fused)
        query, key, value = tensors(torch.float32, factor=factor)
        found, _ = AttentionCall(query, key, value, scale=1.0).read(IMAGE_FIRST, COLUMNS, with_output=with_output)
        mine = torch.autograd.grad((found**2).sum(), (query, key))
        # Of float32 logits of this size the last digit alone moves a probability by so much.
        tolerance = 1e-6 * max(1.0, factor**2)
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)
        for ours, theirs in zip(mine, slope, strict=True):
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_probabilities_are_computed_in_float32(dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(attention_call, "FUSE_FROM_BYTES", 0)
    query, key, value = tensors(dtype)
    expected = whole(query.double(), key.double(), None, IMAGE_FIRST, 0.4)
    for context in (nullcontext(), torch.autocast("cpu", dtype)):
        with context:
            given = (
                (query, key, value) if isinstance(context, nullcontext) else (query.float(), key.float(), value.float())
            )
            found, _ = AttentionCall(*given, scale=0.4).read(IMAGE_FIRST, COLUMNS, with_output=True)
            torch.autograd.grad(found.sum(), (query, key))
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_causal_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="is causal"):
        AttentionCall(*tensors(), is_causal=True).read(IMAGE_FIRST, COLUMNS, with_output=True)


def test_calls_of_other_tokens_are_not_taken_for_the_layers() -> None:
    query, key, value = tensors()
    assert not AttentionCall(query[:, :, :15], key, value).holds(TEXT_FIRST, COLUMNS)
    assert not AttentionCall(query, key[:, :, :14], value).holds(IMAGE_FIRST, COLUMNS)


@pytest.mark.parametrize("own_backend", [None, "flex"])
def test_rotary_attention_of_text_and_image_in_one_stream_is_read(own_backend: str | None) -> None:
    """FLUX.1's two kinds of layers: the attention function itself tells what the right columns are.

    A backend of the caller's choice, which does not use that function, is put aside meanwhile.
    """
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=6,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    places = TokenPlaces(queries=16, first_query=6, first_text=0)
    image = torch.randn(1, 16, 4, requires_grad=True)
    grid = torch.cartesian_prod(torch.tensor([0.0]), torch.arange(4.0), torch.arange(4.0))
    arguments = dict(
        encoder_hidden_states=torch.randn(1, 6, 12),
        pooled_projections=torch.randn(1, 6),
        timestep=torch.tensor([0.7]),
        img_ids=grid,
        txt_ids=torch.zeros(6, 3),
    )
    names = ["transformer_blocks.0.attn", "single_transformer_blocks.0.attn", "single_transformer_blocks.1.attn"]
    layers = {name: model.get_submodule(name) for name in names}
    seen: list[Tensor] = []

    def keep(call: AttentionCall) -> Tensor:
        matrix = (call.query @ call.key.transpose(-1, -2) * 8**-0.5).softmax(dim=-1)
        seen.append(matrix[:, :, 6:, [1, 2, 5]])
        return call.run()

    with attention_backend("native"), attention_call.AttentionWatch(keep):
        model(hidden_states=image, **arguments)
    assert len(seen) == 3

    if own_backend:
        model.set_attention_backend(own_backend)
    before = [layer.processor._attention_backend for layer in layers.values()]
    with AttentionCapture(model, layers, COLUMNS, places) as capture:
        found = capture.run(lambda: model(hidden_states=image, **arguments), gradient_of=image)
    expected = torch.cat(seen, dim=1).mean(dim=1)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad((maps**2).sum(), image)[0] for maps in (found, expected))
    torch.testing.assert_close(ours, theirs)
    assert [layer.processor._attention_backend for layer in layers.values()] == before
    assert before == [own_backend] * 3
