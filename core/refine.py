"""Iterative refinement and guidance: shifts of latents down the gradient of a loss on their attention maps.

``latents <- latents - alpha * grad loss(latents)``, Chefer et al., *Attend-and-Excite* (arXiv 2301.13826),
done many times at one step (IterRef) or once at each of many (GSNg), Grimal et al. (arXiv 2504.17525).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from keystep.core.config import GSNg, IterRef
from keystep.core.gradients import Gradients
from keystep.core.optimizers import OPTIMIZERS, SampleOptimizer

LossFn = Callable[[Tensor, Sequence[int]], Tensor]
"""Latents of the samples ``rows`` (float32) -> one loss a sample, each from its own latents alone."""


@dataclass(frozen=True)
class RefineTrace:
    """What a refinement did, a sample an entry.

    Args:
        losses: before each shift, and of the sample's last evaluation if that made it stop.
        iterations: shifts made; those of a loss of 0, which has no gradient, leave the latents where they are.
        failures: why the sample was left where it was; None for one that went well, or whose loss was 0 all along.
        seconds: of the whole batch.
    """

    losses: tuple[tuple[float, ...], ...]
    iterations: tuple[int, ...]
    failures: tuple[str | None, ...]
    seconds: float


@dataclass(frozen=True)
class RefineResult:
    """Refined latents, shape and dtype of those given.

    Args:
        latents: after the last shift.
        trace: what was done.
        snapshots: latents after so many shifts, by that number; those of a sample that stopped earlier are
            its last.
    """

    latents: Float[Tensor, "batch ..."]
    trace: RefineTrace
    snapshots: Mapping[int, Tensor] = field(default_factory=dict)


def step_size_at(step_size: float, schedule: tuple[float, float], num_steps: int, step_index: int) -> float:
    """``step_size * sqrt(linspace(a, b, num_steps)[step_index])``: the step size at a step index.

    Raises:
        ValueError: a step index outside the sampling.
    """
    if not 0 <= step_index < num_steps:
        raise ValueError(f"step_index must be in 0..{num_steps - 1}, got {step_index}")
    line = torch.linspace(*schedule, num_steps, dtype=torch.float64)
    return step_size * line[step_index].item() ** 0.5


def iterative_refinement(
    loss_fn: LossFn,
    latents: Float[Tensor, "batch ..."],
    settings: IterRef,
    *,
    num_steps: int,
    step_index: int,
    snapshots: Sequence[int] = (),
) -> RefineResult:
    """Shift every sample's latents until its loss is at the threshold, or ``settings.iterations`` times.

    Samples do not influence one another: each has its own optimiser state and stops on its own, and one
    that stopped is not given to ``loss_fn`` again. A sample whose loss, gradient or new latents are not
    finite keeps its last finite latents and is reported in the trace. Latents are kept in float32
    meanwhile. Out of GPU memory, the batch is halved for this and the following iterations.

    Args:
        loss_fn: gives the losses of some of the samples; see ``LossFn``.
        latents: of all samples; not changed.
        settings: of the refinement; its ``step_index`` is where it is meant to be, ``step_index`` where it is.
        num_steps: sampling steps.
        step_index: of the latents; what the step size depends on.
        snapshots: numbers of shifts to keep the latents after, each in 0..iterations.

    Returns:
        The latents, the trace, and the snapshots; a snapshot after k shifts is the result of a run of k
        iterations.

    Raises:
        ValueError: a step index outside the sampling, or a snapshot that will not come.
        torch.OutOfMemoryError: one sample alone does not fit.
    """
    unreachable = [count for count in snapshots if not 0 <= count <= settings.iterations]
    if unreachable:
        raise ValueError(f"snapshots must be in 0..{settings.iterations} (iterations), got {unreachable}")
    rate = step_size_at(settings.step_size, settings.schedule, num_steps, step_index)
    run = _Run(loss_fn, latents, OPTIMIZERS[settings.optimizer](rate), settings.threshold)
    kept = {0: run.snapshot()} if 0 in snapshots else {}
    for iteration in range(settings.iterations):
        run.iterate()
        if iteration + 1 in snapshots:
            kept[iteration + 1] = run.snapshot()
        if not run.rows:
            kept |= {count: run.snapshot() for count in snapshots if count > iteration}
            break
    return run.result(kept)


def guidance_shift(
    loss_fn: LossFn,
    latents: Float[Tensor, "batch ..."],
    settings: GSNg,
    *,
    num_steps: int,
    step_index: int,
) -> RefineResult:
    """Shift the latents once if ``step_index`` is in the range of ``settings``; as they are, and no loss, if not.

    Arguments, failures and errors as in `iterative_refinement`.
    """
    rate = step_size_at(settings.step_size, settings.schedule, num_steps, step_index)
    run = _Run(loss_fn, latents, OPTIMIZERS["gd"](rate), None)
    if step_index in settings.step_range(num_steps):
        run.iterate()
    return run.result({})


class _Run:
    """The state of a refinement: the latents of all samples, and which are still active."""

    def __init__(self, loss_fn: LossFn, latents: Tensor, optimizer: SampleOptimizer, threshold: float | None):
        self.began = time.perf_counter()
        self.dtype = latents.dtype
        self.given = latents.detach()
        self.latents = latents.detach().to(torch.promote_types(latents.dtype, torch.float32))
        self.gradients = Gradients(loss_fn)
        self.optimizer = optimizer
        self.threshold = threshold
        self.rows = list(range(len(latents)))
        self.done = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        self.history: list[Tensor] = []

    def iterate(self) -> None:
        """Evaluate the active samples, and shift those that are finite and above the threshold."""
        everyone = len(self.rows) == len(self.latents)
        index = slice(None) if everyone else torch.tensor(self.rows, device=self.latents.device)
        before, active = self.latents[index], ~self.done[index]
        losses, gradients = self.gradients(before, self.rows)
        after = before - self.optimizer.shift(gradients, index, len(self.latents))
        finite = torch.stack([_finite(losses[:, None]), _finite(gradients), _finite(after)])
        shifts = active & finite.all(dim=0)
        if self.threshold is not None:
            shifts = shifts & (losses > self.threshold)
        after = torch.where(shifts.reshape(-1, *(1,) * (before.ndim - 1)), after, before)
        self.latents = self.latents.clone()
        self.latents[index] = after
        self._record(index, torch.stack([active, shifts, *finite]), losses)
        self.done[index] = ~shifts
        # Without a threshold nobody leaves, so that the host need not wait: a sample that failed is only frozen.
        if self.threshold is not None:
            self.rows = [row for row, goes_on in zip(self.rows, shifts.tolist(), strict=True) if goes_on]

    def _record(self, index: slice | Tensor, flags: Tensor, losses: Tensor) -> None:
        entry = self.latents.new_zeros(len(flags) + 1, len(self.latents))
        entry[:-1, index] = flags.to(entry.dtype)
        entry[-1, index] = losses.to(entry.dtype)
        self.history.append(entry)

    def snapshot(self) -> Tensor:
        return self.latents.to(self.dtype, copy=True)

    def result(self, snapshots: Mapping[int, Tensor]) -> RefineResult:
        count = len(self.latents)
        entries = torch.stack(self.history).permute(2, 0, 1).tolist() if self.history else [[]] * count
        evaluations = [[_Evaluation(*entry) for entry in sample if entry[0]] for sample in entries]
        latents = self.snapshot()
        moved = (latents != self.given).flatten(1).any(dim=1).tolist() if self.history else [False] * count
        trace = RefineTrace(
            losses=tuple(tuple(entry.loss for entry in sample) for sample in evaluations),
            iterations=tuple(sum(int(entry.shifts) for entry in sample) for sample in evaluations),
            failures=tuple(_failure(sample, has_moved) for sample, has_moved in zip(evaluations, moved, strict=True)),
            seconds=time.perf_counter() - self.began,
        )
        return RefineResult(latents, trace, snapshots)


class _Evaluation(NamedTuple):
    """One sample at one iteration; flags are 0 or 1."""

    active: float
    shifts: float
    finite_loss: float
    finite_gradient: float
    finite_latents: float
    loss: float


def _failure(evaluations: Sequence[_Evaluation], moved: bool) -> str | None:
    for iteration, entry in enumerate(evaluations):
        if not entry.finite_loss:
            return f"the loss is {entry.loss} at iteration {iteration}"
        if not entry.finite_gradient:
            return f"the gradient is not finite at iteration {iteration}"
        if not entry.finite_latents:
            return f"the shifted latents are not finite at iteration {iteration}"
    shifted = [entry for entry in evaluations if entry.shifts]
    if not moved and any(entry.loss for entry in shifted):
        return (
            f"no shift moved the latents, at a loss of {shifted[0].loss:.3g}: its gradient is 0, or too small for "
            "their precision"
        )
    return None


def _finite(tensor: Tensor) -> Tensor:
    return tensor.isfinite().flatten(1).all(dim=1)
