"""The loop against the stock pipelines, stopped, stored, regrouped and resumed at every step."""

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load, save

from keystep.core.backbones import backbone_for
from keystep.core.config import GSNg, IterRef, LossWeights, Refinement
from keystep.core.losses import combined_loss
from keystep.core.points import Point
from keystep.core.sampling import Sampler
from keystep.core.schedulers import dynamic_shift
from tests.core.sampling_cases import (
    CASES,
    GUIDANCE,
    PROMPTS,
    SEEDS,
    STEPS,
    largest_difference,
    pipe_for,
    sampler_config,
    stock_latents,
    use_scheduler,
)

# Of latents whose spread is about 1 (up to 15 for schedulers that start from large sigmas).
AS_STOCK = 1e-4
# Another batch size rounds otherwise, and the random SDXL makes 1e-4 out of 1e-7 in one step. A memory or a noise
# stream that is wrong shows as a difference of about 1.
REGROUPED = 1e-3


def sampler_for(model: str, name: str, **changes) -> Sampler:
    return Sampler(backbone_for(pipe_for(model)), sampler_config(name, **changes))


def stored_and_loaded(point: Point) -> Point:
    """Through bytes of a safetensors file, as another process would read it."""
    tensors, metadata = point.to_tensors()
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    return Point.from_tensors(load(content), metadata)


@pytest.mark.parametrize(("model", "name"), CASES)
def test_equals_the_stock_pipeline_and_resumes_anywhere(model: str, name: str) -> None:
    sampler = sampler_for(model, name)
    conditioning = sampler.backbone.encode(PROMPTS)
    start = sampler.start(SEEDS)
    points = [start, *(record.point for record in sampler.steps(start, conditioning))]
    assert [point.step_index for point in points] == list(range(sampler.num_steps + 1))
    whole = points[-1].latents
    assert largest_difference(whole, stock_latents(pipe_for(model), sampler.config)) <= AS_STOCK

    # One step from every stored point, regrouped, gives the next point with all its memory, and so on to the end.
    for point, following in pairwise(points):
        resumed = stored_and_loaded(point)
        for rows in ([2, 0], [1]):
            until = point.step_index + 1
            stepped = sampler.advance(resumed.select(rows), conditioning.select(rows), until).point
            assert_same_place(stepped, following.select(rows))
    middle = stored_and_loaded(points[sampler.num_steps // 2])
    assert torch.equal(sampler.advance(middle, conditioning).point.latents, whole)


def assert_same_place(left: Point, right: Point) -> None:
    """Equal in every number and noise stream; tensors up to the rounding of another batch size."""
    tensors, metadata = left.to_tensors()
    expected, expected_metadata = right.to_tensors()
    assert metadata == expected_metadata and tensors.keys() == expected.keys()
    assert torch.equal(tensors.pop("noise_streams"), expected["noise_streams"])
    for name, tensor in tensors.items():
        assert largest_difference(tensor, expected[name]) <= REGROUPED * max(1.0, expected[name].abs().max().item()), (
            name
        )


@pytest.mark.parametrize(("model", "name"), [("sd", "ddpm"), ("sdxl", "euler-ancestral"), ("sd3", "flow")])
def test_without_guidance_and_with_another_size(model: str, name: str) -> None:
    sampler = sampler_for(model, name, guidance_scale=1.0, height=128, width=64, num_inference_steps=3)
    end = sampler.advance(sampler.start(SEEDS), sampler.backbone.encode(PROMPTS)).point
    assert largest_difference(end.latents, stock_latents(pipe_for(model), sampler.config)) <= AS_STOCK


@pytest.mark.parametrize("name", ["ddpm", "pndm-plms", "dpm++2m"])
def test_samples_begun_apart_go_on_together(name: str) -> None:
    sampler = sampler_for("sd", name)
    conditioning = sampler.backbone.encode(PROMPTS)
    whole = sampler.advance(sampler.start(SEEDS), conditioning).point
    parts = [
        sampler.advance(sampler.start([seed]), conditioning.select([row]), until=3).point
        for row, seed in enumerate(SEEDS)
    ]
    order = [2, 0, 1]
    together = Point.cat([parts[row] for row in order])
    assert len(together) == 3 and together.step_index == 3
    end = sampler.advance(together, conditioning.select(order)).point
    assert largest_difference(end.latents, whole.latents[order]) <= AS_STOCK
    assert torch.equal(end.noise_streams, whole.noise_streams[order])


def test_stopping_at_once_changes_nothing_and_points_are_never_changed() -> None:
    sampler = sampler_for("sd", "pndm-runge-kutta")
    conditioning = sampler.backbone.encode(PROMPTS)
    point = sampler.advance(sampler.start(SEEDS), conditioning, until=2).point
    assert sampler.advance(point, conditioning, until=2).point.step_index == 2
    before = {name: tensor.clone() for name, tensor in point.to_tensors()[0].items()}
    assert {"state.cur_sample", "state.cur_model_output", "state.ets.0"} <= before.keys()
    sampler.advance(point, conditioning)
    for name, tensor in point.to_tensors()[0].items():
        assert torch.equal(tensor, before[name]), name


def test_two_runs_of_one_sampler_can_be_interleaved() -> None:
    sampler = sampler_for("sd", "dpm++2m")
    conditioning = sampler.backbone.encode(PROMPTS[:1])
    runs = [sampler.steps(sampler.start([seed]), conditioning) for seed in (0, 1)]
    ends = [left_right for left_right in zip(*runs, strict=True)][-1]
    for seed, record in enumerate(ends):
        alone = sampler.advance(sampler.start([seed]), conditioning).point
        assert torch.equal(record.point.latents, alone.latents)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "euler-ancestral"])
@pytest.mark.parametrize("model", ["sd", "sd2"])
def test_the_denoised_estimate_is_the_schedulers_own(model: str, name: str) -> None:
    sampler = sampler_for(model, name)
    pipe = sampler.backbone.pipe
    conditioning = sampler.backbone.encode(PROMPTS)
    use_scheduler(pipe, sampler.config)
    pipe.scheduler.set_timesteps(STEPS)
    for record in sampler.steps(sampler.start(SEEDS), conditioning):
        timestep = pipe.scheduler.timesteps[record.step_index]
        assert record.timestep == float(timestep)
        model_input = pipe.scheduler.scale_model_input(record.latents, timestep)
        with torch.no_grad():
            noise_pred = sampler.backbone.noise_pred(model_input, timestep, conditioning, GUIDANCE)
        own = pipe.scheduler.step(noise_pred, timestep, record.latents).pred_original_sample
        assert largest_difference(record.denoised, own) <= 1e-5 * own.abs().max().item()


@pytest.mark.parametrize(("model", "name"), [("sd", "dpm++2m"), ("sd2", "dpm++2m")])
def test_the_denoised_estimate_of_dpm_solver_is_what_it_remembers(model: str, name: str) -> None:
    sampler = sampler_for(model, name)
    for record in sampler.steps(sampler.start(SEEDS), sampler.backbone.encode(PROMPTS)):
        remembered = record.point.scheduler_state["model_outputs"][-1]  # type: ignore[index]
        assert largest_difference(record.denoised, remembered) <= 1e-5 * remembered.abs().max().item()


def test_flow_matching_ends_at_its_last_estimate() -> None:
    """The last sigma is 0, so the last step lands on x0."""
    sampler = sampler_for("sd3", "flow")
    *_, record = sampler.steps(sampler.start(SEEDS), sampler.backbone.encode(PROMPTS))
    assert largest_difference(record.denoised, record.point.latents) <= 1e-5


def test_noise_is_drawn_in_the_models_dtype() -> None:
    from tests.tiny_models import tiny_sd

    pipe = tiny_sd(0).to(torch.bfloat16)
    sampler = Sampler(backbone_for(pipe), sampler_config("ddim"))
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    drawn = pipe.prepare_latents(3, 4, 64, 96, torch.bfloat16, "cpu", generators)
    assert torch.equal(sampler.start(SEEDS).latents, drawn)


def test_dynamic_shift_by_hand() -> None:
    config = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.16}
    assert dynamic_shift(config, 256) == pytest.approx(0.5)
    assert dynamic_shift(config, 4096) == pytest.approx(1.16)
    assert dynamic_shift(config, 2176) == pytest.approx(0.83)


@pytest.mark.parametrize(("model", "name"), [("sd", "euler"), ("sdxl", "ddim"), ("sd3", "flow")])
def test_refinement_comes_in_the_order_of_the_method(model: str, name: str) -> None:
    """IterRef, then GSNg, at step 2, with gradients taken by hand; the rest as without."""
    sampler = sampler_for(model, name)
    backbone = sampler.backbone
    conditioning = backbone.encode(PROMPTS)
    weights = LossWeights(cn=1.0, iou=0.5)
    refinement = Refinement(
        weights=weights,
        iterref=IterRef(step_index=2, iterations=2, step_size=30.0),
        gsng=GSNg(start=2, stop=3, step_size=10.0),
    )
    pipe = pipe_for(model)
    use_scheduler(pipe, sampler.config)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    before = sampler.advance(sampler.start(SEEDS), conditioning, until=2).point
    timestep = scheduler.timesteps[2]

    latents = before.latents
    for step_size in (30.0, 30.0, 10.0):
        latents = latents.detach().requires_grad_()
        scaled = latents / (scheduler.sigmas[2] ** 2 + 1) ** 0.5 if name == "euler" else latents
        maps = backbone.entity_maps(scaled, timestep, conditioning)
        (gradient,) = torch.autograd.grad(combined_loss(maps.maps, maps.mask, weights).sum(), latents)
        latents = (latents - step_size * gradient).detach()

    advanced = sampler.advance(sampler.start(SEEDS), conditioning, refinement=refinement)
    records = {r.step_index: r for r in sampler.steps(before, conditioning, refinement=refinement)}
    moved = largest_difference(records[2].latents, before.latents)
    assert moved > 1e-4
    assert largest_difference(records[2].latents, latents) <= 1e-3 * moved
    assert [(trace.step_index, trace.kind) for trace in advanced.traces] == [(2, "iterref"), (2, "gsng")]
    assert largest_difference(records[STEPS - 1].point.latents, advanced.point.latents) <= AS_STOCK
    unrefined = sampler.advance(before, conditioning).point
    assert largest_difference(unrefined.latents, advanced.point.latents) > 1e-4


def test_one_run_also_gives_the_points_at_fewer_iterations() -> None:
    sampler = sampler_for("sd", "ddpm")
    conditioning = sampler.backbone.encode(PROMPTS)
    gsng = GSNg(start=0, stop=4)
    point = sampler.advance(sampler.start(SEEDS), conditioning, 1, Refinement(gsng=gsng)).point

    def run(iterations: int, snapshots: tuple[int, ...] = ()):
        iterref = IterRef(step_index=1, iterations=iterations, step_size=30.0)
        refinement = Refinement(iterref=iterref, gsng=gsng)
        return refinement, sampler.advance(point, conditioning, None, refinement, snapshots)

    refinement, six = run(6, (2, 4))
    assert sorted(six.snapshots) == [2, 4]
    for iterations, snapshot in six.snapshots.items():
        assert snapshot.step_index == 1 and snapshot.iterref_done
        _, directly = run(iterations)
        resumed = sampler.advance(stored_and_loaded(snapshot), conditioning, None, refinement)
        assert largest_difference(resumed.point.latents, directly.point.latents) <= AS_STOCK
        assert [(trace.step_index, trace.kind) for trace in resumed.traces] == [(i, "gsng") for i in (1, 2, 3)]
    ends = [six.point.latents, run(2)[1].point.latents]
    assert largest_difference(*ends) > 1e-4


def test_a_refined_sample_does_not_depend_on_its_batch() -> None:
    sampler = sampler_for("sd", "euler-ancestral")
    conditioning = sampler.backbone.encode(PROMPTS)
    refinement = Refinement(iterref=IterRef(step_index=1, iterations=3, step_size=20.0), gsng=GSNg())
    whole = sampler.advance(sampler.start(SEEDS), conditioning, refinement=refinement).point
    for row, seed in enumerate(SEEDS):
        alone = sampler.advance(sampler.start([seed]), conditioning.select([row]), refinement=refinement).point
        assert largest_difference(alone.latents, whole.latents[[row]]) <= AS_STOCK


def test_decodes_as_the_stock_pipeline() -> None:
    for model, name in (("sd", "ddim"), ("sdxl", "euler"), ("sd3", "flow")):
        sampler = sampler_for(model, name)
        end = sampler.advance(sampler.start(SEEDS), sampler.backbone.encode(PROMPTS)).point
        pipe = pipe_for(model)
        use_scheduler(pipe, sampler.config)
        stock = pipe(
            prompt=[prompt.text for prompt in PROMPTS],
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=64,
            width=96,
        ).images
        for ours, theirs in zip(sampler.decode(end), stock, strict=True):
            assert ours.size == theirs.size == (96, 64)
            extremes = [abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)]
            assert max(extremes) <= 1


def test_errors_say_what_to_do() -> None:
    sampler = sampler_for("sd", "ddim")
    conditioning = sampler.backbone.encode(PROMPTS)
    point = sampler.start(SEEDS)
    with pytest.raises(
        ValueError, match=r"'HeunDiscreteScheduler' cannot be .* choose one of DDPMScheduler, .*FlowMatch"
    ):
        sampler_for("sd", "ddim", scheduler="HeunDiscreteScheduler")
    with pytest.raises(ValueError, match="at least one seed"):
        sampler.start([])
    with pytest.raises(ValueError, match=r"until must be in 0\.\.5, got 7"):
        sampler.advance(point, conditioning, until=7)
    later = sampler.advance(point, conditioning, until=3).point
    with pytest.raises(ValueError, match=r"until must be in 3\.\.5, got 2"):
        sampler.steps(later, conditioning, until=2)
    with pytest.raises(ValueError, match="3 samples and 2 rows"):
        sampler.advance(point, conditioning.select([0, 1]))
    with pytest.raises(ValueError, match="belongs to schedule"):
        sampler_for("sd", "ddim", num_inference_steps=4).advance(point, conditioning)
    with pytest.raises(ValueError, match="this sampler's size needs"):
        sampler_for("sd", "ddim", height=64, width=64).advance(point, conditioning)
    with pytest.raises(ValueError, match="step_index is 6, and there are 5 steps"):
        sampler.advance(point, conditioning, refinement=Refinement(iterref=IterRef(step_index=6)))
    with pytest.raises(ValueError, match="finished point can be decoded: this one is before step 3 of 5"):
        sampler.decode(later)
    with pytest.raises(ValueError, match="step_index is 0 and 3"):
        Point.cat([point, later])
    with pytest.raises(ValueError, match="at least one point"):
        Point.cat([])
    with pytest.raises(ValueError, match="non-empty list of indices"):
        point.select([])


def test_identity_names_every_setting() -> None:
    identities = [
        sampler_for("sd", "ddim", **changes).identity
        for changes in (
            {},
            {"num_inference_steps": 7},
            {"guidance_scale": 2.0},
            {"height": 128},
            {"scheduler_config": {"steps_offset": 0}},
        )
    ]
    assert len({str(identity) for identity in identities}) == 5
    assert sampler_for("sd", "ddim").identity == identities[0]


@pytest.mark.parametrize("name", ["euler", "euler-ancestral"])
def test_a_start_refined_in_two_sittings_is_the_same(name: str) -> None:
    """Before step 0, where a scaled start is rounded as in a pipeline: once, whenever the iterations were made."""
    sampler = sampler_for("sd", name)
    conditioning = sampler.backbone.encode(PROMPTS)
    refinement = Refinement(iterref=IterRef(step_index=0, iterations=2, step_size=20.0))
    start = sampler.start(SEEDS)
    once = sampler.advance(start, conditioning, 2, refinement, snapshots=(2,))
    resumed = sampler.advance(stored_and_loaded(once.snapshots[2]), conditioning, 2, refinement)
    assert torch.equal(resumed.point.latents, once.point.latents)
    assert largest_difference(once.point.latents, sampler.advance(start, conditioning, 2).point.latents) > 1e-3
