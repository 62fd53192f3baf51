"""The judge's CLIP: a small open_clip model of the shapes world, saved as open_clip's `local-dir:` schema reads it."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from keystep.core.shapes.captions import caption
from keystep.core.shapes.scenes import COLORS, IMAGE_SIZE, NOUNS
from keystep.core.shapes.tokenizers import MAX_LENGTH, clip_tokenizer
from keystep.core.shapes.train.data import COLOR_RATE, TrainingSet
from keystep.core.shapes.train.loop import Plan, train
from keystep.core.shapes.train.vae import to_pixels

BATCH = 64
WHOLE_CAPTION_RATE = 0.7  # the rest name one of the objects, so that single entities can be looked for
PLAN = Plan(steps=1200, learning_rate=2e-3, decay=0.99)
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 8, "width": 64, "head_width": 16, "layers": 2},
    "text_cfg": {
        "context_length": MAX_LENGTH,
        "vocab_size": len(clip_tokenizer()),
        "width": 64,
        "heads": 4,
        "layers": 2,
        "hf_tokenizer_name": "keystep/shapes-clip",
    },
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}


def train_clip(data: TrainingSet, folder: Path, output: Path, seed: int, plan: Plan) -> None:
    """Contrastive training on true captions: what the scene shows, not what its unreliable caption says."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**MODEL)
    tokenizer = clip_tokenizer()
    contrast = open_clip.ClipLoss()

    def loss_fn(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        rows = np.sort(rng.integers(len(data), size=BATCH))
        texts = [_true_caption(data.shown[row], rng) for row in rows]
        ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
        with torch.autocast("cpu", torch.bfloat16):
            image, text, scale = model(to_pixels(data.images[rows]), ids)
        return {"contrast": contrast(image.float(), text.float(), scale.float())}

    trained = train(model, loss_fn, plan, folder)
    output.mkdir(parents=True, exist_ok=True)
    save_file(trained.state_dict(), output / "open_clip_model.safetensors")
    (output / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}, indent=2) + "\n"
    )
    tokenizer.save_pretrained(output)
    print(f"wrote {output}")


def _true_caption(shown: np.ndarray, rng: np.random.Generator) -> str:
    count = int((shown[:, 0] >= 0).sum())
    order = rng.permutation(count)
    if rng.random() > WHOLE_CAPTION_RATE:
        order = order[:1]
    colored = rng.random() < COLOR_RATE
    return caption([(NOUNS[shown[k, 0]], COLORS[shown[k, 1]] if colored else None) for k in order])
