"""The embedded models' architectures: the classes of SD 1.4 and SD3, with the sizes that two CPU cores can train."""

# diffusers and transformers annotate these constructors and outputs too narrowly for their own use.
# pyright: reportArgumentType=false, reportCallIssue=false

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    ConvNextConfig,
    SegformerImageProcessor,
    T5Config,
    T5EncoderModel,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from keystep.core.shapes.scenes import IMAGE_SIZE, NOUNS
from keystep.core.shapes.tokenizers import MAX_LENGTH, clip_tokenizer, t5_tokenizer

LATENT_SIZE = IMAGE_SIZE // 4
LATENT_CHANNELS = 4
QUERY_KEY_GAIN = 2.0  # of the initial cross-attention query and key weights: with less, attention stays uniform


def build_vae() -> AutoencoderKL:
    """64x64x3 -> 16x16x4."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )


def _clip_config(width: int, vocab_size: int, end_of_text: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=end_of_text - 1,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )


def build_sd(vae: AutoencoderKL) -> StableDiffusionPipeline:
    """shapes-sd: cross-attention at 16x16 and 8x8, as SD 1.4 has it at 64, 32, 16 and 8."""
    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(_clip_config(96, len(tokenizer), int(tokenizer.eos_token_id)))
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96),
        layers_per_block=1,
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            _scale_weights((module.to_q, module.to_k), QUERY_KEY_GAIN)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def build_sd3(vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """shapes-sd3: 16x16 image tokens, 24 CLIP tokens and up to 24 T5 tokens in joint attention."""
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    end_of_text = int(tokenizer.eos_token_id)
    text_encoder = CLIPTextModelWithProjection(_clip_config(64, len(tokenizer), end_of_text))
    text_encoder_2 = CLIPTextModelWithProjection(_clip_config(64, len(tokenizer), end_of_text))
    text_encoder_3 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer_3),
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
    heads, head_dim = 4, 32
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=5,
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=128,
        caption_projection_dim=heads * head_dim,
        pooled_projection_dim=128,
        pos_embed_max_size=LATENT_SIZE,
        qk_norm="rms_norm",
    )
    with torch.no_grad():  # adaLN-zero, as DiT trains
        for name, module in transformer.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(("norm1.linear", "norm1_context.linear")):
                module.weight.zero_()
                module.bias.zero_()
        transformer.norm_out.linear.weight.zero_()
        transformer.proj_out.weight.zero_()
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )


def _scale_weights(layers: tuple[nn.Linear, ...], gain: float) -> None:
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(gain)


def build_segmenter() -> UperNetForSemanticSegmentation:
    """64x64x3 in [-1, 1] -> 64x64 logits of background and the eight shapes (predicted at 32x32, interpolated)."""
    labels = dict(enumerate(("background", *NOUNS)))
    backbone = ConvNextConfig(
        patch_size=2,
        num_stages=4,
        hidden_sizes=[24, 48, 64, 96],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone,
            hidden_size=32,
            pool_scales=[1, 2],
            use_auxiliary_head=False,
            num_labels=len(labels),
            id2label=labels,
            label2id={label: index for index, label in labels.items()},
        )
    )


def build_segmenter_processor() -> SegformerImageProcessor:
    """Pixels to [-1, 1] at 64x64."""
    return SegformerImageProcessor(
        do_resize=True,
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
