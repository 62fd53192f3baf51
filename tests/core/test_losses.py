"""Losses: by hand, by brute force, by finite differences, and the contract that each one keeps."""

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keystep.core.config import LossWeights
from keystep.core.losses import LOSSES, catastrophic_neglect, combined_loss, intersection_over_union

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)

A = [[0.2, 0.4], [0.1, 0.3]]
B = [[0.6, 0.1], [0.2, 0.1]]
C = [[0.0, 0.0], [0.5, 0.5]]


def random_maps(seed: int, batch: int = 3, entities: int = 3, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, entities, 4, 5, generator=generator, dtype=torch.float64).to(dtype)


def random_mask(seed: int, batch: int = 3, entities: int = 3):
    generator = torch.Generator().manual_seed(seed + 1)
    counts = torch.randint(1, entities + 1, (batch, 1), generator=generator)
    return torch.arange(entities) < counts


def neglect_by_loops(maps: list, mask: list) -> float:
    peaks = [max(max(row) for row in entity) for entity, real in zip(maps, mask, strict=True) if real]
    return max(max(0.0, 1.0 - peak) for peak in peaks)


def mixing_by_loops(maps: list, mask: list) -> float:
    flat = [[value for row in entity for value in row] for entity, real in zip(maps, mask, strict=True) if real]
    ratios = [
        sum(min(a, b) for a, b in zip(one, two, strict=True)) / (sum(one) + sum(two))
        for place, one in enumerate(flat)
        for two in flat[place + 1 :]
    ]
    return sum(ratios) / len(ratios) if ratios else 0.0


BY_LOOPS = {"cn": neglect_by_loops, "iou": mixing_by_loops}


def test_neglect_by_hand():
    # Peaks .4, .6, .5: the entity attended to least lacks .6, without it .4 or .5.
    maps = torch.tensor([[A, B, C], [C, B, A], [C, A, A]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    torch.testing.assert_close(catastrophic_neglect(maps, mask), torch.tensor([0.6, 0.5, 0.5]))


def test_mixing_by_hand():
    # Each map sums to 1. min(A, B) = .2 + .1 + .1 + .1, min(A, C) = .1 + .3, min(B, C) = .2 + .1.
    maps = torch.tensor([[A, B, C], [A, B, C], [C, B, A]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, False]])
    expected = torch.tensor([(0.25 + 0.2 + 0.15) / 3, 0.25, 0.15])
    torch.testing.assert_close(intersection_over_union(maps, mask), expected)


def test_mixing_is_half_for_equal_maps_and_zero_for_disjoint_ones():
    left, right = [[0.7, 0.0], [0.7, 0.0]], [[0.0, 0.7], [0.0, 0.7]]
    maps = torch.tensor([[left, left], [left, right]])
    loss = intersection_over_union(maps, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.tensor([0.5, 0.0]))


def test_one_entity_cannot_mix():
    loss = intersection_over_union(random_maps(0, entities=1), torch.ones(3, 1, dtype=torch.bool))
    assert loss.tolist() == [0, 0, 0]


def test_combined_by_hand():
    maps, mask = torch.tensor([[A, B]]), torch.ones(1, 2, dtype=torch.bool)
    # CN is .6 and IoU .25.
    for weights, expected in [((1, 1), 0.425), ((2, 0.4), 0.65), ((0, 1), 0.125), ((3, 0), 0.9)]:
        loss = combined_loss(maps, mask, LossWeights(cn=weights[0], iou=weights[1]))
        torch.testing.assert_close(loss, torch.tensor([expected]))


def test_every_weight_has_its_loss():
    assert set(LossWeights.model_fields) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), entities=st.integers(1, 4))
def test_equals_plain_loops(name: str, seed: int, entities: int):
    maps, mask = random_maps(seed, entities=entities, dtype=torch.float64), random_mask(seed, entities=entities)
    expected = [BY_LOOPS[name](*sample) for sample in zip(maps.tolist(), mask.tolist(), strict=True)]
    torch.testing.assert_close(LOSSES[name](maps, mask), torch.tensor(expected, dtype=torch.float64))


@every_loss
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(4)))
def test_permuting_the_batch_permutes_the_losses(loss, seed: int, order: list[int]):
    maps, mask = random_maps(seed, batch=4), random_mask(seed, batch=4)
    assert torch.equal(loss(maps, mask)[order], loss(maps[order], mask[order]))


@every_loss
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(3)))
def test_the_order_of_entities_does_not_matter(loss, seed: int, order: list[int]):
    maps, mask = random_maps(seed), random_mask(seed)
    torch.testing.assert_close(loss(maps, mask), loss(maps[:, order], mask[:, order]))


@every_loss
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    padding=st.integers(1, 3),
    filler=st.floats(width=32, allow_nan=True, allow_infinity=True),
)
def test_padding_entities_change_neither_loss_nor_gradient(loss, seed: int, padding: int, filler: float):
    maps, mask = random_maps(seed).requires_grad_(), random_mask(seed)
    padded = torch.cat([maps.detach(), torch.full((3, padding, 4, 5), filler)], dim=1).requires_grad_()
    padded_mask = torch.cat([mask, torch.zeros(3, padding, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(loss(padded, padded_mask), loss(maps, mask))
    (gradient,) = torch.autograd.grad(loss(maps, mask).sum(), maps)
    (padded_gradient,) = torch.autograd.grad(loss(padded, padded_mask).sum(), padded)
    torch.testing.assert_close(padded_gradient[:, :3], gradient)
    assert torch.all(padded_gradient[:, 3:] == 0)


@every_loss
def test_latents_of_a_batch_do_not_influence_one_another(loss):
    maps, mask = random_maps(7).requires_grad_(), torch.ones(3, 3, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(loss(maps, mask)[1], maps)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


@every_loss
@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences(loss, seed: int):
    maps, mask = random_maps(seed, dtype=torch.float64).requires_grad_(), random_mask(seed)
    assert torch.autograd.gradcheck(lambda leaf: loss(leaf, mask), maps)


def test_saturated_neglect_is_zero_and_has_a_zero_gradient():
    for peak in (1.0, 1.5):
        maps = torch.full((2, 2, 3, 3), 0.2)
        maps[:, :, 1, 1] = peak
        maps.requires_grad_()
        loss = catastrophic_neglect(maps, torch.ones(2, 2, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss.sum(), maps)
        assert loss.tolist() == [0, 0]
        assert torch.all(gradient == 0)


@every_loss
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_maps_have_a_finite_loss_and_gradient(loss, value: float):
    maps = torch.full((2, 3, 4, 4), value, requires_grad=True)
    result = loss(maps, torch.ones(2, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(result.sum(), maps)
    assert result.isfinite().all() and gradient.isfinite().all()


@every_loss
def test_a_sample_without_entities_has_no_loss(loss):
    maps = random_maps(1).requires_grad_()
    result = loss(maps, torch.tensor([[True, True, True], [False, False, False], [True, False, False]]))
    (gradient,) = torch.autograd.grad(result.sum(), maps)
    assert result[1] == 0
    assert gradient[1].abs().sum() == 0 and gradient.isfinite().all()


@every_loss
def test_a_batch_without_entities_has_no_loss(loss):
    assert loss(torch.zeros(2, 0, 4, 5), torch.zeros(2, 0, dtype=torch.bool)).tolist() == [0, 0]


@every_loss
@pytest.mark.parametrize(
    "given_dtype, expected",
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_computes_in_full_precision(loss, given_dtype: torch.dtype, expected: torch.dtype):
    maps, mask = random_maps(3, dtype=given_dtype), random_mask(3)
    assert loss(maps, mask).dtype == expected
    torch.testing.assert_close(loss(maps, mask), loss(maps.to(expected), mask), rtol=0, atol=0)


@every_loss
def test_never_waits_for_the_device(loss):
    # A meta tensor has no values: reading one back (.item(), a branch, a boolean index) raises.
    maps = torch.empty(3, 3, 4, 5, device="meta", requires_grad=True)
    result = loss(maps, torch.empty(3, 3, dtype=torch.bool, device="meta"))
    (gradient,) = torch.autograd.grad(result.sum(), maps)
    assert gradient.shape == maps.shape


@every_loss
def test_non_square_maps(loss):
    maps, mask = random_maps(5), random_mask(5)
    torch.testing.assert_close(loss(maps, mask), loss(maps.transpose(-1, -2), mask))


@every_loss
@pytest.mark.parametrize(
    "maps, mask",
    [
        (torch.zeros(2, 3, 4, 4), torch.ones(2, 1, dtype=torch.bool)),
        (torch.zeros(2, 3, 4, 4), torch.ones(3, dtype=torch.bool)),
        (torch.zeros(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)),
        (torch.zeros(2, 3, 4, 4), torch.ones(2, 3)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)),
    ],
)
def test_refuses_what_broadcasting_would_hide(loss, maps, mask):
    with pytest.raises(jaxtyping.TypeCheckError):
        loss(maps, mask)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"maps must be .* and mask"):
            loss(maps, mask)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
