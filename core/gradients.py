"""Losses of a batch and their gradients, in as many pieces as memory allows."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Gradients:
    """Evaluates a loss and its gradient with respect to latents, and nothing else.

    When a GPU runs out of memory the batch is halved and the failed piece tried again; the smaller size
    stays for later calls, since what did not fit once will not fit the next time.

    Args:
        loss_fn: latents of the samples ``rows`` -> one loss a sample, each from its own latents alone.
    """

    def __init__(self, loss_fn: Callable[[Tensor, Sequence[int]], Tensor]):
        self._loss_fn = loss_fn
        self._most: int | None = None

    def __call__(self, latents: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Losses (n,) and gradients (shape of ``latents``) of the n samples ``rows``, both detached.

        Raises:
            ValueError: a loss function that does not give one loss a sample.
            torch.OutOfMemoryError: a single sample does not fit.
        """
        losses, gradients = [], []
        start = 0
        while start < len(rows):
            size = min(self._most or len(rows), len(rows) - start)
            piece = slice(start, start + size)
            outcome = self._try(latents[piece], rows[piece])
            if outcome is not None:
                losses.append(outcome[0])
                gradients.append(outcome[1])
                start += size
        return torch.cat(losses), torch.cat(gradients)

    def _try(self, latents: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        try:
            return self._evaluate(latents, rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        # Outside of the handler, so that the failed attempt's activations are no longer referenced.
        self._most = (len(rows) + 1) // 2
        logger.warning("out of memory with %d samples: going on with %d at a time", len(rows), self._most)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

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
