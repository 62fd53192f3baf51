"""Pruners by name: our own and every one of Optuna's, each told what it understands of a trial."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, NopPruner

from keystep.search.settings.paired_pruner import PairedPruner

Sees = Literal["outcomes", "curve"]


@dataclass(frozen=True)
class PruningTask:
    """What a pruner may need to know of the search.

    Attributes:
        rounds: N rounds of one prompt of each set, each prompt its instance numbers, in the common order.
        baseline: instance number to outcome of the unrefined model, all instances.
        block_sizes: instances of each block.
        alpha, min_prompts: of the search's settings.
        options: arguments the user gave the pruner.
    """

    rounds: Sequence[Sequence[Sequence[int]]]
    baseline: Mapping[int, float]
    block_sizes: Sequence[int]
    alpha: float
    min_prompts: int
    options: Mapping[str, Any]

    @property
    def num_instances(self) -> int:
        """Of all blocks."""
        return sum(self.block_sizes)


@dataclass(frozen=True)
class Pruning:
    """A pruner, and what is reported to it.

    Attributes:
        pruner: a new one: pruners of Optuna remember what they saw first.
        sees: "outcomes": each instance's outcome, at its number; what pairs by step needs that.
            "curve": the objective so far, at the number of each block's last instance; what takes a trial's
            last or best value for its quality needs that, of a single outcome of 0 or 1 it would learn nothing.
    """

    pruner: BasePruner
    sees: Sees


def _none(task: PruningTask) -> Pruning:
    return Pruning(NopPruner(), "outcomes")


def _paired(task: PruningTask) -> Pruning:
    pruner = PairedPruner(task.rounds, task.baseline, task.alpha, task.min_prompts)
    return Pruning(pruner, "outcomes")


# Optuna would find these out from the first complete trials, and prune none before; here they are known.
# The level of the search is that of the pruner's test, if it makes one.
_KNOWN: dict[str, Callable[[PruningTask], dict[str, Any]]] = {
    "HyperbandPruner": lambda task: {"min_resource": _first_step(task), "max_resource": task.num_instances},
    "SuccessiveHalvingPruner": lambda task: {"min_resource": _first_step(task)},
    "WilcoxonPruner": lambda task: {"p_threshold": task.alpha},
}


def _first_step(task: PruningTask) -> int:
    return max(1, task.block_sizes[0] - 1)


def _optuna(name: str, task: PruningTask) -> Pruning:
    options = _KNOWN[name](task) if name in _KNOWN else {}
    options |= task.options
    wrapped = options.get("wrapped_pruner")
    sees: Sees = "outcomes" if name == "WilcoxonPruner" else "curve"
    if isinstance(wrapped, str):
        if wrapped == "paired" or wrapped not in PRUNERS:
            raise ValueError(f"search.pruner_options.wrapped_pruner must be a pruner of Optuna, got {wrapped!r}")
        options["wrapped_pruner"] = PRUNERS[wrapped](replace(task, options={})).pruner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return Pruning(getattr(optuna.pruners, name)(**options), sees)
        except TypeError as error:
            raise ValueError(f"search.pruner {name}: {error}; give it in search.pruner_options") from None
        except ValueError as error:
            raise ValueError(f"search.pruner_options of {name}: {error}") from None


PRUNERS: dict[str, Callable[[PruningTask], Pruning]] = {
    "none": _none,
    "paired": _paired,
    **{
        name: partial(_optuna, name)
        for name in sorted(optuna.pruners.__all__)
        if name not in ("BasePruner", "NopPruner")
    },
}
"""Every pruner by the name that `search.pruner` takes. A new one is a new line."""
