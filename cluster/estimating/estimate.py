"""What a search will cost: denoiser evaluations from the spec alone; with a pace also GPU-hours and wall time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from keystep.cluster.estimating.limits import Limit, limit_of
from keystep.cluster.estimating.simulation import Pace, Simulated, simulate
from keystep.cluster.estimating.workload import Workload, expected_work, plain_work, settings_of
from keystep.core.config import Refinement
from keystep.search.replaying.replay_costs import evaluations_alone
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Part, make_parts
from keystep.search.spec.schedule import latent_shape_of, timesteps_of
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked

GPUS = (1, 8, 64, 512)
NOISE_STREAM_BYTES = 5_200  # state of a torch.Generator and a file's header, beside the latents of a stored point
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
LATENT_CHANNELS, LATENT_PIXELS = 16, 8  # of SD3, if the model cannot be asked: more than others have


class ReplayedTrial(Protocol):
    """What is needed of `keystep.search.replaying.replay.ReplayedTrial`."""

    @property
    def num_instances_run(self) -> int: ...
    @property
    def num_instances_total(self) -> int: ...


@dataclass(frozen=True)
class StepCost:
    """Images refined at one step, in denoiser evaluations.

    Attributes:
        step_index, timestep: where; no timestep if the model could not be asked.
        alone: of an image from noise, by the number of iterations; guidance off.
        saved: of these, the steps before that all settings without guidance share.
        saved_guided: with guidance, the steps before it begins; None if the space has none.
    """

    step_index: int
    timestep: float | None
    alone: dict[int, float]
    saved: float
    saved_guided: float | None


@dataclass(frozen=True)
class Row:
    """A search on so many GPUs.

    Attributes:
        gpus: rented for the whole time.
        plain, expected: the plain way, and with sharing and pruning.
        limit: what holds the expected one up.
    """

    gpus: int
    plain: Simulated
    expected: Simulated
    limit: Limit

    def gpu_hours(self, way: Simulated) -> float:
        """Of the GPUs that are rented, busy or not."""
        return self.gpus * way.seconds / 3600


@dataclass(frozen=True)
class Estimate:
    """What a search will cost.

    Attributes:
        spec: the search.
        parts: validation and held-out part.
        settings: how many are tried.
        steps: each step of the space.
        plain, expected: what is to be computed.
        stopped: share of the replayed trials that were stopped early.
        point_bytes: of one stored point.
        pace: how fast things go; None: not known, and then there are no rows.
        rows: by number of GPUs.
        notes: what was taken for granted because it could not be found out.
    """

    spec: SearchSpec
    parts: tuple[Part, Part]
    settings: int
    steps: tuple[StepCost, ...]
    plain: Workload
    expected: Workload
    stopped: float
    point_bytes: int
    pace: Pace | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> float:
        """Share of the plain way's evaluations that is not needed."""
        return 1 - self.expected.evaluations / self.plain.evaluations

    @property
    def stored_gigabytes(self) -> float:
        """Latents in the store at the end, if none were dropped."""
        return self.expected.stored_points * self.point_bytes / 1e9


def estimate(
    spec: SearchSpec,
    *,
    pace: Pace | None = None,
    gpus: Sequence[int] = GPUS,
    replayed: Sequence[ReplayedTrial] = (),
    seeds_a_prompt: int = 1,
    storage_bytes_per_second: float | None = None,
) -> Estimate:
    """Count what a search computes, and with a pace how long it takes on each number of GPUs.

    Args:
        pace: how fast things go; its `point` is set from `storage_bytes_per_second`, if that is given.
        gpus: numbers of them, each at least 1.
        replayed: trials of a replay with the spec's pruner; a trial that was stopped there after some prompts is
            stopped here after as many. None: no trial is stopped.
        seeds_a_prompt: images of each prompt in the replay.

    Raises:
        ValueError: prompt sets that cannot be read, a step outside the schedule, no GPU.
    """
    if not gpus or min(gpus) < 1:
        raise ValueError(f"--gpus is a list of numbers of at least 1, such as 1,8,64, got {list(gpus)}")
    spec = spec.anchored()
    timesteps, (channels, height, width), notes = _of_model(spec)
    space = Space(spec, timesteps or [float(-step) for step in range(spec.sampler.num_inference_steps)])
    parts, settings = make_parts(spec), settings_of(spec, space)
    stopped_after = [
        trial.num_instances_run // seeds_a_prompt if trial.num_instances_run < trial.num_instances_total else None
        for trial in replayed
    ] or [None]
    plain = plain_work(spec, space, parts, settings)
    expected = expected_work(spec, space, parts, settings, stopped_after)
    point_bytes = channels * height * width * BYTES[spec.model.dtype] + NOISE_STREAM_BYTES
    if pace is not None and storage_bytes_per_second is not None:
        pace = Pace(**{**vars(pace), "point": point_bytes / storage_bytes_per_second})
    return Estimate(
        spec=spec,
        parts=parts,
        settings=len(settings),
        steps=tuple(_step_cost(spec, space, step, timesteps) for step in space.steps),
        plain=plain,
        expected=expected,
        stopped=sum(prompts is not None for prompts in stopped_after) / len(stopped_after),
        point_bytes=point_bytes,
        pace=pace,
        rows=() if pace is None else tuple(_row(spec, plain, expected, pace, count) for count in gpus),
        notes=notes,
    )


def workers_on(spec: SearchSpec, gpus: int) -> int:
    """Workers that so many GPUs hold; of a spec without GPUs each worker counts as one."""
    return max(1, int(gpus / spec.resources.gpus + 1e-9)) if spec.resources.gpus else gpus


def _row(spec: SearchSpec, plain: Workload, expected: Workload, pace: Pace, gpus: int) -> Row:
    workers, lookahead = workers_on(spec, gpus), spec.search.lookahead
    return Row(
        gpus,
        simulate(plain, pace, workers, lookahead),
        simulate(expected, pace, workers, lookahead),
        limit_of(expected, pace, workers, lookahead),
    )


def _step_cost(spec: SearchSpec, space: Space, step: int, timesteps: Sequence[float] | None) -> StepCost:
    params = {name: values[0] if isinstance(values, tuple) else values.low for name, values in space.varied.items()}
    one = space.refinement(params | {"step_index": step} if "step_index" in params else params)
    assert one.iterref is not None
    alone = {}
    for count in space.iteration_counts:
        changed = Refinement(weights=one.weights, iterref=one.iterref.model_copy(update={"iterations": count}))
        alone[count] = evaluations_alone(changed, spec.sampler)
    each = evaluations_alone(None, spec.sampler) / spec.sampler.num_inference_steps
    starts = [choice.start for choice in space.gsng.values() if choice is not None]
    return StepCost(
        step,
        None if timesteps is None else timesteps[step],
        alone,
        saved=step * each,
        saved_guided=min(step, min(starts)) * each if starts else None,
    )


def _of_model(spec: SearchSpec) -> tuple[tuple[float, ...] | None, tuple[int, int, int], tuple[str, ...]]:
    """Timesteps and shape of the latents; without the model's files what can be said without, and a note."""
    try:
        return timesteps_of(spec), latent_shape_of(spec), ()
    except ValueError as error:
        if spec.space.timesteps is not None or not str(error).startswith("model.id"):
            raise
        reason = masked(str(error)).removeprefix("model.id: ").partition(". Give ")[0]
    note = (
        f"{masked(spec.model.id)} could not be read here ({reason}), so these are taken for granted: one model step "
        f"for each of sampler.num_inference_steps, latents of {LATENT_CHANNELS} channels"
    )
    shape = (LATENT_CHANNELS, spec.sampler.height // LATENT_PIXELS, spec.sampler.width // LATENT_PIXELS)
    return None, shape, (note,)
