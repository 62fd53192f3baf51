"""Whatever is stored and however images are batched, they are those made from noise in one go, at the cost stated."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from keystep.core.config import GSNg, LossWeights, Refinement
from keystep.core.generation import load_pipeline
from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.tiam import score_detections
from keystep.search.images.evaluator import Evaluator
from keystep.search.replaying.replay_costs import Reuse
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Instance, make_parts
from tests.search.evaluator_cases import (
    STEPS,
    counted_evaluations,
    latents_of,
    plain_latents,
    refined,
    small_spec,
    validation,
)

TOLERANCE = 1e-4  # in float32, where a batch of another size rounds otherwise
EXACT = 1e-9  # in float64: refinement at noisy steps multiplies roundings, and in float32 there are 1e-6 to begin with
GUIDED = 2.0 * STEPS  # a whole run without refinement: two branches a step


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    return Evaluator(small_spec(tmp_path))


def denoiser_of(evaluator: Evaluator) -> torch.nn.Module:
    return evaluator.sampler.backbone.denoiser


ON = GSNg()
SETTINGS: dict[str, Refinement | None] = {
    "unrefined": None,
    "iterref": refined(2, 4),
    "fewer iterations": refined(2, 2),
    "fewest iterations": refined(2, 1),
    "later": refined(3, 2),
    "at the first step": refined(0, 2),
    "gsng": Refinement(gsng=ON),
    "gsng and iterref": refined(2, 4, ON),
    "gsng and fewer iterations": refined(2, 2, ON),
    "gsng after the branch": refined(1, 2, GSNg(start=3, stop=5)),
    "gsng of other weights": Refinement(weights=LossWeights(cn=1.0, iou=0.0), gsng=ON),
    "gsng from 1": refined(3, 2, GSNg(start=1, stop=3, step_size=5.0)),
    "momentum": refined(2, 4, optimizer="momentum"),
    "momentum, fewer": refined(2, 2, optimizer="momentum"),
}


@pytest.fixture
def exact_evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.setattr("keystep.search.images.evaluator.pipeline_of", lambda model: (_double_pipeline(), "in float64"))
    return Evaluator(small_spec(tmp_path))


@cache
def _double_pipeline() -> Any:
    return load_pipeline("keystep/shapes-sd", torch_dtype=torch.float64)


@pytest.mark.parametrize("order", ["largest first", pytest.param("smallest first", marks=pytest.mark.slow)])
def test_images_do_not_depend_on_what_is_stored(exact_evaluator: Evaluator, tmp_path: Path, order: str) -> None:
    """Settings one after the other over one store, in batches of changing composition."""
    instances = validation(small_spec(tmp_path)).instances[1:3]
    names = list(SETTINGS)
    if order == "smallest first":
        names.reverse()
    for name in names:
        first = latents_of(exact_evaluator, SETTINGS[name], instances[1:])
        latents = latents_of(exact_evaluator, SETTINGS[name], instances)
        for row, instance in enumerate(instances):
            alone = _plain(exact_evaluator, name, instance)
            assert (latents[row] - alone[0]).abs().max() < EXACT, (name, instance)
        assert (first[0] - latents[1]).abs().max() < EXACT, name


def test_nor_in_single_precision(evaluator: Evaluator, tmp_path: Path) -> None:
    instances = validation(small_spec(tmp_path)).instances[1:3]
    for name in ("unrefined", "fewer iterations", "iterref", "gsng and iterref"):
        first = latents_of(evaluator, SETTINGS[name], instances[1:])
        latents = latents_of(evaluator, SETTINGS[name], instances)
        assert (latents[0] - plain_latents(evaluator, SETTINGS[name], instances[0])[0]).abs().max() < TOLERANCE, name
        assert (first[0] - latents[1]).abs().max() < TOLERANCE, name


_known: dict[tuple[str, int], torch.Tensor] = {}


def _plain(evaluator: Evaluator, name: str, instance: Instance) -> torch.Tensor:
    key = name, instance.number
    if key not in _known:
        _known[key] = plain_latents(evaluator, SETTINGS[name], instance)
    return _known[key]


def test_settings_differ() -> None:
    """Else the test before this one would show little."""
    latents = [kept for (_, number), kept in _known.items() if number == 1]
    assert len(latents) == len(SETTINGS)
    for place, left in enumerate(latents):
        assert all((left - right).abs().max() > 1e4 * EXACT for right in latents[:place])


def test_outcomes_are_those_of_the_plain_way(evaluator: Evaluator, tmp_path: Path) -> None:
    part = validation(small_spec(tmp_path))
    setting = refined(2, 2)
    evaluator.evaluate(None, part.instances)
    outcomes = evaluator.evaluate(setting, part.instances)
    assert list(outcomes) == [instance.number for instance in part.instances]
    for instance in part.instances:
        image = evaluator.sampler.backbone.decode(plain_latents(evaluator, setting, instance))
        score = score_detections(evaluator.detector.detections(image)[0], instance.prompt, evaluator.settings)
        outcome = outcomes[instance.number]
        assert outcome.found == tuple(score.found[0]) and outcome.bound == tuple(score.bound[0])
        assert outcome.tiam == float(all(outcome.bound)) and outcome.entities == instance.prompt.entities
        assert outcome.failure is None and outcome.seconds > 0


# name, setting, evaluations spent an image, and from noise; one after the other over one store of the small space,
# whose refined steps are 1, 2 and 3, and whose iterations are 1, 2 and 4.
COSTS: list[tuple[str, Refinement | None, float, float]] = [
    ("all of it, for the first time", refined(2, 2), 2 * STEPS + 2 * 2, GUIDED + 4),
    ("the baseline from step 2", None, 2 * (STEPS - 2), GUIDED),
    ("two more iterations, then the rest", refined(2, 4), 2 * 2 + 2 * (STEPS - 2), GUIDED + 8),
    ("one iteration is stored", refined(2, 1), 2 * (STEPS - 2), GUIDED + 2),
    ("the prefix up to 3 is stored", refined(3, 4), 4 * 2 + 2 * (STEPS - 3), GUIDED + 8),
    ("its snapshots are too", refined(3, 2), 2 * (STEPS - 3), GUIDED + 4),
    ("other shifts, from the prefix", refined(3, 2, step_size=9.0), 2 * 2 + 2 * (STEPS - 3), GUIDED + 4),
    ("momentum", refined(3, 2, optimizer="momentum"), 2 * 2 + 2 * (STEPS - 3), GUIDED + 4),
    ("cannot go on after 2", refined(3, 4, optimizer="momentum"), 4 * 2 + 2 * (STEPS - 3), GUIDED + 8),
    ("guidance from step 0", refined(2, 4, ON), 2 * 2 * 2 + 4 * 2 + 4 + 3 * 2, GUIDED + 3 * 2 + 8),
    ("shares its own prefix", refined(2, 2, ON), 4 + 3 * 2, GUIDED + 3 * 2 + 4),
    ("alone, from step 2", Refinement(gsng=ON), 4 + 3 * 2, GUIDED + 3 * 2),
    ("its stored step 3", refined(3, 1, ON), 2 + 2 * 3, GUIDED + 3 * 2 + 2),
    ("other guidance", refined(3, 1, GSNg(step_size=9.0)), 2 * 3 + 3 * 2 + 2 + 2 * 3, GUIDED + 3 * 2 + 2),
    ("later guidance", refined(3, 1, GSNg(start=2, stop=3)), 4 + 2 + 2 * 3, GUIDED + 2 + 2),
    ("other weights", Refinement(weights=LossWeights(iou=0.0), gsng=ON), 3 * 4 + 3 * 2, GUIDED + 3 * 2),
]


def test_evaluations_are_counted_truly(evaluator: Evaluator, tmp_path: Path) -> None:
    instances = validation(small_spec(tmp_path)).instances[2:4]
    for name, setting, spent, alone in COSTS:
        with counted_evaluations(denoiser_of(evaluator)) as counted:
            outcomes = evaluator.evaluate(setting, instances)
        assert [outcome.evaluations for outcome in outcomes.values()] == [spent] * 2, name
        assert [outcome.evaluations_alone for outcome in outcomes.values()] == [alone] * 2, name
        assert counted == [spent * 2], name
        with counted_evaluations(denoiser_of(evaluator)) as counted:
            plain_latents(evaluator, setting, instances[0])
        assert counted == [alone], name


def test_less_is_kept_of_the_held_out_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three settings make its images: the unrefined one leaves some of the prefix, others the point they branch at."""
    monkeypatch.setattr("keystep.search.images.stops.MOST_HELD_OUT", 2)
    monkeypatch.setattr("keystep.search.images.evaluator.pipeline_of", lambda model: (_double_pipeline(), "in float64"))
    spec = small_spec(tmp_path, space={"steps": [1, 2, 3, 4]})
    evaluator, instances = Evaluator(spec), make_parts(spec)[1].instances[:2]
    reuse = Reuse(Space(spec, evaluator.timesteps), spec.sampler)
    settings = (
        ("unrefined", None, 2 * STEPS, 2),  # steps 1 and 3 are kept
        ("from step 1 on", refined(2, 4), 2 * (STEPS - 1) + 2 * 4, 3),  # before step 2, after 1 and 2 iterations
        ("its runner-up", refined(2, 2), 2 * (STEPS - 2), 0),
        ("a prefix of its own, at its end", refined(4, 1, ON), 4 * 2 + 3 * 2 + 2 + 2 * 2, 2),
        ("from there on", refined(4, 1, ON, step_size=9.0), 2 + 2 * 2, 1),
    )
    stored = 0
    for name, setting, spent, kept in settings:
        with counted_evaluations(denoiser_of(evaluator)) as counted:
            evaluator.evaluate(setting, instances)
        assert counted == [2 * spent], name
        assert reuse.spend(setting, instances[0]) == spent, name
        stored += kept
        assert len(list((tmp_path / "latents").rglob("*.safetensors"))) == 2 * stored == 2 * reuse.num_stored, name
        alone = plain_latents(evaluator, setting, instances[0])
        assert (latents_of(evaluator, setting, instances)[0] - alone[0]).abs().max() < EXACT, name


def test_iterations_that_no_other_trial_goes_on_from_are_not_kept(tmp_path: Path) -> None:
    """Of 18 settings on 6 paths one is tried; of the same 18, two are one for every three paths."""
    for trials, kept in ((1, 0), (2, 2)):
        spec = small_spec(tmp_path / str(trials), search={"trials": trials})
        evaluator, (instance, *_) = Evaluator(spec), validation(spec).instances
        reuse = Reuse(Space(spec, evaluator.timesteps), spec.sampler)
        evaluator.evaluate(refined(3, 4), [instance])
        assert reuse.spend(refined(3, 4), instance) == 2 * STEPS + 2 * 4
        points = list((tmp_path / str(trials) / "latents").rglob("*.safetensors"))
        assert len(points) == reuse.num_stored == 3 + kept, "before steps 1, 2 and 3, and after 1 and 2 iterations"
        spent = 2 * (STEPS - 3) + (2 if kept else 2 * 3)  # to go on from 2 iterations, or from the step's start
        assert evaluator.evaluate(refined(3, 3), [instance])[instance.number].evaluations == spent


def test_what_is_known_is_not_computed(evaluator: Evaluator, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    instances = validation(spec).instances[:3]
    with counted_evaluations(denoiser_of(evaluator)) as counted:
        some = evaluator.evaluate(None, instances[:2])
        assert evaluator.computed == {0, 1} and counted == [2 * GUIDED]
        everything = evaluator.evaluate(None, instances)
        assert evaluator.computed == {2} and counted == [3 * GUIDED]
        assert {number: everything[number] for number in (0, 1)} == some
        another = Evaluator(spec)
        assert another.evaluate(None, instances) == everything
        assert another.computed == frozenset() and counted == [3 * GUIDED]
        evaluator.evaluate(Refinement(), instances)
        assert evaluator.computed == frozenset(), "a refinement that does nothing is none"


def test_an_image_in_two_sets_is_made_once(evaluator: Evaluator) -> None:
    prompt = Prompt("a circle and a star", (Entity("circle"), Entity("star")))
    twice = [Instance(0, "one", prompt, 3), Instance(1, "other", prompt, 3)]
    with counted_evaluations(denoiser_of(evaluator)) as counted:
        outcomes = evaluator.evaluate(None, twice)
    assert counted == [GUIDED] and outcomes[0] == outcomes[1]


@pytest.mark.parametrize("iterations", [(4, 2, 1), (1, 2, 4)])
def test_thresholds_are_counted_truly(exact_evaluator: Evaluator, tmp_path: Path, iterations: tuple[int, ...]) -> None:
    """Samples that stop early: what is spent is what runs, and from noise what a plain run would take."""
    instances = validation(small_spec(tmp_path)).instances[1:4]
    threshold = _stops_after_two(exact_evaluator, instances)
    for count in iterations:
        setting = refined(2, count, threshold=threshold)
        with counted_evaluations(denoiser_of(exact_evaluator)) as counted:
            outcomes = exact_evaluator.evaluate(setting, instances)
        assert counted == [sum(outcome.evaluations for outcome in outcomes.values())]
        latents = latents_of(exact_evaluator, setting, instances)
        for row, instance in enumerate(instances):
            with counted_evaluations(denoiser_of(exact_evaluator)) as counted:
                alone = plain_latents(exact_evaluator, setting, instance)
            assert counted == [outcomes[instance.number].evaluations_alone]
            assert (latents[row] - alone[0]).abs().max() < EXACT


def _stops_after_two(evaluator: Evaluator, instances: Sequence[Instance]) -> float:
    """A loss that the sample whose loss falls most has passed after two iterations."""
    rows = []
    for instance in instances:
        start, conditioning = (
            evaluator.sampler.start([instance.seed]),
            evaluator.sampler.backbone.encode([instance.prompt]),
        )
        run = evaluator.sampler.advance(start, conditioning, until=3, refinement=refined(2, 4))
        rows.append(run.traces[0].trace.losses[0])
    falling = max(rows, key=lambda losses: losses[1] - losses[2])
    assert falling[1] > falling[2]
    return (falling[1] + falling[2]) / 2


def test_latents_that_are_gone_are_computed_again(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    evaluator, (instance, *_) = Evaluator(spec), validation(spec).instances
    before = latents_of(evaluator, refined(3, 4), [instance])
    points = sorted((tmp_path / "latents").rglob("*.safetensors"))
    assert len(points) == 3 + 2, "before steps 1, 2 and 3, after 1 and 2 iterations"
    for seed in range(4):
        for point in random.Random(seed).sample(points, 3):
            point.unlink(missing_ok=True)
        assert (latents_of(evaluator, refined(3, 4), [instance]) - before).abs().max() < TOLERANCE
    for point in points:
        point.unlink(missing_ok=True)
    latents_of(evaluator, refined(3, 4), [instance])
    assert sorted((tmp_path / "latents").rglob("*.safetensors")) == points


def test_the_same_text_with_other_entities_is_refined_otherwise(evaluator: Evaluator) -> None:
    text = "a red circle and a blue star"
    both = Prompt(text, (Entity("circle", "red"), Entity("star", "blue")))
    instances = [
        Instance(0, "a", both, 3),
        Instance(1, "a", Prompt(text, (Entity("star"), Entity("circle", "red"))), 3),
        Instance(2, "a", Prompt(text, (Entity("star", "blue"),)), 3),
    ]
    setting, made = refined(3, 1, ON), []
    for instance in instances:
        outcome = evaluator.evaluate(setting, [instance])[instance.number]
        assert evaluator.computed and outcome.entities == instance.prompt.entities
        made.append(latents_of(evaluator, setting, [instance]))
        assert (made[-1] - plain_latents(evaluator, setting, instance)).abs().max() < TOLERANCE
    assert (made[0] - made[2]).abs().max() > 10 * TOLERANCE


def test_images_are_those_that_were_judged(evaluator: Evaluator, tmp_path: Path) -> None:
    instances = validation(small_spec(tmp_path)).instances[:4]
    outcomes = evaluator.evaluate(refined(2, 2), instances)
    images = evaluator.images(refined(2, 2), instances)
    detected = evaluator.detector.detections(images)
    for instance, detections in zip(instances, detected, strict=True):
        score = score_detections(detections, instance.prompt, evaluator.settings)
        assert outcomes[instance.number].bound == tuple(score.bound[0])


def test_a_failed_refinement_is_told_by_every_setting_that_meets_it(evaluator: Evaluator, tmp_path: Path) -> None:
    instance = validation(small_spec(tmp_path)).instances[0]
    for count in (4, 2, 4):
        setting = refined(2, count)
        assert setting.iterref is not None
        beyond = setting.iterref.model_copy(update={"step_size": 1e39})  # more than a spec may ask for
        setting = setting.model_copy(update={"iterref": beyond})
        outcome = evaluator.evaluate(setting, [instance])[0]
        assert outcome.failure == "iterref at step 2: the shifted latents are not finite at iteration 0"
        assert outcome.evaluations_alone == GUIDED + 2 * count
