"""The autoencoder of both pipelines: 64x64x3 pixels to 16x16x4 latents of unit variance."""

# diffusers and transformers annotate these constructors and outputs too narrowly for their own use.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from keystep.core.shapes.architectures import build_vae
from keystep.core.shapes.train.data import TrainingSet
from keystep.core.shapes.train.loop import Plan, train

BATCH = 16
KL_WEIGHT = 1e-5
PLAN = Plan(steps=1300, learning_rate=2e-3, decay=0.99)


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 (B,H,W,3) in 0..255 -> float32 (B,3,H,W) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train_vae(data: TrainingSet, folder: Path, output: Path, seed: int, plan: Plan) -> None:
    torch.manual_seed(seed)
    vae = build_vae().to(memory_format=torch.channels_last)

    def loss_fn(step: int) -> dict[str, Tensor]:
        rows = np.sort(np.random.default_rng([seed, step]).integers(len(data), size=BATCH))
        pixels = to_pixels(data.images[rows]).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            drawn = vae.decode(posterior.sample()).sample
        error = drawn.float() - pixels
        return {
            "l1": error.abs().mean(),
            "l2": 4 * F.mse_loss(drawn.float(), pixels),
            "kl": KL_WEIGHT * posterior.kl().float().mean(),
        }

    trained = train(vae, loss_fn, plan, folder)
    assert isinstance(trained, AutoencoderKL)
    mean, std = _latent_moments(trained, data)
    trained.register_to_config(scaling_factor=1 / std, shift_factor=mean)
    trained.half().save_pretrained(output, safe_serialization=True)
    print(f"wrote {output}; latent mean {mean:.3f}, standard deviation {std:.3f}")


@torch.no_grad()
def _latent_moments(vae: AutoencoderKL, data: TrainingSet) -> tuple[float, float]:
    latents = torch.cat([vae.encode(to_pixels(data.images[n : n + 64])).latent_dist.mean for n in range(0, 1024, 64)])
    return float(latents.mean()), float(latents.std())
