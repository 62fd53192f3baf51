"""The settings of a refinement, and StepConfig: the one file a search exports and production loads."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field, JsonValue, field_validator, model_validator

from keystep.core.bounded_json import read_json
from keystep.core.evidence import Evidence
from keystep.core.frozen import FloatPair, FromList, FrozenModel, did_you_mean
from keystep.core.known_schedulers import MEMORY, scheduler_arguments, scheduler_names
from keystep.core.plain_text import read_text
from keystep.core.schedule import check_num_steps, check_scheduler, check_timestep
from keystep.core.seals import NAME, SealBroken, open_seal, seal
from keystep.core.whole_files import write_whole

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
MAX_NUMBER = 1e12  # of weights and step sizes: beyond it sums in single precision are infinite
MAX_ITERATIONS = 10_000
MAX_SIDE = 8192  # pixels
MAX_GUIDANCE = 1000.0
MAX_TOKENS = 4096
MAX_TRAIN_TIMESTEPS = 100_000


def _check_schedule(schedule: tuple[float, float]) -> tuple[float, float]:
    if min(schedule) < 0 or max(schedule) == 0:
        raise ValueError(f"schedule must be two numbers >= 0, not both 0, got {list(schedule)}")
    return schedule


class LossWeights(FrozenModel):
    """Weight of each loss of ``keystep.core.losses`` in the combined one, ``(cn * CN + iou * IoU) / 2``."""

    cn: float = Field(default=1.0, ge=0, le=MAX_NUMBER)
    iou: float = Field(default=1.0, ge=0, le=MAX_NUMBER)

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.cn == 0 and self.iou == 0:
            raise ValueError("cn and iou are both 0: nothing would be minimised, set one above 0")
        return self


class IterRef(FrozenModel):
    """Iterative refinement: many shifts of the latents at one step.

    Args:
        step_index: where, 0 being the noisiest step.
        iterations: shifts at most, at least 1.
        step_size: scale of a shift; at step index i it is ``step_size * sqrt(linspace(*schedule, N)[i])``.
        schedule: the two ends of that line.
        optimizer: plain gradient descent, the same with momentum, or Adam.
        threshold: a sample stops when its loss is at or below it; None runs all iterations.
    """

    step_index: int = Field(ge=0)
    iterations: int = Field(default=50, ge=1, le=MAX_ITERATIONS)
    step_size: float = Field(default=20.0, gt=0, le=MAX_NUMBER)
    schedule: FloatPair = (1.0, 1.0)
    optimizer: Literal["gd", "momentum", "adam"] = "gd"
    threshold: float | None = Field(default=None, ge=0)

    _schedule = field_validator("schedule")(_check_schedule)


class GSNg(FrozenModel):
    """Guidance: one shift of the latents at every step of a range.

    Args:
        start: first step index shifted.
        stop: the step index to stop before; None is the first half of sampling.
        step_size, schedule: as in `IterRef`.
    """

    start: int = Field(default=0, ge=0)
    stop: int | None = Field(default=None, ge=1)
    step_size: float = Field(default=20.0, gt=0, le=MAX_NUMBER)
    schedule: FloatPair = (1.0, 1.0)

    _schedule = field_validator("schedule")(_check_schedule)

    @model_validator(mode="after")
    def _some_step(self) -> Self:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop must be above start, got start {self.start} and stop {self.stop}")
        return self

    def step_range(self, num_steps: int) -> range:
        """The step indices shifted in a sampling of ``num_steps`` steps."""
        return range(self.start, num_steps // 2 if self.stop is None else min(self.stop, num_steps))


class AttentionChoice(FrozenModel):
    """Which attention maps the losses see. None leaves it to the rule of the backbone.

    Args:
        layers: names of attention modules, as the backbone lists them.
        resolution: (height, width) of the query grid of the layers taken.
    """

    layers: Annotated[tuple[str, ...] | None, FromList] = Field(default=None, min_length=1)
    resolution: Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None, FromList] = None


class Refinement(FrozenModel):
    """What a search varies. With neither IterRef nor GSNg, sampling is as it was."""

    weights: LossWeights = LossWeights()
    iterref: IterRef | None = None
    gsng: GSNg | None = None
    attention: AttentionChoice = AttentionChoice()

    @property
    def key_step(self) -> int:
        """The step index that names the setting: IterRef's, or, for GSNg alone, the first of its range.

        Raises:
            ValueError: a refinement that does nothing has no step.
        """
        if self.iterref is not None:
            return self.iterref.step_index
        if self.gsng is not None:
            return self.gsng.start
        raise ValueError("refinement has neither iterref nor gsng, so it has no step")

    def steps(self, num_steps: int) -> list[int]:
        """Every step index at which latents are refined in a sampling of ``num_steps`` steps, `key_step` first."""
        shifted = [] if self.gsng is None else list(self.gsng.step_range(num_steps))
        return list(dict.fromkeys([self.key_step, *shifted]))


class SamplerConfig(FrozenModel):
    """How images are sampled: what a step index means depends on all of it.

    Args:
        scheduler: name of a diffusers scheduler class.
        scheduler_config: its arguments, over those that the pipeline came with.
        num_inference_steps: sampling steps.
        guidance_scale: classifier-free guidance, ``uncond + g * (cond - uncond)``; 1.0 is off.
        height, width: of the image, pixels, multiples of 8.
        max_sequence_length: tokens of T5, for models that have it; None is the pipeline's own default.
    """

    scheduler: str
    scheduler_config: dict[str, JsonValue] = Field(default_factory=dict)
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=1, le=MAX_GUIDANCE)
    height: int = Field(ge=8, le=MAX_SIDE, multiple_of=8)
    width: int = Field(ge=8, le=MAX_SIDE, multiple_of=8)
    max_sequence_length: int | None = Field(default=None, ge=1, le=MAX_TOKENS)

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, name: str) -> str:
        if name not in scheduler_names():
            whole = f"{name}Scheduler"
            raise ValueError(
                f"{name!r} is no scheduler of diffusers {version('diffusers')}"
                f"{did_you_mean(whole if whole in MEMORY else name, list(MEMORY))} (choose one of {', '.join(MEMORY)})"
            )
        return name

    @model_validator(mode="after")
    def _known_arguments(self) -> Self:
        if self.scheduler_config:
            allowed = list(scheduler_arguments(self.scheduler))
            for name in self.scheduler_config:
                if name not in allowed:
                    raise ValueError(
                        f"scheduler_config: {self.scheduler} takes no {name!r}{did_you_mean(name, allowed)} "
                        f"(it takes {', '.join(allowed)})"
                    )
        trained = self.scheduler_config.get("num_train_timesteps", 1)
        if not isinstance(trained, int) or not 1 <= trained <= MAX_TRAIN_TIMESTEPS:
            raise ValueError(
                f"scheduler_config: num_train_timesteps must be in 1..{MAX_TRAIN_TIMESTEPS:,}, got {trained!r:.40}"
            )
        return self


class StepConfig(FrozenModel):
    """A refinement for one model and one sampler, with the evidence for it. JSON, no code.

    Args:
        model: id or path, as ``from_pretrained`` takes it.
        revision: of the model; None is the newest.
        variant: of the weight files, such as fp16; None is the files without one.
        family: of the model, as `keystep.core.families.family_of` names it; None if it is not known.
        dtype: of the weights.
        sampler: how to sample.
        refinement: what to do to the latents on the way.
        timestep: what the scheduler gives at ``refinement.key_step``; only GSNg alone may leave it out, and is then not
            checked against the schedule it was chosen on.
        evidence: what was measured; None if the setting was chosen by hand.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str = Field(min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    variant: str | None = Field(default=None, min_length=1)
    family: str | None = Field(default=None, min_length=1)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    sampler: SamplerConfig
    refinement: Refinement
    timestep: float | None = Field(default=None, ge=0)
    evidence: Evidence | None = None

    @model_validator(mode="before")
    @classmethod
    def _this_version(cls, data: Any) -> Any:
        version = data.get("schema_version", SCHEMA_VERSION) if isinstance(data, dict) else SCHEMA_VERSION
        if type(version) is not int:
            raise ValueError(f"schema_version must be the integer {SCHEMA_VERSION}, got {version!r}")
        if version != SCHEMA_VERSION:
            remedy = "update keystep" if version > SCHEMA_VERSION else "export it again with this keystep"
            raise ValueError(f"schema_version is {version} and this keystep reads {SCHEMA_VERSION}: {remedy}")
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        steps = self.sampler.num_inference_steps
        iterref, gsng = self.refinement.iterref, self.refinement.gsng
        if iterref is None and gsng is None:
            raise ValueError("refinement has neither iterref nor gsng: it would change nothing, set one")
        if iterref is not None and iterref.step_index >= steps:
            raise ValueError(
                f"refinement.iterref.step_index must be in 0..{steps - 1} "
                f"(sampler.num_inference_steps is {steps}), got {iterref.step_index}"
            )
        if iterref is not None and self.timestep is None:
            raise ValueError(
                "timestep must be given with refinement.iterref: it is what the scheduler gives at iterref.step_index"
            )
        if gsng is not None and (len(gsng.step_range(steps)) == 0 or (gsng.stop or 0) > steps):
            raise ValueError(
                f"refinement.gsng must name steps in 0..{steps - 1} (sampler.num_inference_steps is "
                f"{steps}), got start {gsng.start} and stop {gsng.stop}"
            )
        return self

    @property
    def torch_dtype(self) -> "torch.dtype":
        """``dtype`` as torch has it."""
        import torch

        return cast(torch.dtype, getattr(torch, self.dtype))

    def check_scheduler(self, scheduler: Any) -> None:
        """Refuse a scheduler of another class or with other arguments than ``sampler`` names, whatever its schedule.

        Raises:
            ValueError: says what is there and how to set the right one.
        """
        check_scheduler(scheduler, self.sampler.scheduler, self.sampler.scheduler_config)

    def check_schedule(self, scheduler: Any) -> None:
        """Refuse a scheduler on which the step index does not mean what it meant when it was chosen.

        Args:
            scheduler: the pipeline's, after ``set_timesteps``.

        Raises:
            ValueError: another class or arguments than ``sampler`` names, another number of steps, or another
                timestep at the step index.
        """
        self.check_scheduler(scheduler)
        check_num_steps(scheduler, self.sampler.num_inference_steps)
        if self.timestep is not None:
            check_timestep(scheduler, self.refinement.key_step, self.timestep)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of the file."""
        return cls.model_json_schema()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, whole or not at all, sealed with its checksum (the key `sha256`), and return its path."""
        return write_whole(path, seal(self.model_dump_json(indent=2) + "\n"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check the file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not JSON, was changed since it was saved, was written by another version, has unknown
                fields or impossible values; names every field at fault.
        """
        path = Path(path)
        try:
            plain = read_json(path)  # which tells limits, and keys that stand twice
        except ValueError as error:
            raise ValueError(f"{error}; export it again") from None
        if not isinstance(plain, dict):
            raise ValueError(f"{os.fspath(path)} is no StepConfig: it has no JSON object; export it again")
        try:
            data = open_seal(read_text(path).encode()).value
        except SealBroken as error:
            raise ValueError(
                f"{os.fspath(path)} is damaged: {error}. Export it again; if you changed it yourself, take its key "
                f"{NAME!r} out"
            ) from None
        return cls.from_plain(data, os.fspath(path))
