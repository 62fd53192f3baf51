"""Timesteps of a spec's sampler and shape of its latents, read from the model's configuration without its weights."""

from typing import Any

import diffusers

from core.schedulers import make_scheduler
from core.shapes.models import resolve_model
from search.spec import SearchSpec


def timesteps_of(spec: SearchSpec) -> tuple[float, ...]:
    """One timestep a step, as `core.sampling.Sampler` has them, noisiest first.

    Of a hub model that is not in the local cache, only its small configuration files are fetched.

    Raises:
        ValueError: the model is not found, or its scheduler cannot be resumed; with the key.
    """
    folder, revision = resolve_model(spec.model.id), spec.model.revision
    name = _config(diffusers.DDPMScheduler, folder, "scheduler", revision)["_class_name"]
    base = getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler", revision=revision).config
    shifts = {**base, **spec.sampler.scheduler_config}.get("use_dynamic_shifting")
    tokens = _image_tokens(spec, folder, revision) if shifts else 0
    try:
        scheduler = make_scheduler(base, spec.sampler, image_tokens=tokens)
    except ValueError as error:
        raise ValueError(f"sampler.scheduler: {error}") from error
    return tuple(float(timestep) for timestep in scheduler.timesteps)


def latent_shape_of(spec: SearchSpec) -> tuple[int, int, int]:
    """(channels, height, width) of the latents, from the same configuration files. Errors as `timesteps_of`'s."""
    vae = _config(diffusers.AutoencoderKL, resolve_model(spec.model.id), "vae", spec.model.revision)
    pixels = 2 ** (len(vae["block_out_channels"]) - 1)
    return vae["latent_channels"], spec.sampler.height // pixels, spec.sampler.width // pixels


def _image_tokens(spec: SearchSpec, folder: str, revision: str | None) -> int:
    vae = _config(diffusers.AutoencoderKL, folder, "vae", revision)
    transformer = _config(diffusers.SD3Transformer2DModel, folder, "transformer", revision)
    pixels = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    return (spec.sampler.height // pixels) * (spec.sampler.width // pixels)


def _config(kind: Any, folder: str, subfolder: str, revision: str | None) -> dict[str, Any]:
    try:
        return kind.load_config(folder, subfolder=subfolder, revision=revision)
    except OSError as error:
        raise ValueError(
            f"model.id: {folder!r} has no {subfolder} configuration that could be read; give a hub id, a folder that "
            f"holds a diffusers pipeline, or an embedded model such as keystep/shapes-sd ({error})"
        ) from error
