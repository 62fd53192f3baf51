"""A resumable training loop: seeded batches, averaged weights, checkpoints, progress."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

LossFn = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    steps: optimiser steps in all; learning_rate: the highest; warmup: steps spent rising to it; cooldown: share of the
    steps, at the end, spent falling to 0 (in between it stays, so that a run can be resumed with more steps or fewer);
    decay: of the averaged weights, per step; save_every: seconds between checkpoints.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    cooldown: float = 0.35
    weight_decay: float = 0.01
    decay: float = 0.999
    clip_norm: float = 1.0
    save_every: float = 120.0

    def pace(self, step: int) -> float:
        """The learning rate at `step`, as a share of the highest."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / (self.cooldown * self.steps))


def train(
    model: nn.Module,
    loss_fn: LossFn,
    plan: Plan,
    folder: Path,
    *,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> nn.Module:
    """Minimise the sum of the losses that `loss_fn(step)` returns; go on from `folder` if it holds a checkpoint.

    `loss_fn` draws its batch from the step number alone, so that a resumed run sees what an unbroken one would have.
    Returns the averaged model in evaluation mode. Losses go to `folder`/losses.jsonl, one line in 50 steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(optimizers) or [
        torch.optim.AdamW(model.parameters(), plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99))
    ]
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in chosen]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(plan.decay), use_buffers=True)
    stateful = {"model": model, "average": average}
    stateful |= {f"optimizer{n}": optimizer for n, optimizer in enumerate(chosen)}
    checkpoint = folder / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, item in stateful.items():
            item.load_state_dict(saved[name])
        first = saved["step"]
        print(f"resuming {folder.name} at step {first}")
    model.train()
    started = last_saved = time.monotonic()
    for step in range(first, plan.steps):
        torch.manual_seed(step)
        losses = loss_fn(step)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
        for optimizer, rates in zip(chosen, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * plan.pace(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update_parameters(model)
        done, now = step + 1, time.monotonic()
        if done % 50 == 0 or done == plan.steps:
            _report(folder, done, plan.steps, losses, norm, (now - started) / (done - first))
        if now - last_saved > plan.save_every or done == plan.steps:
            state = {name: item.state_dict() for name, item in stateful.items()}
            torch.save({"step": done, **state}, checkpoint.with_suffix(".tmp"))
            os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
            last_saved = time.monotonic()
    return average.module.eval()


def _report(folder: Path, done: int, steps: int, losses: dict[str, Tensor], norm: Tensor, pace: float) -> None:
    values = {name: round(loss.item(), 5) for name, loss in losses.items()}
    with (folder / "losses.jsonl").open("a") as file:
        file.write(json.dumps({"step": done, **values, "grad_norm": round(norm.item(), 4)}) + "\n")
    shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    left = (steps - done) * pace
    print(f"{folder.name} step {done}/{steps}  {shown}  {pace:.3f} s/step  ETA {left / 60:.0f} min", flush=True)
