"""Stock diffusers pipelines of the real architectures, tiny and randomly initialised, made in memory.

Every function takes a seed and returns a fresh pipeline in fp32 on the CPU; a forward takes milliseconds.
The CLIP tokenizer has the real vocabulary (open_clip bundles it), the T5 tokenizer is a small unigram model.
Default image size: 128 x 128 px, VAE factor 8, latents of 16 x 16.
"""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

CLIP_VOCABULARY_SIZE = 49408
CLIP_MERGES = CLIP_VOCABULARY_SIZE - 256 * 2 - 2
CLIP_BOS, CLIP_EOS = CLIP_VOCABULARY_SIZE - 2, CLIP_VOCABULARY_SIZE - 1
T5_VOCABULARY_SIZE = 128
T5_WORDS = [
    "a",
    "an",
    "the",
    "and",
    "photo",
    "of",
    "red",
    "green",
    "blue",
    "pink",
    "yellow",
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "moon",
    "cat",
    "dog",
    "bear",
    "zebra",
    "skate",
    "two",
]
T5_PIECES = ["board", "s", "es", "ing", "er", "brush"]
T5_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.'-"


@lru_cache(maxsize=1)
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's tokens by id and its merges in order, from the vocabulary file that open_clip bundles."""
    path = Path(str(open_clip.__file__)).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : CLIP_MERGES + 1])]
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == CLIP_VOCABULARY_SIZE
    return {token: index for index, token in enumerate(tokens)}, merges


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE: printable latin-1 first, then the others."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + position) for position in range(len(hidden))]


def clip_tokenizer(max_length: int = 77, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """The real CLIP tokenizer; ``pad_token="!"`` gives the one of SD 2.x and of SDXL's second encoder."""
    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=max_length)


def t5_vocabulary() -> list[tuple[str, float]]:
    """Unigram pieces and log-probabilities: T5's specials, some whole words, word endings, single letters.

    "skateboard" is two pieces, "toothbrush" many: words outside the list are spelt from letters.
    """
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [("▁" + word, -4.0) for word in T5_WORDS]
    endings = [(piece, -6.0) for piece in T5_PIECES]
    return [
        *specials,
        *words,
        *endings,
        *((letter, -8.0) for letter in T5_LETTERS if letter not in T5_PIECES),
    ]


def t5_tokenizer(max_length: int = 512) -> T5Tokenizer:
    """A T5 tokenizer (no BOS, ``</s>`` at the end, ``<pad>`` = 0) over a small unigram vocabulary."""
    return T5Tokenizer(vocab=t5_vocabulary(), extra_ids=0, additional_special_tokens=[], model_max_length=max_length)


def tiny_vae(latent_channels: int = 4, levels: int = 4, **overrides) -> AutoencoderKL:
    """An AutoencoderKL of factor ``2 ** (levels - 1)``."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16 * 2 ** (levels - 1),
        **overrides,
    ).eval()


def _clip_config(width: int, max_length: int, activation: str, projection: int | None = None) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        hidden_act=activation,
        projection_dim=projection or width,
        bos_token_id=CLIP_BOS,
        eos_token_id=CLIP_EOS,
        pad_token_id=CLIP_EOS,
        initializer_factor=3.0,
    )


def _sd_unet(text_width: int, heads: int | Sequence[int], **overrides) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=2,
        attention_head_dim=heads,  # the number of heads, as in the SD checkpoints
        cross_attention_dim=text_width,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        **overrides,
    )
    return unet.eval()


def sharpen_attention(denoiser: torch.nn.Module, factor: float = 3.0) -> None:
    """Scale query and key weights, so that a random model's attention is not flat."""
    suffixes = ("to_q.weight", "to_k.weight", "add_k_proj.weight", "add_q_proj.weight")
    with torch.no_grad():
        for name, weight in denoiser.named_parameters():
            if name.endswith(suffixes):
                weight.mul_(factor)


def tiny_sd(seed: int = 0, *, vae_levels: int = 4) -> StableDiffusionPipeline:
    """SD 1.x: epsilon prediction, convolutional projections, 2 heads, cross attention at 16, 8 and 4."""
    torch.manual_seed(seed)
    unet = _sd_unet(16, 2)
    sharpen_attention(unet)
    return StableDiffusionPipeline(
        vae=tiny_vae(levels=vae_levels),
        text_encoder=CLIPTextModel(_clip_config(16, 77, "quick_gelu")).eval(),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_sd2(seed: int = 0) -> StableDiffusionPipeline:
    """SD 2.x: v prediction, linear projections, heads growing with the level, rows of 24 tokens."""
    torch.manual_seed(seed)
    unet = _sd_unet(24, [1, 2, 4, 4], use_linear_projection=True, upcast_attention=True)
    sharpen_attention(unet)
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(_clip_config(24, 24, "gelu")).eval(),
        tokenizer=clip_tokenizer(24, pad_token="!"),
        unet=unet,
        scheduler=_ddim(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _ddim(**overrides) -> DDIMScheduler:
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=False, **overrides)


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """SDXL: two text encoders, pooled text and size conditions, no attention at the finest level, Euler."""
    torch.manual_seed(seed)
    pooled_width, time_width = 12, 8
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 16, 32),
        layers_per_block=2,
        attention_head_dim=[1, 2, 4],
        transformer_layers_per_block=[1, 1, 2],
        cross_attention_dim=16 + 12,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=pooled_width + 6 * time_width,
    ).eval()
    sharpen_attention(unet)
    return StableDiffusionXLPipeline(
        vae=tiny_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_clip_config(16, 77, "quick_gelu")).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(12, 77, "gelu", pooled_width)).eval(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def _sd3(seed: int, **transformer_overrides) -> StableDiffusion3Pipeline:
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=32,
        caption_projection_dim=24,
        pooled_projection_dim=12 + 8,
        pos_embed_max_size=24,
        **transformer_overrides,
    ).eval()
    sharpen_attention(transformer)
    t5 = T5Config(
        vocab_size=T5_VOCABULARY_SIZE,
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(8, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(_clip_config(16, 77, "quick_gelu", 12)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(12, 77, "gelu", 8)).eval(),
        text_encoder_3=T5EncoderModel(t5).eval(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        tokenizer_3=t5_tokenizer(),
    )


def tiny_sd3(seed: int = 0) -> StableDiffusion3Pipeline:
    """SD3: three joint-attention blocks of 3 heads, two CLIP encoders and T5, query grid 8 x 8 at 128 px."""
    return _sd3(seed)


def tiny_sd35(seed: int = 0) -> StableDiffusion3Pipeline:
    """SD3.5: RMS-normalised queries and keys, dual (image-only) attention in the first two blocks."""
    return _sd3(seed, qk_norm="rms_norm", dual_attention_layers=(0, 1))


TINY_MODELS = {
    "sd": tiny_sd,
    "sd2": tiny_sd2,
    "sdxl": tiny_sdxl,
    "sd3": tiny_sd3,
    "sd35": tiny_sd35,
}
