"""Similarity of image and text under a CLIP (Radford et al., arXiv 2103.00020), by open_clip.

Full-prompt similarity, and the least of the entities' similarities, which falls when one of them is neglected
(Chefer et al., arXiv 2301.13826).
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

from keystep.core.devices import usable_device
from keystep.core.hub import hub_trouble
from keystep.core.prompts import Entity, Prompt
from keystep.core.shapes.models import resolve_model
from keystep.evaluation.pretrained import fingerprint_of
from keystep.evaluation.rgb import as_rgb
from keystep.evaluation.template import indefinite_article

SHAPES_CLIP = "keystep/shapes-clip"


@dataclass(frozen=True)
class ClipScores:
    """Cosine similarities of N images with their prompts, in [-1, 1]; higher is better.

    Args:
        full: (N,) float32, with the whole prompt.
        least: (N,) float32, the smallest over the prompt's entities, each as "a red circle"; as `full` without any.
    """

    full: NDArray[np.float32]
    least: NDArray[np.float32]


class ClipScorer:
    """An open_clip model that compares images with texts.

    Args:
        model: `keystep/shapes-clip`; a folder with `open_clip_config.json` and its weights (`local-dir:` before it is
            optional); `hf-hub:ORG/NAME`; or an open_clip architecture (`ViT-L-14`), which needs `pretrained`.
        pretrained: open_clip's tag of the weights, or a weights file.
        device: where to run; by default CUDA where there is one.
        batch_size: images or texts a forward pass.

    Texts longer than the model's context are cut, as CLIP cuts them.

    Raises:
        ValueError: if the model or its weights cannot be found.
    """

    def __init__(
        self,
        model: str = SHAPES_CLIP,
        *,
        pretrained: str | None = None,
        device: str | None = None,
        batch_size: int = 64,
    ) -> None:
        source = _source(model, pretrained)
        self._device = usable_device(device)
        try:
            network, _, preprocess = open_clip.create_model_and_transforms(
                source, pretrained=pretrained, device=self._device, require_pretrained=True, weights_only=True
            )
            self._tokenize = open_clip.get_tokenizer(source)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"no CLIP at {model!r} with weights {pretrained!r}: {error}") from error
        self._model: Any = network.eval()
        self._preprocess: Any = preprocess
        self._batch_size = batch_size
        self.name = model if pretrained is None else f"{model}/{pretrained}"
        self.fingerprint = fingerprint_of("clip-1", self._model, {"preprocess": str(preprocess)})

    @torch.inference_mode()
    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(N, D) float32 embeddings of length 1 of images of any size."""
        features = []
        for start in range(0, len(images), self._batch_size):
            batch = [self._preprocess(as_rgb(image)) for image in images[start : start + self._batch_size]]
            pixels = torch.stack(batch).to(self._device)
            features.append(self._model.encode_image(pixels, normalize=True).float().cpu())
        return torch.cat(features).numpy()

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) float32 embeddings of length 1; a text that comes twice is embedded once."""
        distinct = list(dict.fromkeys(texts))
        features = []
        for start in range(0, len(distinct), self._batch_size):
            tokens = self._tokenize(distinct[start : start + self._batch_size]).to(self._device)
            features.append(self._model.encode_text(tokens, normalize=True).float().cpu())
        place = {text: row for row, text in enumerate(distinct)}
        return torch.cat(features).numpy()[[place[text] for text in texts]]

    def scores(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> ClipScores:
        """Compare every image with its own prompt.

        Raises:
            ValueError: if there is not one prompt an image, or no image.
        """
        _check_pairs(images, prompts)
        return self.scores_of(self.image_features(images), prompts)

    def scores_of(self, image_features: NDArray[np.float32], prompts: Sequence[Prompt]) -> ClipScores:
        """`scores` of images whose (N, D) embeddings are known already."""
        _check_pairs(image_features, prompts)
        full = _cosine(image_features, self.text_features([prompt.text for prompt in prompts]))
        owners = [row for row, prompt in enumerate(prompts) for _ in prompt.entities]
        if not owners:
            return ClipScores(full, full.copy())
        phrases = [entity_phrase(entity) for prompt in prompts for entity in prompt.entities]
        least = np.full(len(prompts), np.inf, np.float32)
        np.minimum.at(least, owners, _cosine(image_features[owners], self.text_features(phrases)))
        return ClipScores(full, np.where(np.isinf(least), full, least))

    def text_similarity(self, captions: Sequence[str], prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """(N,) float32 cosine similarity of captions with the prompts of the images they describe, in [-1, 1].

        Raises:
            ValueError: if there is not one prompt a caption, or no caption.
        """
        _check_pairs(captions, prompts)
        return _cosine(self.text_features(captions), self.text_features([prompt.text for prompt in prompts]))


def load_clip(spec: str = SHAPES_CLIP, *, device: str | None = None) -> ClipScorer:
    """A CLIP by `MODEL`, `MODEL:WEIGHTS` (`ViT-L-14:openai`, `ViT-B-32:weights.pt`) or the folder of one.

    Raises:
        ValueError: if the model or its weights cannot be found.
    """
    plain = spec.removeprefix("local-dir:")
    if plain != spec or spec.startswith("hf-hub:") or resolve_model(spec) != spec or Path(spec).is_dir():
        return ClipScorer(spec, device=device)
    model, _, pretrained = spec.partition(":")
    return ClipScorer(model, pretrained=pretrained or None, device=device)


def entity_phrase(entity: Entity) -> str:
    """The entity with its attribute and an article: "a red circle", "an orange cat"."""
    words = str(entity)
    return f"{indefinite_article(words)} {words}"


def _source(model: str, pretrained: str | None) -> str:
    """The name that open_clip loads the model by."""
    plain = model.removeprefix("local-dir:")
    path = Path(resolve_model(plain))
    if path.is_dir():
        if not (path / "open_clip_config.json").is_file():
            raise ValueError(f"{model!r} has no open_clip_config.json, so it is no open_clip model")
        return f"local-dir:{path}"
    if plain != model or resolve_model(plain) != plain:
        raise ValueError(f"no CLIP at {model!r}: there is no folder {path}")
    if model.startswith("hf-hub:"):
        trouble = hub_trouble(model.removeprefix("hf-hub:"), file="open_clip_config.json")
        if trouble is not None:
            raise ValueError(f"no CLIP: {trouble}")
    else:
        if model not in open_clip.list_models():
            raise ValueError(f"no CLIP {model!r}: neither a folder, nor hf-hub:..., nor an open_clip architecture")
        if pretrained is None:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)[:8])
            raise ValueError(f"{model!r} is an architecture and needs pretrained weights: {tags or 'a file'}")
    return model


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) of (N, D) vectors of length 1, row by row; rounding does not take it out of [-1, 1]."""
    return np.clip((left * right).sum(1), -1.0, 1.0)


def _check_pairs(things: Sized, prompts: Sequence[Prompt]) -> None:
    if not len(things) or len(things) != len(prompts):
        raise ValueError(f"each needs its own prompt, and there must be one: got {len(things)} and {len(prompts)}")
