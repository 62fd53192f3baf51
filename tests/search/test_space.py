"""Every suggestion stands for one refinement, and every step is on the schedule."""

import itertools

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from keystep.core.config import GSNg, IterRef, LossWeights, Refinement
from keystep.search.settings.space import Space, gsng_label
from tests.search.specs import small_spec

TIMESTEPS = [float(value) for value in range(951, 0, -50)]  # 951, 901, ..., 1: 20 of them


def space_of(**space: object) -> Space:
    return Space(small_spec(**{f"space__{key}": value for key, value in space.items()}), TIMESTEPS)


def test_one_choice_everywhere_is_one_setting():
    space = space_of(steps=[3])
    assert (space.size, space.varied, space.distributions(), list(space.grid())) == (1, {}, {}, [{}])
    assert space.refinement({}) == Refinement(iterref=IterRef(step_index=3))
    assert space.params(Refinement(iterref=IterRef(step_index=3))) == {}


def test_a_setting_holds_all_that_the_spec_says():
    space = space_of(
        gsng=[False, True, {"start": 2, "stop": 9, "step_size": 5}],
        cn=[0.5, 1.0],
        iou=[2.0],
        iterations=[5, 10],
        step_size=[10, 20],
        optimizer=["gd", "adam"],
        schedule=[1.0, 0.5],
        threshold=0.2,
        attention={"layers": None, "resolution": [8, 8]},
    )
    params = {
        "step_index": 4,
        "gsng": "start=2 stop=9 step_size=5.0",
        "cn": 0.5,
        "iterations": 10,
        "step_size": 20.0,
        "optimizer": "adam",
    }
    refinement = space.refinement(params)
    assert refinement.weights == LossWeights(cn=0.5, iou=2.0)
    assert refinement.gsng == GSNg(start=2, stop=9, step_size=5.0)
    assert refinement.iterref == IterRef(
        step_index=4, iterations=10, step_size=20.0, schedule=(1.0, 0.5), optimizer="adam", threshold=0.2
    )
    assert refinement.attention.resolution == (8, 8)
    assert space.params(refinement) == params
    assert space.size == 20 * 3 * 2 * 2 * 2 * 2
    assert space.iteration_counts == (5, 10)


def test_the_grid_is_every_setting_once_and_steps_turn_fastest():
    space = space_of(gsng=[False, True], iou=[0, 1], iterations=[20, 5])
    grid = list(space.grid())
    assert [params["step_index"] for params in grid] == list(range(20)) * 8
    assert len({space.refinement(params).model_dump_json() for params in grid}) == len(grid) == space.size == 160
    assert grid == list(space.grid())
    # The first pass over the steps is one curve: all else at its first choice.
    first = {"gsng": "off", "iou": 0.0, "iterations": 20}
    assert all(params == {"step_index": step, **first} for step, params in enumerate(grid[:20]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_optuna_draws_comes_back_from_the_refinement(seed: int):
    space = space_of(gsng=[False, {"stop": 3}], cn={"low": 0.1, "high": 10, "log": True}, iterations=[5, 10])
    assert space.size is None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask(space.distributions())
    assert space.params(space.refinement(trial.params)) == trial.params


def test_steps_are_numbers_where_they_are_evenly_spaced():
    assert space_of().distributions() == {"step_index": IntDistribution(0, 19)}
    assert space_of(steps=[9, 1, 5]).distributions() == {"step_index": IntDistribution(1, 9, step=4)}
    assert space_of(steps=[0, 1, 5]).distributions() == {"step_index": CategoricalDistribution((0, 1, 5))}
    ranges = space_of(steps=[0], cn={"low": 0.5, "high": 2, "log": True}, optimizer=["gd", "adam"]).distributions()
    assert ranges == {"cn": FloatDistribution(0.5, 2.0, log=True), "optimizer": CategoricalDistribution(("gd", "adam"))}


def test_timesteps_are_steps_by_another_name():
    assert space_of(timesteps=[951, 701, 1]).steps == (0, 5, 19)
    # Those of flow matching are no whole numbers; the nearest one is meant.
    flow = Space(small_spec(space__timesteps=[1000, 993]), [1000.0, 992.6, 983.2])
    assert flow.steps == (0, 1)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"steps": [3, 20]}, r"space\.steps\.1: step index 20 is outside .* has steps 0\.\.19"),
        (
            {"timesteps": [951, 820]},
            r"space\.timesteps: 820 is not in the schedule; the nearest is 801, at step index 3",
        ),
        ({"timesteps": [951, 951.2]}, r"space\.timesteps: two of them are the same step"),
        ({"gsng": [False, {"start": 12}]}, r"space\.gsng\.1: start 12 and stop None name no steps"),
        ({"gsng": [{"stop": 21}]}, r"space\.gsng\.0: start 0 and stop 21 .* outside the schedule"),
    ],
)
def test_what_is_outside_the_schedule_is_refused_with_its_key(space: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        space_of(**space)
    assert "sampler.num_inference_steps" in str(error.value) or "leave one out" in str(error.value)


def test_params_and_settings_of_elsewhere_are_refused():
    space = space_of(iterations=[5, 10], cn={"low": 0.5, "high": 1})
    good = {"step_index": 3, "cn": 0.7, "iterations": 5}
    for wrong, message in [
        ({**good, "iterations": 7}, r"iterations 7 is not in the space \(5, 10\)"),
        ({**good, "cn": 1.5}, r"cn 1.5 is not in the space \(0.5 to 1.0\)"),
        ({"step_index": 3, "cn": 0.7}, "params are step_index, cn, iterations, got step_index, cn"),
        ({**good, "gsng": "off"}, "params are step_index, cn, iterations"),
    ]:
        with pytest.raises(ValueError, match=message):
            space.refinement(wrong)
    known = space.refinement(good)
    assert known.iterref is not None
    for update in (
        {"iterref": None},
        {"gsng": GSNg()},
        {"iterref": known.iterref.model_copy(update={"threshold": 0.5})},
        {"weights": LossWeights(cn=0.7, iou=0.5)},
    ):
        with pytest.raises(ValueError, match="not in the space"):
            space.params(known.model_copy(update=update))


def test_a_range_has_no_grid():
    with pytest.raises(ValueError, match=r"space\.step_size is a range, which has no grid"):
        next(space_of(step_size={"low": 1, "high": 2}).grid())


def test_guidance_alone_is_every_choice_of_it():
    space = space_of(gsng=[True, False, {"stop": 3}], cn=[0.2, 0.9, 3], iou={"low": 2, "high": 4})
    weights = LossWeights(cn=0.9, iou=2.0)
    assert space.guidance_alone() == (
        Refinement(weights=weights, gsng=GSNg()),
        Refinement(weights=weights, gsng=GSNg(stop=3)),
    )
    assert space_of().guidance_alone() == ()


def test_labels_of_guidance_differ_where_it_does():
    choices = [None, GSNg(), GSNg(start=1), GSNg(stop=1), GSNg(step_size=1.0), GSNg(schedule=(1.0, 0.5))]
    choices += [GSNg(start=1, stop=5)]
    assert [gsng_label(choice) for choice in choices[:4]] == ["off", "on", "start=1", "stop=1"]
    assert all(gsng_label(first) != gsng_label(second) for first, second in itertools.combinations(choices, 2))
