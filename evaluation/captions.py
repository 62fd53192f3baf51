"""Captions of images by BLIP (Li et al., arXiv 2201.12086), for comparing a prompt with what a model reads out."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from keystep.core.devices import usable_device
from keystep.evaluation.pretrained import fingerprint_of, load_config, load_network
from keystep.evaluation.rgb import as_rgb


class BlipCaptioner:
    """A BLIP captioning checkpoint; greedy decoding, so an image always gets the same caption.

    Args:
        model: hub id or local folder, safetensors.
        revision: branch, tag or commit of a hub model.
        device: where to run; by default CUDA where there is one.
        batch_size: images a forward pass.
        max_new_tokens: longest caption.

    Raises:
        ValueError: if the model cannot be found, is no BLIP, or has no safetensors weights.
    """

    def __init__(
        self,
        model: str = "Salesforce/blip-image-captioning-base",
        *,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 16,
        max_new_tokens: int = 30,
    ) -> None:
        config = load_config(model, revision, what="captioner")
        if config.model_type != "blip":
            raise ValueError(f"{model!r} is a {config.model_type} model; captions need a BLIP")
        processor_class: Any = BlipProcessor
        self._processor = processor_class.from_pretrained(model, revision=revision)
        self._device = usable_device(device)
        self._model = load_network(BlipForConditionalGeneration, model, revision).to(self._device)
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        self.name = model if revision is None else f"{model}@{revision}"
        how = {
            "images": self._processor.image_processor.to_json_string(),
            "words": sorted(self._processor.tokenizer.get_vocab().items()),
            "max_new_tokens": max_new_tokens,
        }
        self.fingerprint = fingerprint_of("blip-1", self._model, how)

    @torch.inference_mode()
    def captions(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption an image."""
        texts: list[str] = []
        for start in range(0, len(images), self._batch_size):
            batch = [as_rgb(image) for image in images[start : start + self._batch_size]]
            inputs = self._processor(images=batch, return_tensors="pt").to(self._device)
            tokens = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1)
            texts += [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
        return texts
