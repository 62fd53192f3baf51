"""Entities stand in the columns of the text that was encoded, whatever the pipeline does to a prompt before."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from keystep.core.backbones import backbone_for
from keystep.core.callback import StepRefinement
from keystep.core.config import GSNg, Refinement, SamplerConfig, StepConfig
from keystep.core.generation import generate, load_pipeline
from keystep.core.prompts import Entity, Prompt
from keystep.search.images.encodings import Encodings
from tests.tiny_models import TINY_MODELS, tiny_sd, tiny_sdxl

TOY = "<my-toy>"
STAR = Entity("star", "blue")
# With three vectors: <start> a photo of a <my-toy> <my-toy>_1 <my-toy>_2 and a blue star <end>
PROMPT = Prompt(f"a photo of a {TOY} and a blue star", [STAR, Entity(TOY)])
STAR_COLUMNS, TOY_COLUMNS = [11], [5, 6, 7]


@cache
def with_toy(model: str, folder: Path) -> Any:
    """A pipeline with a textual inversion of three vectors, loaded from its file as any user would."""
    pipe = TINY_MODELS[model]() if model in TINY_MODELS else load_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    sides = [(pipe.tokenizer, pipe.text_encoder)]
    if model == "sdxl":
        sides.append((pipe.tokenizer_2, pipe.text_encoder_2))
    for tokenizer, encoder in sides:
        width = encoder.get_input_embeddings().weight.shape[1]
        save_file({TOY: torch.randn(3, width)}, folder / "toy.safetensors")
        pipe.load_textual_inversion(
            folder, weight_name="toy.safetensors", token=TOY, tokenizer=tokenizer, text_encoder=encoder
        )
    return pipe


def columns_of(pipe: Any, prompt: Prompt) -> list[list[int]]:
    weights = backbone_for(pipe).encode([prompt]).entity_weights[0, 0]
    return [row.nonzero().flatten().tolist() for row in weights]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inversions")


@pytest.mark.parametrize("model", ["sd", "sd2", "sdxl", "keystep/shapes-sd"])
def test_a_textual_inversion_of_several_vectors_moves_what_follows(model: str, folder: Path) -> None:
    pipe = with_toy(model, folder)
    assert columns_of(pipe, PROMPT) == [STAR_COLUMNS, TOY_COLUMNS]
    plain = Prompt("a photo of a moon and a blue star", [STAR, Entity("moon")])
    assert columns_of(pipe, plain) == [[9], [5]]
    # The end of the text moves too: of models whose softmax runs over the words alone, the last is the star.
    (span,) = backbone_for(pipe).encode([PROMPT]).spans[0]
    assert span[1] == {"sd": 76, "sd2": 12, "sdxl": 12, "keystep/shapes-sd": 23}[model]
    assert not any(module._forward_pre_hooks for module in (pipe.text_encoder, pipe.unet))


def test_the_search_the_callback_and_generate_encode_alike(folder: Path) -> None:
    pipe = with_toy("keystep/shapes-sd", folder)
    backbone = backbone_for(pipe)
    weights = Encodings(backbone)([PROMPT]).entity_weights[0, 0]
    assert [row.nonzero().flatten().tolist() for row in weights] == [STAR_COLUMNS, TOY_COLUMNS]
    config = StepConfig(
        model="keystep/shapes-sd",
        sampler=SamplerConfig(
            scheduler="DDPMScheduler", num_inference_steps=2, guidance_scale=1.5, height=64, width=64
        ),
        refinement=Refinement(gsng=GSNg(start=1, stop=2)),
    )
    refine = StepRefinement(config, PROMPT)
    image = pipe(**refine.arguments(pipe, seeds=[0])).images[0]
    made = generate(pipe, PROMPT, config, [0])
    assert image.tobytes() == made.images[0].tobytes()
    assert refine.traces[0].trace.losses[0] == made.traces[0][0].losses


def test_vectors_that_are_cut_off_are_an_error(folder: Path) -> None:
    pipe = with_toy("sd2", folder)  # rows of 24: <start>, 22 tokens, <end>
    for words, fits in ((19, True), (20, False), (21, False), (22, False)):
        prompt = Prompt("photo " * words + TOY, [Entity(TOY)])
        if fits:
            assert columns_of(pipe, prompt) == [[20, 21, 22]]
        else:
            with pytest.raises(ValueError, match="'<my-toy>' is cut off"):
                columns_of(pipe, prompt)


def test_an_inversion_in_one_of_two_encoders_is_refused(folder: Path) -> None:
    pipe = tiny_sdxl()
    pipe.load_textual_inversion({"<a-b-c>": torch.randn(2, 16)}, token="<a-b-c>")
    before = Prompt("a star and a <a-b-c>", [Entity("star")])
    assert columns_of(pipe, before) == [[2]]
    with pytest.raises(ValueError, match=r"'star' is in columns \[6\] .* and in \[11\] .*into both"):
        columns_of(pipe, Prompt("a <a-b-c> and a star", [Entity("star")]))


def rewriting(rule: Callable[[str], str]) -> Any:
    """A pipeline that does something to prompts before it encodes them, as instructed and cleaned models do."""

    class Rewriting(StableDiffusionPipeline):
        def encode_prompt(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
            texts = [rule(text) for text in prompt] if isinstance(prompt, list) else rule(prompt)
            return super().encode_prompt(texts, *args, **kwargs)

    return Rewriting(**tiny_sd().components, requires_safety_checker=False)


@pytest.mark.parametrize(
    ("rule", "text", "columns"),
    [
        # <start> a star : a red star
        pytest.param(lambda text: f"a star: {text}", "a red star", [6], id="prefix with the same noun"),
        pytest.param(lambda text: f"{text}, a star, best quality", "a red star", [3], id="suffix"),
        # <start> draw " a red star " in oil
        pytest.param(lambda text: f'draw "{text}" in oil', "a red star", [5], id="template"),
        # <start> a red star
        pytest.param(lambda text: text.replace("_", " ").replace("!", ""), "a_red star!!", [3], id="cleaning"),
        pytest.param(lambda text: text, "a red star", [3], id="nothing"),
    ],
)
def test_columns_are_those_of_the_text_that_was_encoded(
    rule: Callable[[str], str], text: str, columns: list[int]
) -> None:
    assert columns_of(rewriting(rule), Prompt(text, [Entity("star")])) == [columns]


def test_an_entity_that_cleaning_removed_is_not_in_the_prompt() -> None:
    with pytest.raises(ValueError, match=r"'star' is not in the prompt.*'a red'"):
        columns_of(rewriting(lambda text: text.replace(" star", "")), Prompt("a red star", [Entity("star")]))


def test_a_prefix_can_cut_the_prompt_off() -> None:
    pipe = rewriting(lambda text: "photo " * 73 + text)  # 73 of 75 columns for words
    assert columns_of(pipe, Prompt("red star", [Entity("star")])) == [[75]]
    with pytest.raises(ValueError, match="'star' is cut off"):
        columns_of(pipe, Prompt("a red star", [Entity("star")]))
