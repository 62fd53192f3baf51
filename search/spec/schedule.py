"""Timesteps of a spec's sampler and shape of its latents, known without the model's weights.

From a folder's or the hub's small configuration files; of the models of the built-in specs from
`keystep.search.spec.model_facts`.
"""

import os
from collections.abc import Mapping
from typing import Any

from keystep.core.bounded_json import read_json
from keystep.core.hub import model_file
from keystep.core.shapes.models import resolve_model
from keystep.search.spec.model_facts import KNOWN, Latents, ModelFacts
from keystep.search.spec.search_spec import ModelSpec, SearchSpec


def timesteps_of(spec: SearchSpec) -> tuple[float, ...]:
    """One timestep a step, as `keystep.core.sampling.Sampler` has them, noisiest first.

    Raises:
        ValueError: the model is not found, or its scheduler cannot be resumed or set so; with the key.
    """
    base = _scheduler(spec.model)
    from keystep.core.schedulers import (
        make_scheduler,  # imports diffusers, which takes seconds: mistakes are told before
    )

    shifts = {**base, **spec.sampler.scheduler_config}.get("use_dynamic_shifting")
    try:
        scheduler = make_scheduler(base, spec.sampler, image_tokens=_image_tokens(spec) if shifts else 0)
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, LookupError, AttributeError) as error:
        # Diffusers takes what it is given, and fails on the first sum that it cannot do with it.
        raise ValueError(f"sampler.scheduler: {spec.sampler.scheduler} cannot be set so: {error}") from error
    return tuple(float(timestep) for timestep in scheduler.timesteps)


def latent_shape_of(spec: SearchSpec) -> tuple[int, int, int]:
    """(channels, height, width) of the latents.

    Raises:
        ValueError: the model is not found, or has no latents of this size; with the key.
    """
    latents = _latents(spec.model)
    for name in ("height", "width"):
        if getattr(spec.sampler, name) % latents.unit:
            raise ValueError(
                f"sampler.{name}: must be a multiple of {latents.unit} for {spec.model.id}, got "
                f"{getattr(spec.sampler, name)}"
            )
    return latents.channels, spec.sampler.height // latents.pixels, spec.sampler.width // latents.pixels


def is_known_here(model: ModelSpec) -> bool:
    """Whether the hub need not be asked: an embedded model, a folder that is here, one of a built-in spec."""
    return _fact(model) is not None or os.path.isdir(resolve_model(model.id))


def _image_tokens(spec: SearchSpec) -> int:
    """Patches of the image as a transformer sees them; latent pixels for a UNet."""
    unit = _latents(spec.model).unit
    return (spec.sampler.height // unit) * (spec.sampler.width // unit)


def _fact(model: ModelSpec) -> ModelFacts | None:
    """What is known of a model beforehand. A revision of its own may be another model."""
    return KNOWN.get(model.id) if model.revision is None else None


def _scheduler(model: ModelSpec) -> Mapping[str, Any]:
    fact = _fact(model)
    return _config(model, "scheduler/scheduler_config.json") if fact is None else fact.scheduler


def _latents(model: ModelSpec) -> Latents:
    fact = _fact(model)
    if fact is not None:
        return fact.latents
    vae, parts = _config(model, "vae/config.json"), _config(model, "model_index.json")
    patch = _config(model, "transformer/config.json").get("patch_size", 1) if "transformer" in parts else 1
    return Latents(vae["latent_channels"], pixels=2 ** (len(vae["block_out_channels"]) - 1), patch=patch)


def _config(model: ModelSpec, file: str) -> dict[str, Any]:
    """One of the model's configuration files.

    Raises:
        ValueError: it cannot be read; with the key, and what to do.
    """
    folder = resolve_model(model.id)
    try:
        found = read_json(model_file(folder, file, revision=model.revision))
    except ValueError as error:
        raise ValueError(
            f"model.id: {error}. Give a hub id, a folder that holds a diffusers pipeline, or an embedded model such as "
            "keystep/shapes-sd"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"model.id: {file} of {model.id!r} is no configuration")
    return found
