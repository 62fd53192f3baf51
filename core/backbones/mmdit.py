"""The MMDiT family: Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from keystep.core.attention_call import TokenPlaces
from keystep.core.backbones.base import Backbone
from keystep.core.backbones.compiled import eagerly, uncompiled
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.backbones.decoding import decode_sd3
from keystep.core.backbones.encoded import TokenRows
from keystep.core.backbones.layers import choose_layers
from keystep.core.backbones.text import TextGroup, text_columns, unique_texts
from keystep.core.prompts import Prompt

DEFAULT_T5_LENGTH = 256
"""Tokens of T5 where nothing is said, as in the stock pipeline."""


class MMDiTBackbone(Backbone):
    """Joint-attention maps of a transformer whose image and text tokens attend to one another.

    Layers: the joint attention of every block, or of the blocks that the attention choice names
    ("transformer_blocks.3"); SD3.5's second attention sees no text and is left alone. The query grid is the
    latents' over the patch size. Text columns are CLIP's, whose two encoders share positions, then T5's;
    in both, the softmax over text tokens runs over the words alone, without BOS, EOT and padding. A
    pipeline loaded without T5 gives maps from CLIP alone.
    """

    @property
    def denoiser(self) -> nn.Module:
        return uncompiled(self.pipe.transformer)

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[Prompt],
        *,
        negative_prompt: str = "",
        max_sequence_length: int | None = None,
        clip_skip: int | None = None,
    ) -> Conditioning:
        texts, places = unique_texts(prompts)
        pipe = self.pipe
        encoders = [pipe.text_encoder, pipe.text_encoder_2]
        if pipe.text_encoder_3 is not None:
            encoders.append(pipe.text_encoder_3)
        with TokenRows(*encoders) as seen, eagerly():
            embeds, negative_embeds, pooled, negative_pooled = pipe.encode_prompt(
                prompt=texts,
                prompt_2=None,
                prompt_3=None,
                negative_prompt=[negative_prompt] * len(texts),
                do_classifier_free_guidance=True,
                max_sequence_length=max_sequence_length or DEFAULT_T5_LENGTH,
                clip_skip=clip_skip,
            )
        width, clip_length = embeds.shape[1], pipe.tokenizer_max_length
        twin = (pipe.tokenizer_2, seen.of(1, texts))
        groups = [TextGroup(pipe.tokenizer, clip_length, seen.of(0, texts), twin=twin)]
        if pipe.text_encoder_3 is not None:
            t5_length = width - clip_length
            groups.append(TextGroup(pipe.tokenizer_3, t5_length, seen.of(2, texts), offset=clip_length))
        return Conditioning(
            prompt_embeds=embeds[places],
            negative_prompt_embeds=negative_embeds[places],
            added={"pooled_projections": pooled[places]},
            negative_added={"pooled_projections": negative_pooled[places]},
            **vars(text_columns(prompts, groups, width, embeds.device)),
        )

    def attention_layers(self, height: int, width: int) -> tuple[dict[str, nn.Module], tuple[int, int]]:
        denoiser: Any = self.denoiser
        patch = denoiser.config.patch_size
        grid = (height // patch, width // patch)
        blocks = {
            f"transformer_blocks.{number}.attn": (block.attn, grid)
            for number, block in enumerate(denoiser.transformer_blocks)
        }
        return choose_layers(blocks, self.attention, grid)

    def token_places(self, height: int, width: int) -> TokenPlaces:
        return TokenPlaces(height * width, first_text=height * width)

    def predict(
        self, model_input: Tensor, timestep: Tensor | float, embeds: Tensor, added: Mapping[str, Tensor]
    ) -> Tensor:
        prediction = self.pipe.transformer(
            hidden_states=model_input.to(embeds.dtype),
            timestep=torch.as_tensor(timestep, device=model_input.device).expand(len(model_input)),
            encoder_hidden_states=embeds,
            return_dict=False,
            **added,
            **self.call_options,
        )
        return prediction[0].to(model_input.dtype)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        config = self.pipe.transformer.config
        factor = self.pipe.vae_scale_factor
        unit = factor * config.patch_size
        if height % unit or width % unit or min(height, width) < unit:
            raise ValueError(f"height and width must be multiples of {unit} px, got {height} x {width}")
        return config.in_channels, height // factor, width // factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        return decode_sd3(self.pipe, latents)
