"""IterRef and GSNg on losses whose minimisation is known: torch's own optimisers on one sample at a time."""

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keystep.core.config import GSNg, IterRef
from keystep.core.refine import LossFn, guidance_shift, iterative_refinement, step_size_at

STEPS = 50
TARGETS = torch.tensor([0.0, 1.0, -2.0, 5.0, 3.0])
SCALES = torch.tensor([1.0, 0.1, 2.0, 0.5, 0.01])


def latents_of(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, 3, 4, generator=torch.Generator().manual_seed(seed))


def bowl(latents: Tensor, rows: Sequence[int]) -> Tensor:
    """A quadratic with a centre and a steepness of each sample's own, plus a quartic."""
    index = list(rows)
    distance = latents - TARGETS[index].reshape(-1, 1, 1, 1)
    return SCALES[index] * ((distance**2).mean(dim=(1, 2, 3)) + 0.1 * (distance**4).mean(dim=(1, 2, 3)))


class Recorder:
    """A loss that remembers which samples it was asked for."""

    def __init__(self, loss_fn: LossFn = bowl):
        self.loss_fn = loss_fn
        self.calls: list[list[int]] = []

    def __call__(self, latents: Tensor, rows: Sequence[int]) -> Tensor:
        assert len(latents) == len(rows)
        self.calls.append(list(rows))
        return self.loss_fn(latents, rows)


def refine(loss_fn: LossFn, latents: Tensor, *, step_index: int = 3, snapshots: Sequence[int] = (), **options):
    chosen = IterRef(step_index=step_index, **options)
    return iterative_refinement(loss_fn, latents, chosen, num_steps=STEPS, step_index=step_index, snapshots=snapshots)


OPTIMIZERS = {
    "gd": lambda weights, rate: torch.optim.SGD(weights, lr=rate),
    "momentum": lambda weights, rate: torch.optim.SGD(weights, lr=rate, momentum=0.9),
    "adam": lambda weights, rate: torch.optim.Adam(weights, lr=rate),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("threshold", [None, 1.2])
def test_each_sample_moves_as_torchs_optimiser_moves_it_alone(optimizer: str, threshold: float | None) -> None:
    start, iterations, rate = latents_of(5), 12, 0.3
    loss_fn = Recorder()
    result = refine(loss_fn, start, iterations=iterations, step_size=rate, optimizer=optimizer, threshold=threshold)
    for sample in range(5):
        weight = start[sample : sample + 1].clone().requires_grad_(True)
        stepper = OPTIMIZERS[optimizer]([weight], rate)
        losses, shifts = [], 0
        for _ in range(iterations):
            loss = bowl(weight, [sample])[0]
            losses.append(loss.item())
            if threshold is not None and loss <= threshold:
                break
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            shifts += 1
        torch.testing.assert_close(result.latents[sample], weight[0].detach(), atol=1e-5, rtol=1e-5)
        assert result.trace.losses[sample] == pytest.approx(losses, rel=1e-4)
        assert result.trace.iterations[sample] == shifts
        asked = sum(sample in call for call in loss_fn.calls)
        assert asked == len(losses), "a sample that stopped is not evaluated again"
    assert result.trace.failures == (None,) * 5
    assert result.trace.seconds > 0
    if threshold is not None:
        assert len(set(result.trace.iterations)) > 2, "the samples are meant to stop at different times"


def test_the_latents_given_are_not_changed() -> None:
    start = latents_of(3)
    copy = start.clone()
    result = refine(bowl, start, iterations=3, step_size=0.1)
    assert torch.equal(start, copy)
    assert not torch.equal(result.latents, copy)
    assert not result.latents.requires_grad


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_one_run_yields_what_shorter_runs_would(optimizer: str, threshold: float | None) -> None:
    start, options = latents_of(5), dict(step_size=0.3, optimizer=optimizer, threshold=threshold)
    counts = [0, 1, 4, 9, 20]
    long = refine(bowl, start, iterations=20, snapshots=counts, **options)
    assert sorted(long.snapshots) == counts
    assert torch.equal(long.snapshots[0], start)
    for count in counts[1:]:
        assert torch.equal(refine(bowl, start, iterations=count, **options).latents, long.snapshots[count])


def test_snapshots_after_every_sample_stopped_are_the_last_latents() -> None:
    result = refine(bowl, latents_of(2), iterations=20, threshold=1e6, snapshots=[0, 5, 20])
    assert result.trace.iterations == (0, 0)
    assert all(torch.equal(latents, result.latents) for latents in result.snapshots.values())
    assert sorted(result.snapshots) == [0, 5, 20]


def test_a_snapshot_that_will_not_come_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"0\.\.10 \(iterations\), got \[11\]"):
        refine(bowl, latents_of(1), iterations=10, snapshots=[5, 11])


def test_step_sizes_follow_the_schedule() -> None:
    # sqrt of the line from 1 to 0.25 over 4 steps: 1, 0.75, 0.5, 0.25.
    expected = [20 * value**0.5 for value in (1.0, 0.75, 0.5, 0.25)]
    assert [step_size_at(20.0, (1.0, 0.25), 4, index) for index in range(4)] == pytest.approx(expected)
    start = latents_of(1)
    shift = start - refine(bowl, start, iterations=1, step_size=2.0, schedule=(1.0, 0.0), step_index=48).latents
    full = start - refine(bowl, start, iterations=1, step_size=2.0, schedule=(1.0, 0.0), step_index=0).latents
    torch.testing.assert_close(shift, full * (1 / 49) ** 0.5, atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match=r"0\.\.3, got 4"):
        step_size_at(20.0, (1.0, 1.0), 4, 4)


@pytest.mark.parametrize("threshold", [None, 1e-9])
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_sample_that_breaks_is_reported_and_the_others_go_on(broken: str, threshold: float | None) -> None:
    start, iterations, calls = latents_of(4), 6, []

    def breaks_at_the_fourth_call(latents: Tensor, rows: Sequence[int]) -> Tensor:
        losses = bowl(latents, rows)
        calls.append(rows)
        if len(calls) < 4 or 2 not in rows:
            return losses
        place = list(rows).index(2)
        if broken == "loss":
            return losses.index_fill(0, torch.tensor(place), torch.nan)
        # The root of 0 is 0 and its slope infinite.
        return losses.index_add(0, torch.tensor(place), (latents[place] * 0).sum().sqrt()[None])

    result = refine(breaks_at_the_fourth_call, start, iterations=iterations, step_size=0.1, threshold=threshold)
    reason = {"loss": "the loss is nan", "gradient": "the gradient is not finite"}[broken]
    assert result.trace.failures == (None, None, f"{reason} at iteration 3", None)
    assert result.trace.iterations == (iterations, iterations, 3, iterations)
    good = [0, 1, 3]
    whole = refine(bowl, start, iterations=iterations, step_size=0.1, snapshots=[3])
    assert torch.equal(result.latents[good], whole.latents[good])
    assert torch.equal(result.latents[2], whole.snapshots[3][2]), "frozen at its last finite latents"


@pytest.mark.parametrize("threshold", [None, 1e-9])
def test_a_shift_out_of_range_is_not_made(threshold: float | None) -> None:
    start, slopes = latents_of(3), torch.tensor([1e-5, 1e36, 1e-5])

    def steep(latents: Tensor, rows: Sequence[int]) -> Tensor:
        return (slopes[list(rows)].reshape(-1, 1, 1, 1) * latents).abs().sum(dim=(1, 2, 3))

    result = refine(steep, start, iterations=3, step_size=1e4, threshold=threshold)
    assert result.trace.failures == (None, "the shifted latents are not finite at iteration 0", None)
    assert result.trace.iterations == (3, 0, 3)
    assert torch.equal(result.latents[1], start[1])
    assert result.latents.isfinite().all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_saturated_loss_moves_nothing(optimizer: str) -> None:
    start = latents_of(2)

    def saturated(latents: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.relu(latents.mean(dim=(1, 2, 3)) - 100)

    def constant(latents: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.zeros(len(rows))

    for loss_fn in (saturated, constant):
        result = refine(loss_fn, start, iterations=3, optimizer=optimizer)
        assert torch.equal(result.latents, start)
        assert result.trace.failures == (None, None)
        assert result.trace.losses == ((0.0,) * 3,) * 2


def test_out_of_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    start = latents_of(5)

    def greedy(latents: Tensor, rows: Sequence[int]) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("2.00 GiB more than there is")
        return bowl(latents, rows)

    loss_fn = Recorder(greedy)
    with caplog.at_level(logging.WARNING):
        result = refine(loss_fn, start, iterations=3, step_size=0.1, optimizer="adam")
    torch.testing.assert_close(
        result.latents, refine(bowl, start, iterations=3, step_size=0.1, optimizer="adam").latents
    )
    assert result.trace.iterations == (3,) * 5
    sizes = [len(call) for call in loss_fn.calls]
    assert sizes == [5, 3, 2, 2, 1, *[2, 2, 1] * 2], "what did not fit is not tried again"
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 5 samples: going on with 3 at a time",
        "out of memory with 3 samples: going on with 2 at a time",
    ]


def test_one_sample_that_does_not_fit_is_an_error() -> None:
    def greedy(latents: Tensor, rows: Sequence[int]) -> Tensor:
        raise torch.OutOfMemoryError("no room at all")

    with pytest.raises(torch.OutOfMemoryError, match="no room at all"):
        refine(greedy, latents_of(2), iterations=3)


def test_a_loss_function_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one loss a sample, \(3,\), got \(\)"):
        refine(lambda latents, rows: bowl(latents, rows).sum(), latents_of(3), iterations=1)


def test_half_precision_latents_are_refined_in_float32() -> None:
    start = latents_of(2).to(torch.bfloat16)
    seen = []

    def loss_fn(latents: Tensor, rows: Sequence[int]) -> Tensor:
        seen.append(latents.dtype)
        return bowl(latents, rows)

    # Shifts below the resolution of bfloat16 (2 ** -8 relative) have to add up.
    result = refine(loss_fn, start, iterations=40, step_size=2e-3)
    assert set(seen) == {torch.float32}
    assert result.latents.dtype == torch.bfloat16
    wide = refine(bowl, start.float(), iterations=40, step_size=2e-3)
    assert torch.equal(result.latents, wide.latents.to(torch.bfloat16))


@torch.no_grad()
def test_it_works_inside_no_grad_as_pipelines_call_it() -> None:
    assert not torch.equal(refine(bowl, latents_of(1), iterations=1).latents, latents_of(1))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), keep=st.integers(1, 5), threshold=st.sampled_from([None, 0.4, 1.0]))
def test_any_batch_in_any_order_gives_each_sample_the_same(order, keep, threshold) -> None:
    start, rows = latents_of(5), list(order)[:keep]
    options = dict(iterations=6, step_size=0.3, optimizer="momentum", threshold=threshold)
    whole = refine(bowl, start, **options)

    def permuted(latents: Tensor, asked: Sequence[int]) -> Tensor:
        return bowl(latents, [rows[row] for row in asked])

    part = refine(permuted, start[rows], **options)
    torch.testing.assert_close(part.latents, whole.latents[rows], atol=1e-6, rtol=1e-6)
    assert part.trace.iterations == tuple(whole.trace.iterations[row] for row in rows)


def test_guidance_shifts_once_inside_its_range_alone() -> None:
    start = latents_of(2)
    once = refine(bowl, start, iterations=1, step_size=0.5, step_index=10).latents
    for chosen, inside in [
        (GSNg(step_size=0.5), range(25)),
        (GSNg(step_size=0.5, start=10, stop=12), range(10, 12)),
        (GSNg(step_size=0.5, stop=STEPS), range(STEPS)),
    ]:
        for step_index in (0, 9, 10, 11, 12, 24, 25, 49):
            loss_fn = Recorder()
            result = guidance_shift(loss_fn, start, chosen, num_steps=STEPS, step_index=step_index)
            shifted = step_index in inside
            assert torch.equal(result.latents, once if shifted else start)
            assert len(loss_fn.calls) == int(shifted)
            assert result.trace.iterations == (int(shifted),) * 2
            assert len(result.trace.losses[0]) == int(shifted)
    with pytest.raises(ValueError, match="got 50"):
        guidance_shift(bowl, start, GSNg(), num_steps=STEPS, step_index=STEPS)
