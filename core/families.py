"""What family a model is of, told from its denoiser's class and configuration."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from keystep.core.shapes.models import EMBEDDED

DENOISERS = ("unet", "transformer")
"""The pipelines' names for what predicts noise."""


def family_of(class_name: str, config: Mapping[str, Any]) -> str:
    """The family's name, for people: steps of one family mean nothing in another.

    Args:
        class_name: of the denoiser.
        config: its configuration.
    """
    if class_name == "UNet2DConditionModel":
        if config.get("addition_embed_type") == "text_time":
            return "Stable Diffusion XL"
        return "Stable Diffusion 2.x" if config.get("use_linear_projection") else "Stable Diffusion 1.x"
    if class_name == "SD3Transformer2DModel":
        return "Stable Diffusion 3" if config.get("qk_norm") is None else "Stable Diffusion 3.5"
    return class_name


@lru_cache(maxsize=64)
def known_family(model: str, revision: str | None = None) -> str | None:
    """The family of a model by its id, from files that are here already; None if there are none.

    Args:
        model: a hub id, a folder, or an embedded model.
        revision: of a hub id.
    """
    index = _read(model, "model_index.json", revision)
    name = next((name for name in DENOISERS if index.get(name, [None])[-1]), None)
    if name is None:
        return None
    config = _read(model, f"{name}/config.json", revision)
    return family_of(index[name][-1], config) if config else None


def _read(model: str, file: str, revision: str | None) -> dict[str, Any]:
    folder = EMBEDDED.get(model, Path(model))
    found: Any = folder / file
    if not folder.is_dir():
        try:
            found = try_to_load_from_cache(model, file, revision=revision)
        except HFValidationError:  # a folder that is not there
            return {}
    if not isinstance(found, str | Path) or not Path(found).is_file():
        return {}
    try:
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError:
        return {}
