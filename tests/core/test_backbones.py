"""What every backbone owes, on tiny models of the real architectures."""

import inspect
from functools import lru_cache

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from keystep.core.backbones import BACKBONES, Backbone, Conditioning, MMDiTBackbone, UNetBackbone, backbone_for
from keystep.core.config import AttentionChoice
from keystep.core.generation import load_pipeline
from keystep.core.prompts import Entity, Prompt
from tests.tiny_models import TINY_MODELS, tiny_sd, tiny_sd2, tiny_sd3, tiny_sdxl, tiny_vae

TWO = Prompt("a red circle and a blue star", (Entity("circle", "red"), Entity("star", "blue")))
ONE = Prompt("a skateboard", (Entity("skateboard"),))
EMBEDDED = ("keystep/shapes-sd", "keystep/shapes-sd3")
T5_LENGTH = 24

MODELS = [*TINY_MODELS, *EMBEDDED]

every_model = pytest.mark.parametrize("name", MODELS)


@lru_cache(maxsize=len(MODELS))
def backbone_of(name: str) -> Backbone:
    return backbone_for(TINY_MODELS[name]() if name in TINY_MODELS else load_pipeline(name))


def size_of(backbone: Backbone) -> tuple[int, int]:
    """Height and width in px: not square, and what the embedded models can draw."""
    return (64, 48) if backbone.pipe.vae_scale_factor == 4 else (128, 192)


def encode(backbone: Backbone, prompts: list[Prompt], negative_prompt: str = "") -> Conditioning:
    length = T5_LENGTH if isinstance(backbone, MMDiTBackbone) else None
    return backbone.encode(prompts, negative_prompt=negative_prompt, max_sequence_length=length)


def noise(backbone: Backbone, batch: int = 2, seed: int = 0) -> torch.Tensor:
    shape = backbone.latent_shape(*size_of(backbone))
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def timestep_of(backbone: Backbone, step_index: int = 2) -> torch.Tensor:
    backbone.pipe.scheduler.set_timesteps(10)
    return backbone.pipe.scheduler.timesteps[step_index]


def stock_arguments(backbone: Backbone) -> dict:
    return {"max_sequence_length": T5_LENGTH} if isinstance(backbone, MMDiTBackbone) else {}


@every_model
@pytest.mark.parametrize("negative_prompt", ["", "a blurry photo"])
def test_embeddings_are_those_of_the_stock_pipeline(name: str, negative_prompt: str) -> None:
    backbone = backbone_of(name)
    conditioning = encode(backbone, [TWO, ONE, TWO], negative_prompt)
    assert len(conditioning) == 3
    extra = {"prompt_2": None} if "sdxl" in name else {}
    if "sd3" in name:
        extra = {"prompt_2": None, "prompt_3": None, **stock_arguments(backbone)}
    for row, prompt in enumerate([TWO, ONE, TWO]):
        # As the stock pipelines call it when the user gave no negative prompt.
        stock = backbone.pipe.encode_prompt(
            prompt=prompt.text,
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=negative_prompt or None,
            **extra,
        )
        ours = [conditioning.prompt_embeds, conditioning.negative_prompt_embeds]
        for added in (conditioning.added, conditioning.negative_added):
            ours += list(added.values())
        assert len(stock) == len(ours)
        for theirs, mine in zip(stock, ours, strict=True):
            torch.testing.assert_close(mine[row : row + 1], theirs, atol=1e-5, rtol=1e-5)


@every_model
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@torch.no_grad()
def test_a_loop_over_noise_pred_and_decode_is_the_stock_pipeline(name: str, guidance_scale: float) -> None:
    backbone = backbone_of(name)
    pipe, steps = backbone.pipe, 4
    start = noise(backbone, batch=1)
    height, width = size_of(backbone)
    arguments = dict(height=height, width=width, num_inference_steps=steps, guidance_scale=guidance_scale)
    arguments |= stock_arguments(backbone)
    expected, pictures = (
        pipe(
            TWO.text,
            latents=start.clone(),
            generator=torch.Generator().manual_seed(0),
            output_type=output_type,
            **arguments,
        ).images
        for output_type in ("latent", "pil")
    )

    conditioning = encode(backbone, [TWO])
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = start * getattr(scheduler, "init_noise_sigma", 1.0)
    generator = torch.Generator().manual_seed(0)
    drawn = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        prediction = backbone.noise_pred(scale(latents, timestep), timestep, conditioning, guidance_scale)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **drawn)[0]
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)

    image = backbone.decode(expected)[0]
    assert image.size == (width, height)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pictures[0]))


@every_model
@torch.no_grad()
def test_samples_of_a_batch_do_not_see_one_another(name: str) -> None:
    backbone = backbone_of(name)
    model_input, timestep = noise(backbone), timestep_of(backbone)
    both = encode(backbone, [TWO, ONE])
    together = backbone.entity_maps(model_input, timestep, both)
    assert together.mask.tolist() == [[True, True], [True, False]]
    assert together.maps.dtype == torch.float32
    assert (together.maps[1, 1] == 0).all()
    for row, prompt in enumerate([TWO, ONE]):
        alone = backbone.entity_maps(model_input[row : row + 1], timestep, encode(backbone, [prompt]))
        count = len(prompt.entities)
        torch.testing.assert_close(alone.maps[0], together.maps[row, :count], atol=1e-5, rtol=1e-4)


@every_model
def test_conditionings_are_selected_and_joined_by_sample(name: str) -> None:
    backbone = backbone_of(name)
    first, second = encode(backbone, [TWO]), encode(backbone, [ONE])
    whole = encode(backbone, [TWO, ONE])
    for conditioning in (Conditioning.cat([first, second]), whole.select([1, 0, 1]).select([1, 2])):
        assert len(conditioning) == 2
        assert conditioning.spans == whole.spans
        for name_of, value in vars(whole).items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(getattr(conditioning, name_of), value, atol=1e-6, rtol=1e-5)
        for key, value in whole.added.items():
            torch.testing.assert_close(conditioning.added[key], value, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one part"):
        Conditioning.cat([])


def test_text_rows_of_different_length_cannot_be_joined() -> None:
    backbone = backbone_of("sd3")
    short, long = (backbone.encode([ONE], max_sequence_length=length) for length in (16, 20))
    with pytest.raises(ValueError, match="max_sequence_length"):
        Conditioning.cat([short, long])


@every_model
def test_entities_that_are_missing_or_cut_off_are_errors_that_name_them(name: str) -> None:
    backbone = backbone_of(name)
    with pytest.raises(ValueError, match="zebra"):
        encode(backbone, [Prompt("a red circle", (Entity("zebra"),))])
    with pytest.raises(ValueError, match="moon"):
        encode(backbone, [Prompt("a photo of " * 40 + "a moon", (Entity("moon"),))])
    with pytest.raises(ValueError, match="at least one prompt"):
        encode(backbone, [])


@every_model
def test_another_number_of_prompts_than_latents_is_an_error(name: str) -> None:
    backbone = backbone_of(name)
    conditioning = encode(backbone, [TWO])
    for call in (
        lambda: backbone.entity_maps(noise(backbone), timestep_of(backbone), conditioning),
        lambda: backbone.noise_pred(noise(backbone), timestep_of(backbone), conditioning, 5.0),
    ):
        with pytest.raises(ValueError, match="2 latents and 1 prompts"):
            call()


@every_model
def test_image_sizes_are_those_of_the_stock_latents(name: str) -> None:
    backbone = backbone_of(name)
    config = backbone.denoiser.config
    factor = backbone.pipe.vae_scale_factor
    assert backbone.latent_shape(128, 192) == (config.in_channels, 128 // factor, 192 // factor)
    with pytest.raises(ValueError, match=r"multiples of (4|8|16) px, got 102 x 128"):
        backbone.latent_shape(102, 128)


def test_a_factor_of_four_gives_latents_of_a_quarter() -> None:
    backbone = backbone_for(tiny_sd(vae_levels=3))
    assert backbone.latent_shape(64, 96) == (4, 16, 24)


def test_columns_kept_follow_the_family() -> None:
    eot = 8  # of "a red circle and a blue star", after BOS and 7 tokens of one each
    assert encode(backbone_of("sd"), [TWO]).spans == (((1, 76),),)
    assert encode(backbone_of("sd2"), [TWO]).spans == (((1, eot),),)
    assert encode(backbone_of("sdxl"), [TWO]).spans == (((1, eot),),)
    # T5 has no BOS: its first word stands at the first of its columns, after CLIP's 77.
    assert encode(backbone_of("sd3"), [TWO]).spans == (((1, eot), (77, 77 + 7)),)
    first = encode(backbone_of("sd3"), [Prompt("circle", (Entity("circle"),))])
    assert first.entity_weights[0, 1, 0].nonzero().flatten().tolist() == [77]


def test_an_entity_of_several_tokens_is_their_mean() -> None:
    weights = encode(backbone_of("sd3"), [ONE]).entity_weights[0, 1, 0]
    assert weights.nonzero().flatten().tolist() == [78, 79]  # "a", "skate", "board"
    assert weights[78:80].tolist() == [0.5, 0.5]


def test_a_pipeline_without_t5_reads_clip_alone() -> None:
    pipe = tiny_sd3()
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    backbone = backbone_for(pipe)
    conditioning = encode(backbone, [TWO])
    assert conditioning.spans == (((1, 8),),)
    maps = backbone.entity_maps(noise(backbone, 1), timestep_of(backbone), conditioning).maps
    assert maps.shape == (1, 2, 8, 12)
    assert maps.amax() > 0.05


def test_the_family_is_found_by_the_denoiser() -> None:
    assert set(BACKBONES.values()) == {UNetBackbone, MMDiTBackbone}
    for name, family in {"sd2": UNetBackbone, "sdxl": UNetBackbone, "sd35": MMDiTBackbone}.items():
        assert isinstance(backbone_of(name), family)
    with pytest.raises(ValueError, match=r"AutoencoderKL.*UNet2DConditionModel"):
        backbone_for(type("Pipeline", (), {"unet": tiny_vae()}))


def test_models_that_are_not_text_to_image_are_refused() -> None:
    pipe = tiny_sd()
    arguments = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    pipe.unet = UNet2DConditionModel(**{**arguments, "in_channels": 9})
    with pytest.raises(ValueError, match="9 channels"):
        backbone_for(pipe)
    pipe.unet = UNet2DConditionModel(**{**arguments, "time_cond_proj_dim": 8})
    with pytest.raises(ValueError, match="LCM"):
        backbone_for(pipe)


def test_a_t5_length_for_a_model_without_t5_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no T5"):
        backbone_of("sd").encode([TWO], max_sequence_length=77)


@pytest.mark.parametrize(
    ("make", "size", "grid", "count"),
    [
        # SD 1.x at 16 x 24 latents: down_blocks.2 and up_blocks.1 stand at (H/32, W/32).
        (tiny_sd, (128, 192), (4, 6), 5),
        (tiny_sd2, (128, 128), (4, 4), 5),
        # Sizes that do not halve evenly are rounded up, as the convolutions do.
        (tiny_sd, (136, 200), (5, 7), 5),
        # SDXL: two layers of two blocks down, one in the middle, three up.
        (tiny_sdxl, (128, 128), (4, 4), 12),
    ],
)
def test_the_rule_takes_the_grid_of_an_image_over_32(make, size, grid, count) -> None:
    backbone = backbone_for(make())
    layers, found = backbone.attention_layers(*backbone.latent_shape(*size)[1:])
    assert found == grid
    assert len(layers) == count
    maps = backbone.entity_maps(
        torch.randn(1, *backbone.latent_shape(*size)), timestep_of(backbone), backbone.encode([TWO])
    ).maps
    assert maps.shape[-2:] == grid


def test_layers_of_sd_are_the_five_of_down_2_and_up_1() -> None:
    layers, _ = backbone_of("sd").attention_layers(16, 16)
    assert sorted(layers) == sorted(
        [f"down_blocks.2.attentions.{n}.transformer_blocks.0.attn2" for n in range(2)]
        + [f"up_blocks.1.attentions.{n}.transformer_blocks.0.attn2" for n in range(3)]
    )


def test_where_the_rule_finds_no_layer_the_coarsest_fine_enough_is_taken() -> None:
    pipe = tiny_sd(vae_levels=2)  # factor 2: at 32 px the rule wants 1 x 1, which has no attention
    backbone = backbone_for(pipe)
    layers, grid = backbone.attention_layers(*backbone.latent_shape(32, 32)[1:])
    assert grid == (8, 8)
    assert all(name.startswith(("down_blocks.1.", "up_blocks.2.")) for name in layers)
    with pytest.raises(ValueError, match=r"64 queries.*4 x 4"):
        backbone.attention_layers(4, 4)


def test_layers_can_be_chosen_by_name_block_and_resolution() -> None:
    pipe = tiny_sd()

    def chosen(**choice) -> tuple[set[str], tuple[int, int]]:
        layers, grid = backbone_for(pipe, AttentionChoice(**choice)).attention_layers(16, 16)
        return {".".join(name.split(".")[:2]) for name in layers}, grid

    assert chosen(resolution=(16, 16)) == ({"down_blocks.0", "up_blocks.3"}, (16, 16))
    assert chosen(layers=("up_blocks.2",)) == ({"up_blocks.2"}, (8, 8))
    assert chosen(layers=("down_blocks", "up_blocks"), resolution=(4, 4)) == (
        {"down_blocks.2", "up_blocks.1"},
        (4, 4),
    )
    one = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"
    assert chosen(layers=(one,)) == ({"up_blocks.1"}, (4, 4))
    with pytest.raises(ValueError, match=r"no attention layer is called 'up_blocks\.9'"):
        chosen(layers=("up_blocks.9",))
    with pytest.raises(ValueError, match="different query grids"):
        chosen(layers=("down_blocks",))
    with pytest.raises(ValueError, match=r"resolution 5 x 5.*16 x 16, 8 x 8, 4 x 4"):
        chosen(resolution=(5, 5))


def test_blocks_of_a_transformer_can_be_chosen() -> None:
    pipe = tiny_sd3()
    layers, grid = backbone_for(pipe).attention_layers(16, 24)
    assert list(layers) == [f"transformer_blocks.{number}.attn" for number in range(3)]
    assert grid == (8, 12)
    one, _ = backbone_for(pipe, AttentionChoice(layers=("transformer_blocks.1",))).attention_layers(16, 24)
    assert list(one) == ["transformer_blocks.1.attn"]
    with pytest.raises(ValueError, match=r"transformer_blocks\.7"):
        backbone_for(pipe, AttentionChoice(layers=("transformer_blocks.7",))).attention_layers(16, 24)
