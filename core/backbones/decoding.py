"""From latents to images, as the stock pipelines do it."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor


def decode_sd(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """Images of Stable Diffusion 1.x and 2.x latents, blackened where its safety checker says so."""
    latents = latents.to(pipe.vae.dtype)
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    pixels, flagged = pipe.run_safety_checker(pixels, pixels.device, pipe.unet.dtype)
    shown = [True] * len(pixels) if flagged is None else [not is_flagged for is_flagged in flagged]
    return pipe.image_processor.postprocess(pixels, output_type="pil", do_denormalize=shown)


def decode_sdxl(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """Images of SDXL latents; a half-precision VAE that overflows is run in float32, and put back."""
    vae = pipe.vae
    upcast = vae.dtype == torch.float16 and vae.config.force_upcast
    if upcast:
        vae.to(dtype=torch.float32)
    try:
        latents = latents.to(vae.dtype)
        if getattr(vae.config, "latents_mean", None) is not None and vae.config.latents_std is not None:
            mean, std = (
                torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
                for values in (vae.config.latents_mean, vae.config.latents_std)
            )
            latents = latents * std / vae.config.scaling_factor + mean
        else:
            latents = latents / vae.config.scaling_factor
        pixels = vae.decode(latents, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(dtype=torch.float16)
    if pipe.watermark is not None:
        pixels = pipe.watermark.apply_watermark(pixels)
    return pipe.image_processor.postprocess(pixels, output_type="pil")


def decode_sd3(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """Images of SD3 and SD3.5 latents."""
    config = pipe.vae.config
    latents = (latents.to(pipe.vae.dtype) / config.scaling_factor) + config.shift_factor
    pixels = pipe.vae.decode(latents, return_dict=False)[0]
    return pipe.image_processor.postprocess(pixels, output_type="pil")
