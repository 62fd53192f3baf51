"""Leaving a batch of images halfway: between two calls of the denoiser, once nobody wants it any more."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Interrupted(Exception):
    """The batch is left; what it had stored stays."""


class Interruption:
    """Watches the calls of a denoiser.

    Args:
        denoiser: of the model that makes the images.

    Attributes:
        asked: whether the batch is to be left; None never leaves one.
        evaluations: denoiser evaluations since `begin`, as `keystep.search.images.costs` counts them.
    """

    def __init__(self, denoiser: nn.Module):
        self.asked: Callable[[], bool] | None = None
        self.evaluations = 0.0
        denoiser.register_forward_pre_hook(self._look, with_kwargs=True)

    def begin(self, asked: Callable[[], bool] | None) -> None:
        """A batch begins."""
        self.asked, self.evaluations = asked, 0.0

    def _look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.asked is not None and self.asked():
            raise Interrupted
        given = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        if isinstance(given, torch.Tensor):
            self.evaluations += len(given) * (2.0 if torch.is_grad_enabled() and given.requires_grad else 1.0)
