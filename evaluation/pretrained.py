"""What all models from transformers share: safe loading, names of classes, a fingerprint, batches of one size."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from keystep.core.hub import hub_trouble, weights_trouble
from keystep.core.shapes.models import resolve_model
from keystep.evaluation.coco import COCO_CATEGORY_IDS
from keystep.evaluation.labels import canonical_label


def load_config(model: str, revision: str | None, *, what: str = "detector") -> PreTrainedConfig:
    """The configuration of a hub id, a local folder, or an embedded model (`keystep/...`); `what` is for errors.

    Raises:
        ValueError: if it cannot be found, or this version of transformers does not know its architecture.
    """
    folder = Path(resolve_model(model))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"no {what} at {model!r}: the folder has no config.json")
    trouble = hub_trouble(resolve_model(model), revision=revision, file="config.json")
    if trouble is not None:
        raise ValueError(f"no {what}: {trouble}")
    try:
        return AutoConfig.from_pretrained(resolve_model(model), revision=revision, trust_remote_code=False)
    except OSError as error:
        raise ValueError(
            f"no {what} at {model!r}: neither a folder with a config.json nor a model the hub offers now"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"transformers {transformers.__version__} does not know the architecture of {model!r} "
            "(RF-DETR's instance segmentation needs 5.17 or later): upgrade transformers"
        ) from error


def load_network(network: Any, model: str, revision: str | None) -> Any:
    """A transformers class's `from_pretrained`, of safetensors alone, ready for inference.

    Raises:
        ValueError: if there are no safetensors weights.
    """
    try:
        loaded = network.from_pretrained(
            resolve_model(model), revision=revision, use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        trouble = weights_trouble(resolve_model(model), revision=revision)
        raise ValueError(
            trouble or f"{model!r} has no safetensors weights (pickled ones can run code and are not loaded): {error}"
        ) from error
    return loaded.eval()


def class_names(config: PreTrainedConfig) -> list[str]:
    """Canonical class names by index.

    A checkpoint that carries no names (LABEL_0, LABEL_1, ...), as RF-DETR's converted ones do, gets COCO's:
    91 classes are COCO's category ids, 80 are its categories in order.
    """
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    if names == [f"LABEL_{index}" for index in range(len(names))]:
        if len(names) == 91:
            return [COCO_CATEGORY_IDS.get(index, f"unused {index}") for index in range(91)]
        if len(names) == 80:
            return list(COCO_CATEGORY_IDS.values())
    return [canonical_label(name) for name in names]


def fingerprint_of(kind: str, model: nn.Module, processing: Mapping[str, Any]) -> str:
    """Hash of a model's weights and of everything that is done before and after it.

    Args:
        kind: the class that runs it, with a version of its own rules.
        model: its whole state is hashed.
        processing: the processor's settings, the class names, thresholds; JSON-like.
    """
    digest = hashlib.sha256(repr((kind, sorted(processing.items()))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def batches_of_one_size(images: Sequence[Image.Image], batch_size: int) -> Iterator[list[int]]:
    """Indices of at most `batch_size` images of the same size: nothing is padded, so no image changes another."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(image.size, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def has_file(model: str, name: str) -> bool:
    """Whether a local folder of a model has a file of that name."""
    return (Path(resolve_model(model)) / name).is_file()
