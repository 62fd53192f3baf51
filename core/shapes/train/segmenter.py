"""The judge's eyes: UperNet over a small ConvNeXt, nine classes (background and the eight shapes)."""

# diffusers and transformers annotate these constructors and outputs too narrowly for their own use.
# pyright: reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, UperNetForSemanticSegmentation

from keystep.core.shapes.architectures import build_segmenter, build_segmenter_processor
from keystep.core.shapes.train.data import TrainingSet
from keystep.core.shapes.train.loop import Plan, train
from keystep.core.shapes.train.vae import to_pixels

BATCH = 24
PLAN = Plan(steps=1200, learning_rate=3e-3, decay=0.99)


def train_segmenter(data: TrainingSet, folder: Path, output: Path, seed: int, plan: Plan) -> None:
    """Per-pixel cross-entropy on true scenes, a third of them noisy and a third blurred, as generated images can be."""
    torch.manual_seed(seed)
    model = build_segmenter().to(memory_format=torch.channels_last)

    def loss_fn(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        rows = np.sort(rng.integers(len(data), size=BATCH))
        pixels = _degrade(to_pixels(data.images[rows]), rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels).logits
        target = torch.from_numpy(data.classes[rows]).long()
        return {"cross_entropy": F.cross_entropy(logits.float(), target)}

    trained = train(model, loss_fn, plan, folder)
    assert isinstance(trained, UperNetForSemanticSegmentation)
    trained.save_pretrained(output, safe_serialization=True)
    build_segmenter_processor().save_pretrained(output)
    assert AutoImageProcessor.from_pretrained(output) is not None
    print(f"wrote {output}; mean IoU on the last 1,000 scenes {_mean_iou(trained, data):.4f}")


def _degrade(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    kind = torch.from_numpy(rng.integers(3, size=len(pixels)))[:, None, None, None]
    noisy = pixels + float(rng.uniform(0.02, 0.15)) * torch.randn_like(pixels)
    small = F.interpolate(pixels, scale_factor=float(rng.uniform(0.45, 0.8)), mode="bilinear", antialias=True)
    blurred = F.interpolate(small, size=pixels.shape[-2:], mode="bilinear")
    return torch.where(kind == 0, pixels, torch.where(kind == 1, noisy, blurred)).clamp(-1, 1)


@torch.no_grad()
def _mean_iou(model: UperNetForSemanticSegmentation, data: TrainingSet) -> float:
    classes = model.config.num_labels
    both, either = np.zeros(classes), np.zeros(classes)
    for start in range(len(data) - 1000, len(data), 50):
        rows = slice(start, start + 50)
        found = model(to_pixels(data.images[rows])).logits.argmax(1).numpy()
        true = data.classes[rows]
        for label in range(classes):
            both[label] += ((found == label) & (true == label)).sum()
            either[label] += ((found == label) | (true == label)).sum()
    return float((both / either).mean())
