"""Losses of a batch and their gradients, in as many pieces as memory allows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.pieces import Pieces


class Gradients:
    """Evaluates a loss and its gradient with respect to latents, and nothing else.

    When a GPU runs out of memory it goes on with fewer samples at a time: see `core.pieces.Pieces`.

    Args:
        loss_fn: latents of the samples ``rows`` -> one loss a sample, each from its own latents alone.
    """

    def __init__(self, loss_fn: Callable[[Tensor, Sequence[int]], Tensor]):
        self._loss_fn = loss_fn
        self._pieces = Pieces()

    def __call__(self, latents: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Losses (n,) and gradients (shape of ``latents``) of the n samples ``rows``, both detached.

        Raises:
            ValueError: a loss function that does not give one loss a sample.
            torch.OutOfMemoryError: a single sample does not fit.
        """
        pieces = self._pieces(lambda piece: self._evaluate(latents[piece], rows[piece]), len(rows))
        losses, gradients = zip(*pieces, strict=True)
        return torch.cat(losses), torch.cat(gradients)

    def _evaluate(self, latents: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_(True)
            losses = self._loss_fn(leaf, rows)
            if losses.shape != (len(rows),):
                raise ValueError(f"loss_fn must give one loss a sample, ({len(rows)},), got {tuple(losses.shape)}")
            if not losses.requires_grad:
                # A loss that is saturated for every sample may be a constant.
                return losses.detach(), torch.zeros_like(latents)
            gradients = torch.autograd.grad(losses.sum(), leaf)[0]
        return losses.detach(), gradients
