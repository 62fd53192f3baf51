"""What the models of the built-in specs are, so that a search can be estimated and checked without the hub.

A worker reads the model itself and goes by that. Sources: each model's `scheduler/scheduler_config.json`,
`vae/config.json` and `transformer/config.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Latents:
    """What latents are to an image.

    Args:
        channels: of the latents.
        pixels: of the image, along a side, to one of the latents.
        patch: latent pixels, along a side, to one token of a transformer; 1 for a UNet.
    """

    channels: int
    pixels: int = 8
    patch: int = 1

    @property
    def unit(self) -> int:
        """Pixels that a side of the image is a multiple of."""
        return self.pixels * self.patch


@dataclass(frozen=True)
class ModelFacts:
    """A model: the configuration of the scheduler that it comes with, and its latents."""

    scheduler: Mapping[str, Any]
    latents: Latents


_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}

KNOWN: Mapping[str, ModelFacts] = {
    "CompVis/stable-diffusion-v1-4": ModelFacts(
        scheduler={
            "_class_name": "PNDMScheduler",
            **_BETAS,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
        },
        latents=Latents(channels=4),
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": ModelFacts(
        scheduler={
            "_class_name": "EulerDiscreteScheduler",
            **_BETAS,
            "clip_sample": False,
            "interpolation_type": "linear",
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "use_karras_sigmas": False,
        },
        latents=Latents(channels=4),
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": ModelFacts(
        scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        latents=Latents(channels=16, patch=2),
    ),
}
"""By hub id, of the revision that has the model's name alone."""
