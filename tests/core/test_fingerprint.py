"""A pipeline's name by content: the same after a save and a load elsewhere, another after any change."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

from keystep.core.fingerprint import pipeline_fingerprint
from tests.tiny_models import clip_tokenizer, tiny_sd, tiny_sd3


def test_the_same_for_the_same_content_wherever_it_lies(tmp_path: Path) -> None:
    kinds: list[tuple[Any, Any]] = [(tiny_sd, StableDiffusionPipeline), (tiny_sd3, StableDiffusion3Pipeline)]
    for make, kind in kinds:
        pipe = make(0)
        name = pipeline_fingerprint(pipe)
        assert len(name) == 64
        for place in ("one", "two"):
            pipe.save_pretrained(tmp_path / place / kind.__name__)
            assert pipeline_fingerprint(kind.from_pretrained(tmp_path / place / kind.__name__)) == name


def test_another_after_any_change() -> None:
    pipe = tiny_sd(0)
    names = [pipeline_fingerprint(pipe)]
    with torch.no_grad():
        next(pipe.unet.parameters())[0, 0, 0, 0] += 1e-4
    names.append(pipeline_fingerprint(pipe))
    pipe.tokenizer = clip_tokenizer(24)
    names.append(pipeline_fingerprint(pipe))
    pipe.vae.register_to_config(scaling_factor=0.5)
    names.append(pipeline_fingerprint(pipe))
    pipe.to(torch.bfloat16)
    names.append(pipeline_fingerprint(pipe))
    assert len(set(names)) == 5
