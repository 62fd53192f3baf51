"""Train shapes-sd (v-prediction DDPM, UNet) and shapes-sd3 (rectified flow, MMDiT) with their text encoders."""

# diffusers and transformers annotate these constructors and outputs too narrowly for their own use.
# pyright: reportAttributeAccessIssue=false

import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline
from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F

from keystep.core.shapes.architectures import build_sd, build_sd3
from keystep.core.shapes.scenes import MAX_OBJECTS
from keystep.core.shapes.train.data import TrainingSet, training_caption
from keystep.core.shapes.train.grounding import grounding_loss, recording
from keystep.core.shapes.train.loop import Plan, train
from keystep.core.shapes.train.vae import to_pixels

BATCH = 32
UNCAPTIONED_RATE = 0.1
GROUNDING_WEIGHT = 0.04
GROUNDED_NOISE = 0.85  # share of the schedule, from its clean end, in which attention is grounded
PLANS = {
    "shapes-sd": Plan(steps=10600, learning_rate=1e-3),
    "shapes-sd3": Plan(steps=10150, learning_rate=1e-3),
}


class Trainee(nn.Module, ABC):
    """The trained parts of a pipeline, and how noisy latents and captions go through them."""

    @abstractmethod
    def encode_text(self, texts: list[str]) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (B, S, D) and pooled embeddings, as the stock pipeline computes them."""

    @abstractmethod
    def noun_columns(self, texts: list[str], nouns: list[list[str]]) -> list[Tensor]:
        """For each text encoder: (B, 3) column of each noun in the joint text sequence, -1 beyond the last."""

    @abstractmethod
    def forward(self, latents: Tensor, noise: Tensor, level: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Prediction and target of the denoiser at noise `level` (B,) in (0, 1)."""

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module: ...


class SDTrainee(Trainee):
    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.tokenizer, self.scheduler = (
            pipe.unet,
            pipe.text_encoder,
            pipe.tokenizer,
            pipe.scheduler,
        )

    @property
    def denoiser(self) -> nn.Module:
        return self.unet

    def encode_text(self, texts: list[str]) -> tuple[Tensor, None]:
        return self.text_encoder(_ids(self.tokenizer, texts))[0], None

    def noun_columns(self, texts: list[str], nouns: list[list[str]]) -> list[Tensor]:
        return [_columns(self.tokenizer, texts, nouns, 0)]

    def forward(self, latents: Tensor, noise: Tensor, level: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        timesteps = (level * self.scheduler.config.num_train_timesteps).long()
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        embeds, _ = self.encode_text(texts)
        predicted = self.unet(noisy, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]
        return predicted, self.scheduler.get_velocity(latents, noise, timesteps)


class SD3Trainee(Trainee):
    def __init__(self, pipe: StableDiffusion3Pipeline) -> None:
        super().__init__()
        self.transformer = pipe.transformer
        self.text_encoder, self.text_encoder_2, self.text_encoder_3 = (
            pipe.text_encoder,
            pipe.text_encoder_2,
            pipe.text_encoder_3,
        )
        self.tokenizer, self.tokenizer_3 = pipe.tokenizer, pipe.tokenizer_3

    @property
    def denoiser(self) -> nn.Module:
        return self.transformer

    def encode_text(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = _ids(self.tokenizer, texts)
        clips = [encoder(ids, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        t5 = self.text_encoder_3(_ids(self.tokenizer_3, texts))[0]
        clip = torch.cat([output.hidden_states[-2] for output in clips], -1)
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], 1), torch.cat([output[0] for output in clips], -1)

    def noun_columns(self, texts: list[str], nouns: list[list[str]]) -> list[Tensor]:
        clip_length = self.tokenizer.model_max_length
        return [
            _columns(self.tokenizer, texts, nouns, 0),
            _columns(self.tokenizer_3, texts, nouns, clip_length),
        ]

    def forward(self, latents: Tensor, noise: Tensor, level: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        sigma = level[:, None, None, None]
        embeds, pooled = self.encode_text(texts)
        predicted = self.transformer(
            hidden_states=(1 - sigma) * latents + sigma * noise,
            timestep=1000 * level,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return predicted, noise - latents


def train_pipeline(
    name: str,
    data: TrainingSet,
    folder: Path,
    vae_folder: Path,
    output: Path,
    seed: int,
    plan: Plan,
    *,
    compiled: bool = False,
) -> None:
    """Train `name` and write the whole pipeline (fp16 safetensors) to `output`.

    `compiled` has torch compile the denoiser's blocks: a minute more at the start, then a quarter less a step.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(vae_folder, use_safetensors=True).eval()
    pipe, trainee_class = (build_sd(vae), SDTrainee) if name == "shapes-sd" else (build_sd3(vae), SD3Trainee)
    trainee = trainee_class(pipe)  # pyright: ignore[reportArgumentType]
    latents = _encode_all(vae, data, folder.parent)
    shift = (vae.config.shift_factor or 0.0) if name == "shapes-sd3" else 0.0  # SD's pipeline knows no shift

    def loss_fn(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        rows = np.sort(rng.integers(len(data), size=BATCH))
        clean = (torch.from_numpy(latents[rows]).float() - shift) * vae.config.scaling_factor
        captioned = [training_caption(data.captioned[row], rng) for row in rows]
        dropped = rng.random(BATCH) < UNCAPTIONED_RATE
        texts = ["" if drop else text for drop, (text, _, _) in zip(dropped, captioned, strict=True)]
        orders = [[] if drop else order for drop, (_, order, _) in zip(dropped, captioned, strict=True)]
        nouns = [[] if drop else named for drop, (_, _, named) in zip(dropped, captioned, strict=True)]
        level = torch.from_numpy(_levels(name, rng)).float()
        with recording(trainee.denoiser) as recorder, torch.autocast("cpu", torch.bfloat16):
            predicted, target = trainee(clean, torch.randn_like(clean), level, texts)
        coverage = _ordered_coverage(data.coverage[rows], orders) * (level < GROUNDED_NOISE)[:, None, None, None]
        columns = trainee.noun_columns(texts, nouns)
        grounding = torch.stack([grounding_loss(recorder.maps, stretch, coverage) for stretch in columns]).mean()
        return {"denoise": F.mse_loss(predicted.float(), target), "ground": GROUNDING_WEIGHT * grounding}

    if compiled:
        for block in trainee.denoiser.modules():
            if isinstance(block, JointTransformerBlock | BasicTransformerBlock | ResnetBlock2D):
                block.compile()
    average = train(trainee, loss_fn, plan, folder, optimizers=_optimizers(trainee, plan))
    trainee.load_state_dict(average.state_dict())
    pipe.to(torch.float16).save_pretrained(output, safe_serialization=True)
    for path in output.glob("text_encoder*/config.json"):
        # transformers loads in the dtype of the config, diffusers in float32: without this a plain load mixes the two.
        path.write_text(path.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    print(f"wrote {output}")


def _levels(name: str, rng: np.random.Generator) -> np.ndarray:
    """Noise levels in (0, 1): uniform for DDPM, logit-normal for rectified flow (Esser et al., arXiv 2403.03206)."""
    if name == "shapes-sd":
        return rng.random(BATCH)
    return 1 / (1 + np.exp(-rng.normal(size=BATCH)))


def _optimizers(trainee: Trainee, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the linear layers of the denoiser and the text encoders, AdamW for everything else."""
    matrices = [
        module.weight for module in trainee.modules() if isinstance(module, nn.Linear) and min(module.weight.shape) >= 8
    ]
    taken = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in trainee.parameters() if id(parameter) not in taken]
    return [
        torch.optim.Muon(matrices, plan.learning_rate, plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99)),
    ]


@torch.no_grad()
def _encode_all(vae: AutoencoderKL, data: TrainingSet, folder: Path) -> np.ndarray:
    """Latent means (N,4,16,16) fp16 of all scenes, before scaling; computed once for these scenes and this VAE."""
    weights = b"".join(tensor.numpy().tobytes() for tensor in vae.state_dict().values())
    path = folder / f"latents-{zlib.crc32(weights, zlib.crc32(data.images.tobytes())):08x}.npy"
    if not path.exists():
        means = np.empty((len(data), 4, 16, 16), np.float16)
        for start in range(0, len(data), 100):
            rows = slice(start, start + 100)
            means[rows] = vae.encode(to_pixels(data.images[rows])).latent_dist.mean.numpy()
            if start % 2000 == 0:
                print(f"encoding scenes {start}/{len(data)}", flush=True)
        np.save(path, means)
    return np.load(path, mmap_mode="r")


def _ordered_coverage(coverage: np.ndarray, orders: list[list[int]]) -> Tensor:
    ordered = np.zeros(coverage.shape, np.float32)
    for row, order in enumerate(orders):
        for place, entity in enumerate(order):
            if entity >= 0:
                ordered[row, place] = coverage[row, entity] / 255.0
    return torch.from_numpy(ordered)


def _ids(tokenizer, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _columns(tokenizer, texts: list[str], nouns: list[list[str]], offset: int) -> Tensor:
    columns = torch.full((len(texts), MAX_OBJECTS), -1)
    for row, (text, names) in enumerate(zip(texts, nouns, strict=True)):
        encoded = tokenizer(text)
        for place, noun in enumerate(names):
            columns[row, place] = offset + encoded.char_to_token(text.index(f" {noun}") + 1)
    return columns
