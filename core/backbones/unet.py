"""The UNet family: Stable Diffusion 1.x, 2.x and XL."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.compiled import eagerly, uncompiled
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.backbones.decoding import decode_sd, decode_sdxl
from keystep.core.backbones.encoded import TokenRows
from keystep.core.backbones.layers import choose_layers
from keystep.core.backbones.text import TextGroup, text_columns, unique_texts
from keystep.core.config import AttentionChoice
from keystep.core.prompts import Prompt


class UNetBackbone(Backbone):
    """Cross-attention maps of a UNet with text in its keys.

    Layers, by default: those whose query grid is (H/32, W/32) for an image of H x W pixels, rounded up; a
    model that has none there (one for small images, say) gives its coarsest grid of at least 64 queries.

    Attributes:
        keep_padding: whether the softmax over text tokens runs over EOT and padding. By default it does
            for SD 1.x and does not for SD 2.x and SDXL, told apart by ``use_linear_projection`` in the
            UNet's config, which is False in the first and True in the others. Set it before ``encode`` for
            a model that breaks the rule.

    Raises:
        ValueError: a UNet that takes something else than text and latents: a distilled one with the guidance
            scale as input, an inpainting one, one with an IP-Adapter.
    """

    def __init__(self, pipe: Any, attention: AttentionChoice | None = None):
        super().__init__(pipe, attention)
        config = pipe.unet.config
        if config.time_cond_proj_dim is not None:
            raise ValueError("this UNet takes the guidance scale as input (LCM): not supported, use its teacher")
        if config.in_channels != pipe.vae.config.latent_channels:
            raise ValueError(
                f"this UNet takes {config.in_channels} channels and latents have "
                f"{pipe.vae.config.latent_channels}: not a text-to-image model"
            )
        if config.encoder_hid_dim_type is not None:
            raise ValueError(
                f"this UNet takes {config.encoder_hid_dim_type} beside the prompt (an IP-Adapter), which keystep does "
                "not know of: call pipe.unload_ip_adapter()"
            )
        self.keep_padding: bool = not config.use_linear_projection
        self.is_xl: bool = config.addition_embed_type == "text_time"

    @property
    def denoiser(self) -> nn.Module:
        return uncompiled(self.pipe.unet)

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[Prompt],
        *,
        negative_prompt: str = "",
        max_sequence_length: int | None = None,
        clip_skip: int | None = None,
    ) -> Conditioning:
        if max_sequence_length is not None:
            raise ValueError(
                f"max_sequence_length is {max_sequence_length}, but {type(self.pipe).__name__} has no T5: leave it None"
            )
        texts, places = unique_texts(prompts)
        added, negative_added = {}, {}
        negatives = [negative_prompt] * len(texts) if negative_prompt else None
        sides = self._text_sides()
        with TokenRows(*(encoder for _, encoder in sides)) as seen, eagerly():
            if self.is_xl:
                embeds, negative_embeds, pooled, negative_pooled = self.pipe.encode_prompt(
                    prompt=texts,
                    negative_prompt=negatives,
                    do_classifier_free_guidance=True,
                    clip_skip=clip_skip,
                )
                added, negative_added = {"text_embeds": pooled[places]}, {"text_embeds": negative_pooled[places]}
            else:
                embeds, negative_embeds = self.pipe.encode_prompt(
                    prompt=texts,
                    device=self.pipe._execution_device,
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=True,
                    negative_prompt=negatives,
                    clip_skip=clip_skip,
                )
        (tokenizer, rows), *others = ((tokenizer, seen.of(side, texts)) for side, (tokenizer, _) in enumerate(sides))
        width = embeds.shape[1]
        group = TextGroup(tokenizer, width, rows, keep_padding=self.keep_padding, twin=next(iter(others), None))
        columns = text_columns(prompts, [group], width, embeds.device)
        return Conditioning(
            prompt_embeds=embeds[places],
            negative_prompt_embeds=negative_embeds[places],
            added=added,
            negative_added=negative_added,
            **vars(columns),
        )

    def _text_sides(self) -> list[tuple[Any, nn.Module]]:
        """Tokenizer and text encoder, in the pipeline's order; their embeddings stand side by side in one row."""
        sides = [(self.pipe.tokenizer, self.pipe.text_encoder)]
        if self.is_xl:
            sides.append((self.pipe.tokenizer_2, self.pipe.text_encoder_2))
        return [(tokenizer, encoder) for tokenizer, encoder in sides if tokenizer is not None]

    def attention_layers(self, height: int, width: int) -> tuple[dict[str, nn.Module], tuple[int, int]]:
        factor = self.pipe.vae_scale_factor
        target = (-(-height * factor // 32), -(-width * factor // 32))
        return choose_layers(cross_attention_grids(self.denoiser, height, width), self.attention, target)

    def predict(
        self, model_input: Tensor, timestep: Tensor | float, embeds: Tensor, added: Mapping[str, Tensor]
    ) -> Tensor:
        conditions = dict(added)
        if self.is_xl:
            # As the stock pipeline: the original and the target size are the image's, and nothing is cropped.
            height, width = (size * self.pipe.vae_scale_factor for size in model_input.shape[-2:])
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=embeds.dtype)
            conditions["time_ids"] = time_ids.to(embeds.device).expand(len(model_input), -1)
        prediction = self.pipe.unet(
            model_input.to(embeds.dtype),
            timestep,
            encoder_hidden_states=embeds,
            added_cond_kwargs=conditions or None,
            return_dict=False,
            **self.call_options,
        )
        return prediction[0].to(model_input.dtype)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self.pipe.vae_scale_factor
        if height % factor or width % factor or min(height, width) < factor:
            raise ValueError(f"height and width must be multiples of {factor} px, got {height} x {width}")
        return self.pipe.unet.config.in_channels, height // factor, width // factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        return decode_sdxl(self.pipe, latents) if self.is_xl else decode_sd(self.pipe, latents)


def cross_attention_grids(unet: Any, height: int, width: int) -> dict[str, tuple[nn.Module, tuple[int, int]]]:
    """Every cross-attention layer of a UNet with (h, w) of its query grid, for latents of (height, width).

    A level's grid is the one before halved and rounded up, as a convolution of stride 2 does; on the way
    up sizes are those of the way down.
    """
    grids = [(height, width)]
    levels: dict[str, int] = {}
    for number, block in enumerate(unet.down_blocks):
        levels[f"down_blocks.{number}."] = len(grids) - 1
        if block.downsamplers is not None:
            grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    level = len(grids) - 1
    levels["mid_block."] = level
    for number, block in enumerate(unet.up_blocks):
        levels[f"up_blocks.{number}."] = level
        level -= block.upsamplers is not None
    return {
        name: (module, grids[levels[prefix]])
        for prefix in levels
        for name, module in unet.named_modules()
        if name.startswith(prefix) and getattr(module, "is_cross_attention", False)
    }
