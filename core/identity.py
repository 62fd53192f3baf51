"""Is a pipeline the model that a config was selected on?"""

import os
import re
import warnings
from typing import Any

from keystep.core.backbones.base import Backbone
from keystep.core.config import StepConfig
from keystep.core.families import DENOISERS, family_of, known_family
from keystep.core.shapes.models import EMBEDDED


def check_model(config: StepConfig, backbone: Backbone) -> None:
    """Refuse a pipeline of another family than the config's model, and warn of another model.

    A pipeline whose weights were not loaded from anywhere, but made in memory, is told by its family alone.

    Raises:
        ValueError: another family; names both.
    """
    denoiser = backbone.denoiser
    found = family_of(type(denoiser).__name__, denoiser.config)  # pyright: ignore[reportArgumentType]
    expected = config.family or known_family(config.model, config.revision)
    if expected is not None and expected != found:
        raise ValueError(
            f"the config was selected on {config.model!r}, a {expected} model, and this pipeline is a {found} one: "
            "a step of one family means nothing in another. Load the config's model, load_pipeline(config), or search "
            "this one's own step"
        )
    loaded = loaded_from(backbone.pipe)
    if loaded is not None and _located(loaded) != _located(config.model):
        warnings.warn(
            f"the config was selected on {config.model!r}, and this pipeline was loaded from {loaded!r}: its evidence "
            "does not hold there. Load the config's model, load_pipeline(config), or search this one's own step",
            UserWarning,
            stacklevel=2,
        )


def loaded_from(pipe: Any) -> str | None:
    """The hub id or folder that the pipeline's denoiser was loaded from; None if it was made in memory."""
    for owner in (*(getattr(pipe, name, None) for name in DENOISERS), pipe):
        name = None if owner is None else owner.config.get("_name_or_path")
        if name:
            return _model_of(os.fspath(name))
    return None


def _model_of(path: str) -> str:
    """The model that a component's path belongs to: without the component's folder and the cache's."""
    cached = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]", path + "/")
    if cached:
        return f"{cached[1]}/{cached[2]}"
    parent, name = os.path.split(path.rstrip("/\\"))
    # "org/unet" is a hub id.
    return parent if name in DENOISERS and (os.path.isabs(path) or parent.count("/")) else path


def _located(model: str) -> str:
    place = EMBEDDED.get(model, model)
    return os.path.realpath(place) if os.path.exists(place) else str(place)
