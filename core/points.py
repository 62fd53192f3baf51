"""A point of a denoising trajectory as a plain value, tensors and JSON: any process can go on from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FORMAT = 1

StateValue = None | bool | int | float | str | Tensor | tuple["StateValue", ...]


@dataclass(frozen=True, eq=False)
class Point:
    """Where a batch of B samples stands before step `step_index` (0 is the noisiest).

    Everything that the rest of the trajectory depends on is in here, beside the model, the sampler's settings
    and the prompt: the latents, what a multistep scheduler remembers, and each sample's noise stream.

    Attributes:
        latents: (B, C, h, w), in the model's dtype.
        step_index: the next step to run, a position in `scheduler.timesteps`; their number is the end.
        noise_streams: (B, S) uint8, `torch.Generator.get_state()` of each sample's CPU generator.
        schedule: identifies the schedule that the point belongs to (`Sampler.schedule`); points of different
            schedules do not mix.
        scheduler_state: the scheduler's memory by attribute name: None, numbers, tensors of B rows, tuples
            of these.
        iterref_done: iterative refinement of this very step is already in the latents (a snapshot of it).
    """

    latents: Tensor
    step_index: int
    noise_streams: Tensor
    schedule: str
    scheduler_state: Mapping[str, StateValue] = field(default_factory=dict)
    iterref_done: bool = False

    def __post_init__(self) -> None:
        rows = self.latents.shape[0]
        if self.noise_streams.shape[0] != rows:
            raise ValueError(f"{rows} latents need {rows} noise streams, got {self.noise_streams.shape[0]}")
        for name, value in self.scheduler_state.items():
            for tensor in _tensors(value):
                if tensor.shape[:1] != (rows,):
                    shape = tuple(tensor.shape)
                    raise ValueError(f"scheduler state {name!r} must have {rows} rows, got shape {shape}")

    def __len__(self) -> int:
        return self.latents.shape[0]

    def select(self, rows: Sequence[int] | Tensor) -> "Point":
        """The samples at `rows` (indices, any order, repeats allowed) as a point of their own.

        Raises:
            ValueError: no rows.
        """
        index = torch.as_tensor(rows, dtype=torch.long, device=self.latents.device)
        if index.ndim != 1 or len(index) == 0:
            raise ValueError(f"rows must be a non-empty list of indices, got {rows!r}")
        return self._rebuilt(lambda tensor: tensor[index.to(tensor.device)])

    def to(self, device: torch.device | str) -> "Point":
        """The same point with its latents and scheduler state on `device` (noise streams stay on the CPU)."""
        moved = self._rebuilt(lambda tensor: tensor.to(device))
        return moved._with(noise_streams=self.noise_streams)

    def after_iterref(self, latents: Tensor) -> "Point":
        """The same place with iterative refinement of its step done, which gave `latents` (B, C, h, w)."""
        return self._with(latents=latents, iterref_done=True)

    @staticmethod
    def cat(points: Sequence["Point"]) -> "Point":
        """One batch of all samples of `points`, in order.

        Raises:
            ValueError: the points are at different steps or of different schedules.
        """
        if not points:
            raise ValueError("cat needs at least one point, got none")
        first = points[0]
        for point in points[1:]:
            for name in ("step_index", "schedule", "iterref_done"):
                if getattr(point, name) != getattr(first, name):
                    raise ValueError(
                        f"points can be batched only at the same place: {name} is {getattr(first, name)!r} "
                        f"and {getattr(point, name)!r}"
                    )
        return first._with(
            latents=torch.cat([point.latents for point in points]),
            noise_streams=torch.cat([point.noise_streams for point in points]),
            scheduler_state={
                name: _cat([point.scheduler_state[name] for point in points]) for name in first.scheduler_state
            },
        )

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and string metadata for a safetensors file; `from_tensors` is the exact inverse."""
        tensors = {"latents": self.latents, "noise_streams": self.noise_streams}
        state = {name: _flatten(value, f"state.{name}", tensors) for name, value in self.scheduler_state.items()}
        plain = {
            "format": FORMAT,
            "step_index": self.step_index,
            "schedule": self.schedule,
            "iterref_done": self.iterref_done,
            "scheduler_state": state,
        }
        return tensors, {"point": json.dumps(plain, sort_keys=True)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> "Point":
        """A point from what `to_tensors` gave.

        Raises:
            ValueError: the metadata are missing, of another format, or no point's.
        """
        try:
            plain = json.loads(metadata["point"])
            if plain["format"] != FORMAT:
                raise ValueError(f"the point has format {plain['format']}, this version reads {FORMAT}")
            return cls(
                latents=tensors["latents"],
                step_index=plain["step_index"],
                noise_streams=tensors["noise_streams"],
                schedule=plain["schedule"],
                scheduler_state={k: _unflatten(v, tensors) for k, v in plain["scheduler_state"].items()},
                iterref_done=plain["iterref_done"],
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"not a stored point: {problem!r}") from problem

    def _rebuilt(self, change: Callable[[Tensor], Tensor]) -> "Point":
        return self._with(
            latents=change(self.latents),
            noise_streams=change(self.noise_streams),
            scheduler_state={name: _map(value, change) for name, value in self.scheduler_state.items()},
        )

    def _with(self, **changes: Any) -> "Point":
        return Point(**(self.__dict__ | changes))


def _tensors(value: StateValue) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, tuple) else []


def _map(value: StateValue, change: Callable[[Tensor], Tensor]) -> StateValue:
    if isinstance(value, Tensor):
        return change(value)
    return tuple(_map(item, change) for item in value) if isinstance(value, tuple) else value


def _cat(values: Sequence[StateValue]) -> StateValue:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([value for value in values if isinstance(value, Tensor)])
    if isinstance(first, tuple):
        return tuple(_cat(items) for items in zip(*values, strict=True))  # type: ignore[arg-type]
    assert all(value == first for value in values), "points of one schedule and step agree in every number"
    return first


def _flatten(value: StateValue, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, tuple):
        return [_flatten(item, f"{name}.{position}", tensors) for position, item in enumerate(value)]
    return value


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> StateValue:
    if isinstance(value, dict):
        return tensors[value["tensor"]]
    return tuple(_unflatten(item, tensors) for item in value) if isinstance(value, list) else value
