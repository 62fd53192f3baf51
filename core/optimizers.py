"""How a gradient becomes a shift: optimisers whose state is one a sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Rows = slice | Tensor
"""Which samples of the whole batch a gradient belongs to."""


class SampleOptimizer(ABC):
    """Turns gradients into what is subtracted from the latents.

    Every sample given was given in all calls before: a sample may leave, none may join.

    Args:
        rate: the step size.
    """

    def __init__(self, rate: float):
        self.rate = rate

    @abstractmethod
    def shift(self, gradients: Tensor, rows: Rows, batch: int) -> Tensor:
        """The shift of the samples ``rows`` of a batch, shape of ``gradients``."""


class GradientDescent(SampleOptimizer):
    """``rate * gradient``."""

    def shift(self, gradients: Tensor, rows: Rows, batch: int) -> Tensor:
        return self.rate * gradients


class Momentum(SampleOptimizer):
    """``rate * v`` with ``v <- 0.9 v + gradient`` (Polyak 1964), as ``torch.optim.SGD(momentum=0.9)``."""

    DECAY = 0.9

    def __init__(self, rate: float):
        super().__init__(rate)
        self._velocity: Tensor | None = None

    def shift(self, gradients: Tensor, rows: Rows, batch: int) -> Tensor:
        if self._velocity is None:
            self._velocity = _zeros(gradients, batch)
        velocity = self.DECAY * self._velocity[rows] + gradients
        self._velocity[rows] = velocity
        return self.rate * velocity


class Adam(SampleOptimizer):
    """Kingma and Ba, arXiv 1412.6980, with the defaults of ``torch.optim.Adam``; ``rate`` is its learning rate."""

    DECAYS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, rate: float):
        super().__init__(rate)
        self._moments: tuple[Tensor, Tensor] | None = None
        self._calls = 0

    def shift(self, gradients: Tensor, rows: Rows, batch: int) -> Tensor:
        if self._moments is None:
            self._moments = _zeros(gradients, batch), _zeros(gradients, batch)
        self._calls += 1
        first, second = (moment[rows] for moment in self._moments)
        first = self.DECAYS[0] * first + (1 - self.DECAYS[0]) * gradients
        second = self.DECAYS[1] * second + (1 - self.DECAYS[1]) * gradients**2
        self._moments[0][rows], self._moments[1][rows] = first, second
        mean = first / (1 - self.DECAYS[0] ** self._calls)
        deviation = (second / (1 - self.DECAYS[1] ** self._calls)).sqrt()
        return self.rate * mean / (deviation + self.EPSILON)


def _zeros(gradients: Tensor, batch: int) -> Tensor:
    return torch.zeros(batch, *gradients.shape[1:], dtype=gradients.dtype, device=gradients.device)


OPTIMIZERS: dict[str, Callable[[float], SampleOptimizer]] = {
    "gd": GradientDescent,
    "momentum": Momentum,
    "adam": Adam,
}
"""By their names in `keystep.core.config.IterRef`."""
