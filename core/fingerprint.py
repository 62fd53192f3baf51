"""What identifies a loaded pipeline: weights, settings and tokenizers, not where they came from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from keystep.core.backbones.compiled import uncompiled


def pipeline_fingerprint(pipe: DiffusionPipeline) -> str:
    """SHA-256, hex, of every module's class, settings and tensors, and every tokenizer's vocabulary.

    Equal for two loads of the same checkpoint in the same dtype, whatever the path or device; different after
    a LoRA is fused or a weight is edited. The scheduler is left out: `keystep.core.sampling.Sampler.identity` has it.
    Costs one pass over the weights (on a GPU: one copy to the host), so call it once a process.
    """
    digest = hashlib.sha256(type(pipe).__name__.encode())
    for name, component in sorted(pipe.components.items()):
        component = uncompiled(component)
        if isinstance(component, nn.Module):
            digest.update(f"module {name} {_describe(component)}\n".encode())
            for key, tensor in component.state_dict().items():
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif hasattr(component, "get_vocab"):
            digest.update(f"tokenizer {name} {_describe(component)}\n".encode())
            digest.update(json.dumps(component.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def _describe(component: Any) -> str:
    config = getattr(component, "config", None) or {}
    settings = dict(config) if isinstance(config, Mapping) else config.to_dict()
    # Private keys hold paths and library versions, which do not change what the weights compute.
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    for key in ("transformers_version", "architectures", "dtype"):  # set by saving; the tensors tell their dtype
        settings.pop(key, None)
    limit = getattr(component, "model_max_length", None)
    return json.dumps([type(component).__name__, limit, settings], sort_keys=True, default=str)
