"""The cases of ``bench_core``: real sizes, random weights, one iteration each way."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    SD3Transformer2DModel,
    StableDiffusionAttendAndExcitePipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from keystep.core import attention_call, probabilities
from keystep.core.backbones import Backbone, Conditioning, MMDiTBackbone, UNetBackbone
from keystep.core.config import IterRef
from keystep.core.entity_maps import entity_attention
from keystep.core.losses import LOSSES
from keystep.core.refine import iterative_refinement
from tests.core.whole_attention import plain_probabilities
from tests.tiny_models import clip_tokenizer

TIMESTEP = 801
TOKENS = (2, 5)
"""Of "a cat and a frog"."""


@dataclass(frozen=True)
class Measurement:
    """Of one iteration: seconds an image (CPU time on a CPU), MiB in all, MiB of attention (0: not measured)."""

    seconds: float
    mebibytes: float
    attention_mebibytes: float = 0.0


@dataclass(frozen=True)
class Case:
    """A model, how many images at a time, and the height and width of their latents."""

    family: str
    batch: int
    latent: int = 64
    gpu_only: bool = False


CASES = {
    "sd14-batch1": Case("unet", 1),
    "sd14-batch4": Case("unet", 4),
    "sd14-batch16": Case("unet", 16, gpu_only=True),
    "sd3-batch1": Case("mmdit", 1, latent=96),
    "sd3-batch4": Case("mmdit", 4, latent=96, gpu_only=True),
}


def measure(name: str, way: str, device: str) -> Measurement:
    """One iteration of a case: "ours", the "usual" way, or columns read "apart"; or a "bare" forward and backward."""
    case = CASES[name]
    backbone = _backbone(case.family, device)
    channels = backbone.denoiser.config.in_channels
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(case.batch, channels, case.latent, case.latent, generator=generator).to(device)
    conditioning = _conditioning(case, backbone, device)
    run = {
        "ours": _ours,
        "usual": _attend_and_excite if case.family == "unet" else _whole_matrices,
        "bare": _bare,
        "apart": _columns_apart,
    }[way]
    # On a shared CPU the time that the process got says more than the time that passed.
    clock = time.perf_counter if device == "cuda" else time.process_time
    with _Memory(backbone, device).recording() as memory:
        began = clock()
        run(backbone, latents, conditioning)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - began
    return Measurement(seconds / case.batch, *memory.mebibytes())


@lru_cache(maxsize=1)
def _backbone(family: str, device: str) -> Backbone:
    torch.manual_seed(0)
    if family == "unet":
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = SimpleNamespace(config=SimpleNamespace(latent_channels=4))
        return UNetBackbone(SimpleNamespace(unet=unet.eval().to(device), vae=vae, vae_scale_factor=8))
    # SD3's width, 24 heads of 64; its 24 blocks on a GPU, three where three show the ratio.
    transformer = SD3Transformer2DModel(
        sample_size=96,
        num_layers=24 if device == "cuda" else 3,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    )
    transformer = transformer.eval().to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    return MMDiTBackbone(SimpleNamespace(transformer=transformer, vae_scale_factor=8))


def _conditioning(case: Case, backbone: Backbone, device: str) -> Conditioning:
    """Random embeddings with two entities in them."""
    groups = [(1, 76)] if case.family == "unet" else [(1, 6), (77, 82)]
    length, width = (77, 768) if case.family == "unet" else (77 + 256, 4096)
    dtype = next(backbone.denoiser.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(case.batch, length, width, generator=generator).to(device, dtype)
    added = {} if case.family == "unet" else {"pooled_projections": embeds[:, 0, :2048]}
    weights = torch.zeros(case.batch, len(groups), 2, length, device=device)
    kept = torch.zeros(case.batch, len(groups), length, dtype=torch.bool, device=device)
    for number, (first, last) in enumerate(groups):
        kept[:, number, first:last] = True
        for entity, token in enumerate(TOKENS):
            weights[:, number, entity, token + (first - 1 if number else 0)] = 1
    mask = torch.ones(case.batch, 2, dtype=torch.bool, device=device)
    return Conditioning(embeds, embeds, added, added, weights, kept, mask, (tuple(groups),) * case.batch)


def _refine(loss_fn: Callable, latents: Tensor) -> None:
    settings = IterRef(step_index=0, iterations=1)
    iterative_refinement(loss_fn, latents, settings, num_steps=50, step_index=0)


def _ours(backbone: Backbone, latents: Tensor, conditioning: Conditioning) -> None:
    def loss_fn(active: Tensor, rows) -> Tensor:
        maps = backbone.entity_maps(active, TIMESTEP, conditioning.select(rows))
        return LOSSES["cn"](maps.maps, maps.mask)

    _refine(loss_fn, latents)


def _columns_apart(backbone: Backbone, latents: Tensor, conditioning: Conditioning) -> None:
    """As keystep 0.1 did: logits of all keys computed again beside the fused kernel, a few queries of all at a time."""

    def blocks(query: Tensor, num_keys: int) -> Iterator[probabilities.Block]:
        rows = max(1, probabilities.CHUNK_BYTES // (query.shape[0] * query.shape[1] * num_keys * 4))
        for start in range(0, query.shape[2], rows):
            yield slice(None), slice(None), slice(start, start + rows)

    with patch.object(probabilities, "_blocks", blocks), patch.object(attention_call, "FUSE_FROM_BYTES", 2**60):
        _ours(backbone, latents, conditioning)


class _Left(Exception):
    """Leaves the denoiser's forward, with what the last layer's attention gave."""


def _bare(backbone: Backbone, latents: Tensor, conditioning: Conditioning) -> None:
    """Forward through the last captured layer's attention, and backward from the sum of what it gives."""
    layers, _ = backbone.attention_layers(*latents.shape[-2:])

    def leave(_module: object, inputs: tuple[Tensor]) -> None:
        raise _Left(inputs[0])

    last: Any = list(layers.values())[-1]
    handle = last.to_out[0].register_forward_pre_hook(leave)
    backbone.denoiser.requires_grad_(False)
    leaf = latents.clone().requires_grad_(True)
    try:
        backbone.predict(leaf, TIMESTEP, conditioning.prompt_embeds, conditioning.added)
    except _Left as left:
        torch.autograd.grad(left.args[0].sum(), leaf)
    backbone.denoiser.requires_grad_(True)
    handle.remove()


def _whole_matrices(backbone: Backbone, latents: Tensor, conditioning: Conditioning) -> None:
    grid = (latents.shape[-2] // 2, latents.shape[-1] // 2)
    backbone.denoiser.requires_grad_(False)

    def loss_fn(active: Tensor, rows) -> Tensor:
        whole = plain_probabilities(backbone, active, TIMESTEP, conditioning, grid)
        maps = entity_attention(whole, conditioning.kept, conditioning.entity_weights, grid)
        return LOSSES["cn"](maps, conditioning.entity_mask)

    _refine(loss_fn, latents)
    backbone.denoiser.requires_grad_(True)


def _attend_and_excite(backbone: Backbone, latents: Tensor, conditioning: Conditioning) -> None:
    """The update of diffusers' pipeline, one latent after the other as it does."""
    pipe = _reference(backbone)
    stock = dict(pipe.unet.attn_processors)
    pipe.register_attention_control()
    for sample in range(len(latents)):
        latent = latents[sample : sample + 1].clone().requires_grad_(True)
        pipe.unet(latent, TIMESTEP, encoder_hidden_states=conditioning.prompt_embeds[sample : sample + 1])
        pipe.unet.zero_grad()
        loss = pipe._compute_loss(pipe._aggregate_and_get_max_attention_per_token(indices=list(TOKENS)))
        pipe._update_latent(latent, loss, 20.0)
        # Nothing of this sample's graph is left when the next one starts.
        pipe.attention_store.reset()
        del loss
    pipe.unet.set_attn_processor(stock)


def _reference(backbone: Backbone) -> StableDiffusionAttendAndExcitePipeline:
    pipe = StableDiffusionAttendAndExcitePipeline(
        vae=AutoencoderKL(),
        text_encoder=None,
        tokenizer=clip_tokenizer(),
        unet=backbone.denoiser,
        scheduler=DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    store = sys.modules[StableDiffusionAttendAndExcitePipeline.__module__].AttentionStore
    pipe.attention_store = store((16, 16))
    return pipe


class _Memory:
    """Peak memory of one iteration: the allocator's on a GPU, what autograd keeps on a CPU."""

    def __init__(self, backbone: Backbone, device: str):
        self._device = device
        self._blocks = [block.attn for block in getattr(backbone.denoiser, "transformer_blocks", [])]
        self._weights = {weight.untyped_storage().data_ptr() for weight in backbone.denoiser.parameters()}
        self._all, self._attention = _Peak(), _Peak()
        self._inside = False
        self._allocated = 0

    @contextmanager
    def recording(self):
        """Measure what runs inside."""
        handles = [layer.register_forward_pre_hook(lambda *_: self._enter(True)) for layer in self._blocks]
        handles += [layer.register_forward_hook(lambda *_: self._enter(False)) for layer in self._blocks]
        if self._device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept.tensor):
            yield self
        if self._device == "cuda":
            self._allocated = torch.cuda.max_memory_allocated() - before
        for handle in handles:
            handle.remove()

    def _enter(self, inside: bool) -> None:
        self._inside = inside

    def _keep(self, tensor: Tensor) -> "_Kept":
        if tensor.untyped_storage().data_ptr() in self._weights:
            return _Kept(tensor, [])
        return _Kept(tensor, [self._all, self._attention] if self._inside else [self._all])

    def mebibytes(self) -> tuple[float, float]:
        """In all, and of attention, a block."""
        total = self._allocated if self._device == "cuda" else self._all.peak
        return total / 2**20, self._attention.peak / 2**20 / max(1, len(self._blocks))


class _Peak:
    """Bytes of the different storages in use, now and at most."""

    def __init__(self) -> None:
        self.users: Counter[int] = Counter()
        self.now = self.peak = 0

    def add(self, address: int, size: int) -> None:
        self.now += 0 if self.users[address] else size
        self.users[address] += 1
        self.peak = max(self.peak, self.now)

    def remove(self, address: int, size: int) -> None:
        self.users[address] -= 1
        self.now -= 0 if self.users[address] else size


class _Kept:
    """A tensor that autograd keeps, counted until it lets go of it."""

    def __init__(self, tensor: Tensor, peaks: list[_Peak]):
        # Detached: with its graph it would close a cycle through autograd that nothing collects, and a way that
        # retains its graph would be charged for every sample it ever did.
        self.tensor = tensor.detach()
        storage = tensor.untyped_storage()
        self._entry, self._peaks = (storage.data_ptr(), storage.nbytes()), peaks
        for peak in peaks:
            peak.add(*self._entry)

    def __del__(self) -> None:
        for peak in self._peaks:
            peak.remove(*self._entry)
