"""Losses of a batch and their gradients, in as many pieces as memory allows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from keystep.core.inference import outside_inference
from keystep.core.pieces import Pieces


class Gradients:
    """Evaluates a loss and its gradient with respect to latents, and nothing else.

    When a GPU runs out of memory it goes on with fewer samples at a time: see `keystep.core.pieces.Pieces`.

    Args:
        loss_fn: latents of the samples ``rows`` -> one loss a sample, each from its own latents alone.
    """

    def __init__(self, loss_fn: Callable[[Tensor, Sequence[int]], Tensor]):
        self._loss_fn = loss_fn
        self._pieces = Pieces()

    def __call__(self, latents: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Losses (n,) and gradients (shape of ``latents``) of the n samples ``rows``, both detached.

        Works under ``torch.no_grad`` and ``torch.inference_mode`` too. A loss that is 0 for every sample may be a
        constant; its gradient is 0.

        Raises:
            ValueError: a loss function that does not give one loss a sample, or one whose losses are not 0 and
                do not hang on the latents: somewhere between them the gradient is cut.
            torch.OutOfMemoryError: a single sample does not fit.
        """
        pieces = self._pieces(lambda piece: self._evaluate(latents[piece], rows[piece]), len(rows))
        losses, gradients = zip(*pieces, strict=True)
        return torch.cat(losses), torch.cat(gradients)

    def _evaluate(self, latents: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = outside_inference(latents.detach()).requires_grad_(True)
            losses = self._loss_fn(leaf, rows)
            if losses.shape != (len(rows),):
                raise ValueError(f"loss_fn must give one loss a sample, ({len(rows)},), got {tuple(losses.shape)}")
            gradients = None
            if losses.requires_grad:
                gradients = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0]
            if gradients is None:
                if bool((losses != 0).any()):
                    raise ValueError(
                        "the loss does not hang on the latents, so that nothing could be refined: something between "
                        "them detaches a tensor, or runs under torch.no_grad() or torch.inference_mode()"
                    )
                # A loss that is saturated for every sample may be a constant.
                gradients = torch.zeros_like(latents)
        return losses.detach(), gradients
