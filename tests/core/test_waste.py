"""What refinement must not compute, keep or wait for."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from keystep.core import attention_call, probabilities
from keystep.core.backbones import Backbone, MMDiTBackbone, backbone_for
from keystep.core.config import IterRef
from keystep.core.losses import LOSSES
from keystep.core.prompts import Entity, Prompt
from keystep.core.refine import iterative_refinement
from tests.core.whole_attention import plain_probabilities
from tests.tiny_models import TINY_MODELS, tiny_sd, tiny_sd3, tiny_sd35

PROMPT = Prompt("a red circle and a blue star", (Entity("circle"), Entity("star")))
TIMESTEP = torch.tensor(801.0)


def prepare(make: Callable, size: tuple[int, int] = (128, 128)):
    backbone = backbone_for(make())
    length = 20 if isinstance(backbone, MMDiTBackbone) else None
    conditioning = backbone.encode([PROMPT], max_sequence_length=length)
    noise = torch.randn(1, *backbone.latent_shape(*size), generator=torch.Generator().manual_seed(0))
    return backbone, noise.requires_grad_(True), conditioning


def count_calls(modules: dict[str, torch.nn.Module], forward: Callable[[], object]) -> Counter[str]:
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name])) for name, module in modules.items()
    ]
    forward()
    for handle in handles:
        handle.remove()
    return calls


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the different tensors that autograd keeps for the backward of ``forward``."""
    storages: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(size for size, _ in storages.values())


def test_a_unet_stops_after_its_last_captured_layer() -> None:
    backbone, model_input, conditioning = prepare(tiny_sd)
    unet = backbone.denoiser
    last = unet.up_blocks[1].attentions[2].transformer_blocks[0]
    watched = {
        "down_blocks.2": unet.down_blocks[2],
        "up_blocks.1": unet.up_blocks[1],
        "up_blocks.2": unet.up_blocks[2],
        "up_blocks.3": unet.up_blocks[3],
        "conv_out": unet.conv_out,
        "last output": last.attn2.to_out[0],
        "last feed-forward": last.ff,
    }
    calls = count_calls(watched, lambda: backbone.entity_maps(model_input, TIMESTEP, conditioning))
    assert calls == {"down_blocks.2": 1, "up_blocks.1": 1}
    ordinary = count_calls(watched, lambda: backbone.noise_pred(model_input, TIMESTEP, conditioning, 1.0))
    assert ordinary == dict.fromkeys(watched, 1)


@pytest.mark.parametrize("make", [tiny_sd3, tiny_sd35])
def test_a_transformer_stops_after_its_last_captured_block(make: Callable) -> None:
    backbone, model_input, conditioning = prepare(make)
    transformer = backbone.denoiser
    last = transformer.transformer_blocks[-1]
    watched = {"queries": last.attn.to_q, "output": last.attn.to_out[0], "ff": last.ff, "out": transformer.proj_out}
    calls = count_calls(watched, lambda: backbone.entity_maps(model_input, TIMESTEP, conditioning))
    assert calls == {"queries": 1}


@pytest.mark.parametrize("name", TINY_MODELS)
def test_weights_get_no_gradient(name: str) -> None:
    backbone, model_input, conditioning = prepare(TINY_MODELS[name])
    maps = backbone.entity_maps(model_input, TIMESTEP, conditioning)
    LOSSES["cn"](maps.maps, maps.mask).sum().backward()
    assert model_input.grad is not None
    weights = list(backbone.denoiser.parameters())
    assert all(weight.grad is None for weight in weights)
    assert all(weight.requires_grad for weight in weights)


@pytest.mark.parametrize(("make", "share"), [(tiny_sd, 0.5), (tiny_sd3, 0.7)])
def test_activations_kept_are_a_part_of_those_of_a_full_forward(make: Callable, share: float) -> None:
    backbone, model_input, conditioning = prepare(make, (256, 256))
    grid = (16, 16) if isinstance(backbone, MMDiTBackbone) else (8, 8)
    ours = saved_bytes(lambda: backbone.entity_maps(model_input, TIMESTEP, conditioning).maps)
    whole = saved_bytes(lambda: plain_probabilities(backbone, model_input, TIMESTEP, conditioning, grid))
    assert 0 < ours <= share * whole


def test_the_graph_is_not_retained() -> None:
    backbone, model_input, conditioning = prepare(tiny_sd)
    graphs = []

    def loss_fn(latents: Tensor, rows) -> Tensor:
        maps = backbone.entity_maps(latents, TIMESTEP, conditioning)
        graphs.append(LOSSES["cn"](maps.maps, maps.mask))
        return graphs[-1]

    settings = IterRef(step_index=0, iterations=1)
    iterative_refinement(loss_fn, model_input, settings, num_steps=10, step_index=0)
    with pytest.raises(RuntimeError, match="second time"):
        graphs[0].sum().backward()


class Shapes(TorchDispatchMode):
    """Writes down what ran and the shapes that came out."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations[func.__name__] += 1
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.shapes.add(tuple(value.shape))
        return result


@pytest.mark.parametrize("make", [tiny_sd3, tiny_sd35])
@pytest.mark.parametrize("fused", [False, True])
def test_no_whole_attention_matrix_exists_in_a_transformer(make: Callable, fused: bool, monkeypatch) -> None:
    backbone, model_input, conditioning = prepare(make, (256, 256))
    image, text = 16 * 16, 77 + 20
    monkeypatch.setattr(probabilities, "CHUNK_BYTES", (image + text) * 4 * 32)  # 32 queries of one head
    monkeypatch.setattr(attention_call, "FUSE_FROM_BYTES", 0 if fused else 2**40)
    with Shapes() as seen:
        maps = backbone.entity_maps(model_input, TIMESTEP, conditioning)
        LOSSES["cn"](maps.maps, maps.mask).sum().backward()
    # Queries by keys, of image or of all tokens; a chunk of 32 queries is there, so that the test does
    # look.
    matrices = {shape for shape in seen.shapes if len(shape) >= 3 and shape[-1] == image + text}
    assert fused or any(shape[-2] == 32 for shape in matrices)
    assert not [shape for shape in matrices if shape[-2] > 32 and shape[-2] >= image]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_attention_stays_fused_in_both_forwards(name: str) -> None:
    backbone, model_input, conditioning = prepare(TINY_MODELS[name])
    stock = {key: type(value) for key, value in backbone.denoiser.attn_processors.items()}
    fused = "_scaled_dot_product_flash_attention_for_cpu.default"
    with torch.no_grad(), Shapes() as ordinary:
        backbone.noise_pred(model_input, TIMESTEP, conditioning, 5.0)
    assert ordinary.operations[fused] == len(stock), "every layer, one fused kernel"
    with Shapes() as captured:
        backbone.entity_maps(model_input, TIMESTEP, conditioning)
    assert 0 < captured.operations[fused] < len(stock)
    assert {key: type(value) for key, value in backbone.denoiser.attn_processors.items()} == stock


def waits(backbone: Backbone, conditioning, latents: Tensor, iterations: int, threshold: float | None) -> int:
    """How often a refinement asks the device for a number."""

    def loss_fn(latents: Tensor, rows) -> Tensor:
        maps = backbone.entity_maps(latents, 801, conditioning)
        return LOSSES["cn"](maps.maps, maps.mask)

    settings = IterRef(step_index=0, iterations=iterations, threshold=threshold)
    with Shapes() as seen:
        iterative_refinement(loss_fn, latents, settings, num_steps=10, step_index=0)
    return seen.operations["_local_scalar_dense.default"]


def test_iterations_do_not_wait_for_the_device() -> None:
    backbone, model_input, conditioning = prepare(tiny_sd)
    few, many = (waits(backbone, conditioning, model_input, count, None) for count in (1, 4))
    # The trace is read once, at the end: 6 numbers an iteration, and nothing else.
    assert many - few <= 3 * 6
