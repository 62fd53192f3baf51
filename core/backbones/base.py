"""What a family of models has to offer, so that sampling and refinement never ask which one they have."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from keystep.core.attention import AttentionCapture
from keystep.core.attention_call import TokenPlaces
from keystep.core.backbones.compiled import eagerly
from keystep.core.backbones.conditioning import Conditioning, EntityMaps
from keystep.core.config import AttentionChoice
from keystep.core.entity_maps import entity_attention
from keystep.core.inference import outside_inference
from keystep.core.prompts import Prompt

__all__ = ["Backbone", "Conditioning", "EntityMaps"]


class Backbone(ABC):
    """A stock diffusers pipeline as the method sees it.

    Args:
        pipe: the pipeline; its modules are used where they are and in the dtype they have.
        attention: which attention layers the maps come from.

    Attributes:
        call_options: further named arguments of every call of the denoiser, such as the pipeline's
            `cross_attention_kwargs`, which scale adapters.
    """

    def __init__(self, pipe: Any, attention: AttentionChoice | None = None):
        self.pipe = pipe
        self.attention = attention or AttentionChoice()
        self.call_options: Mapping[str, Any] = {}

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The network that predicts noise, without a compilation wrapper."""

    @abstractmethod
    def encode(
        self,
        prompts: Sequence[Prompt],
        *,
        negative_prompt: str = "",
        max_sequence_length: int | None = None,
        clip_skip: int | None = None,
    ) -> Conditioning:
        """Both branches of the prompts, embedded by the pipeline's own ``encode_prompt``.

        Args:
            prompts: one a sample; equal ones are embedded once.
            negative_prompt: of every sample's unconditional branch; "" is none, as in the pipeline.
            max_sequence_length: of T5; None is the pipeline's default.
            clip_skip: layers of CLIP left out at its end, as the pipeline's call has it; None is its default.

        Raises:
            ValueError: no prompts, an entity that is not in its prompt or is cut off, or a length of T5 for a
                model that has none.
        """

    @abstractmethod
    def attention_layers(self, height: int, width: int) -> tuple[dict[str, nn.Module], tuple[int, int]]:
        """The layers captured for latents of (height, width), by name, and (h, w) of their query grid.

        Raises:
            ValueError: the attention choice names what the model has not; says what it has.
        """

    def token_places(self, height: int, width: int) -> TokenPlaces:
        """Where image queries of a grid (height, width) and text keys stand among a captured layer's tokens.

        Here those of cross attention: all queries are the image's, all keys are the text's.
        """
        return TokenPlaces(height * width)

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of the latents of an image of height x width pixels.

        Raises:
            ValueError: sizes that are not multiples of what the model needs.
        """

    @abstractmethod
    def decode(self, latents: Float[Tensor, "batch channels h w"]) -> list[Image.Image]:
        """Images of finished latents, as the stock pipeline decodes them, its safety checker included."""

    @abstractmethod
    def predict(
        self, model_input: Tensor, timestep: Tensor | float, embeds: Tensor, added: Mapping[str, Tensor]
    ) -> Tensor:
        """One plain call of the denoiser: its prediction, shape and dtype of ``model_input``."""

    def noise_pred(
        self,
        model_input: Float[Tensor, "batch channels h w"],
        timestep: Tensor | float,
        conditioning: Conditioning,
        guidance_scale: float,
    ) -> Float[Tensor, "batch channels h w"]:
        """The guided prediction, ``uncond + g * (cond - uncond)`` (Ho and Salimans, arXiv 2207.12598).

        Args:
            model_input: latents as ``scheduler.scale_model_input`` gives them.
            timestep: the scheduler's.
            conditioning: of the same samples.
            guidance_scale: g; at 1.0 the unconditional branch is not computed.

        Raises:
            ValueError: another number of samples in ``conditioning``.
        """
        _check_batch(model_input, conditioning)
        positive, negative = conditioning.prompt_embeds, conditioning.negative_prompt_embeds
        if guidance_scale == 1.0:
            return self.predict(model_input, timestep, positive, conditioning.added)
        added = {
            name: torch.cat([conditioning.negative_added[name], value]) for name, value in conditioning.added.items()
        }
        both = self.predict(torch.cat([model_input] * 2), timestep, torch.cat([negative, positive]), added)
        uncond, cond = both.chunk(2)
        return uncond + guidance_scale * (cond - uncond)

    def entity_maps(
        self,
        model_input: Float[Tensor, "batch channels h w"],
        timestep: Tensor | float,
        conditioning: Conditioning,
    ) -> EntityMaps:
        """Where each entity is attended to, from the conditional branch alone.

        The denoiser stops after the last captured layer. Differentiable with respect to ``model_input``,
        and to nothing else.

        Args:
            model_input: latents as ``scheduler.scale_model_input`` gives them.
            timestep: the scheduler's.
            conditioning: of the same samples.

        Raises:
            ValueError: another number of samples in ``conditioning``, or an attention choice without layers.
        """
        _check_batch(model_input, conditioning)
        layers, grid = self.attention_layers(*model_input.shape[-2:])
        columns = conditioning.columns
        places = self.token_places(*grid)
        conditioning = conditioning.outside_inference()
        timestep = outside_inference(timestep)
        with AttentionCapture(self.denoiser, layers, columns, places) as capture, eagerly():
            probabilities = capture.run(
                lambda: self.predict(model_input, timestep, conditioning.prompt_embeds, conditioning.added),
                gradient_of=model_input,
            )
        kept = torch.cat([conditioning.kept[..., first:last] for first, last in columns], dim=-1)
        weights = [conditioning.entity_weights[..., first:last] for first, last in columns]
        maps = entity_attention(probabilities, kept, torch.cat(weights, dim=-1), grid)
        return EntityMaps(maps, conditioning.entity_mask)


def _check_batch(model_input: Tensor, conditioning: Conditioning) -> None:
    if len(model_input) != len(conditioning):
        raise ValueError(
            f"{len(model_input)} latents and {len(conditioning)} prompts: give one prompt a latent, for "
            "example with Conditioning.select"
        )
