"""The two embedded pipelines through stock diffusers calls: they load, draw, forget and repeat themselves."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

from keystep.core.generation import load_pipeline
from keystep.core.shapes.models import EMBEDDED, resolve_model
from keystep.evaluation.detectors import SHAPES_DETECTOR, load_detector
from keystep.evaluation.prompt_sets import standard_set
from keystep.evaluation.tiam import TiamSettings, score_images

PIPELINES = {"keystep/shapes-sd": StableDiffusionPipeline, "keystep/shapes-sd3": StableDiffusion3Pipeline}
CALL = {"num_inference_steps": 12, "height": 64, "width": 64}


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request: pytest.FixtureRequest):
    loaded = load_pipeline(request.param)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipe, texts: list[str], seeds: list[int]):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.inference_mode():
        return pipe(texts, generator=generators, **CALL, **extra(pipe)).images


def extra(pipe) -> dict[str, float]:
    if isinstance(pipe, StableDiffusion3Pipeline):
        return {"guidance_scale": 3.0, "max_sequence_length": 24}
    return {"guidance_scale": 1.5}


def tiam(pipe, name: str, num_prompts: int) -> float:
    prompts = standard_set(name, None if name == "shapes_one" else num_prompts, seed=3).prompts
    prompts = [*prompts, *prompts][:num_prompts]  # there are but eight prompts of one shape
    images = draw(pipe, [prompt.text for prompt in prompts], list(range(num_prompts)))
    scores = score_images(images, prompts, load_detector(SHAPES_DETECTOR), TiamSettings(confidences=(0.25,)))
    return float(np.mean([score.tiam[0] for score in scores]))


@pytest.mark.parametrize("name", PIPELINES)
def test_loads_as_the_stock_class_in_seconds_from_safetensors_alone(name: str) -> None:
    folder = Path(resolve_model(name))
    started = time.perf_counter()
    loaded = DiffusionPipeline.from_pretrained(name if not folder.exists() else folder, use_safetensors=True)
    assert time.perf_counter() - started < 10, "aim is 3 s on a machine at rest"
    assert type(loaded) is PIPELINES[name]
    weights = [file for file in folder.rglob("*") if file.suffix in {".bin", ".safetensors", ".pt", ".ckpt"}]
    assert weights and {file.suffix for file in weights} == {".safetensors"}
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 13e6


def test_draws_64_px_pictures_and_repeats_them(pipe) -> None:
    first, again, other = (draw(pipe, ["a photo of a red circle"], [seed])[0] for seed in (1, 1, 2))
    assert first.size == (64, 64)
    assert (np.asarray(first) == np.asarray(again)).all()
    assert (np.asarray(first) != np.asarray(other)).any()


def test_draws_one_object_and_forgets_among_several(pipe) -> None:
    """Wide bounds, for 16 pictures; tests/benchmarks/shapes_fitness.py measures."""
    assert tiam(pipe, "shapes_one", 16) >= 0.7
    assert 0.1 <= tiam(pipe, "shapes_two", 16) <= 0.85
    assert tiam(pipe, "shapes_three", 16) <= 0.75


def test_names_resolve_without_network() -> None:
    for name, folder in EMBEDDED.items():
        assert resolve_model(name) == str(folder)
        assert folder.is_dir()
    assert resolve_model("CompVis/stable-diffusion-v1-4") == "CompVis/stable-diffusion-v1-4"
    with pytest.raises(ValueError, match=r"no embedded model 'keystep/shape-sd'; choose from keystep/shapes-sd"):
        resolve_model("keystep/shape-sd")
