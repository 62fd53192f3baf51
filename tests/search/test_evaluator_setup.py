"""What an evaluator loads, names, refuses and writes, and how it gets by with little memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from keystep.core.prompts import Entity, Prompt
from keystep.search.images.evaluator import Evaluator
from keystep.search.images.outcomes import OutcomeStore
from keystep.search.spec.instances import Instance
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.work.evaluators import evaluator_for
from tests.search.evaluator_cases import STEPS, small_spec, validation


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    return Evaluator(small_spec(tmp_path))


def test_out_of_memory_halves_the_batch(evaluator: Evaluator, tmp_path: Path) -> None:
    instances = validation(small_spec(tmp_path)).instances[:5]
    denoiser = evaluator.sampler.backbone.denoiser

    def refuse(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if len(args[0]) > 4:  # two images
            raise torch.OutOfMemoryError("no memory")

    handle = denoiser.register_forward_pre_hook(refuse)
    try:
        outcomes = evaluator.evaluate(None, instances)
        images = Evaluator(small_spec(tmp_path)).images(None, instances)
    finally:
        handle.remove()
    assert len(images) == 5
    assert [outcome.evaluations for outcome in outcomes.values()] == [2.0 * STEPS] * 5


def test_evaluation_ids_tell_apart_what_gives_other_outcomes(tmp_path: Path) -> None:
    def evaluation_id(**changes: Any) -> str:
        return Evaluator(small_spec(tmp_path, **changes)).evaluation_id

    ids = [
        evaluation_id(),
        evaluation_id(sampler={"guidance_scale": 2.0}),
        evaluation_id(sampler={"num_inference_steps": 7}),
        evaluation_id(sampler={"scheduler": "DDIMScheduler"}),
        evaluation_id(detector={"confidence": 0.5}),
        evaluation_id(detector={"superposed": "drop_both"}),
        evaluation_id(detector={"palette": "extended"}),
    ]
    assert len(set(ids)) == len(ids)
    same = evaluation_id(space={"steps": "all"}, resources={"batch_size": 9}, prompts={"seeds": [5]}, name="other")
    assert same == ids[0]


def test_unknown_nouns_and_colours_are_refused(evaluator: Evaluator) -> None:
    cat = Prompt("a cat", (Entity("cat"),))
    with pytest.raises(ValueError, match="'cat'"):
        evaluator.evaluate(None, [Instance(0, "a", cat, 0)])
    mauve = Prompt("a mauve circle", (Entity("circle", "mauve"),))
    with pytest.raises(ValueError, match="mauve"):
        evaluator.evaluate(None, [Instance(0, "a", mauve, 0)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"id": "/nowhere/at/all"}},
            "model.id: '/nowhere/at/all' is neither a folder that is here nor a hub id",
        ),
        ({"model": {"device": "cuda:9"}}, "model.device: device 'cuda:9' cannot be used here"),
        ({"space": {"steps": [6]}}, r"space.steps.0: step index 6 is outside the schedule"),
        ({"storage": {"path": "/proc/keystep"}}, "storage.path: cannot write to /proc/keystep"),
        ({"storage": {"latents_path": "/proc/keystep"}}, "the latent store cannot write to /proc/keystep"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(small_spec(tmp_path, **changes))


def test_models_are_loaded_once_a_process(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    one, other = Evaluator(spec), Evaluator(small_spec(tmp_path / "other", sampler={"guidance_scale": 3.0}))
    assert one.sampler.backbone.pipe is other.sampler.backbone.pipe and one.detector is other.detector
    again = SearchSpec.from_plain(json.loads(spec.model_dump_json()), "again")
    assert evaluator_for(spec) is evaluator_for(again)


def test_outcomes_are_written_batch_by_batch(evaluator: Evaluator, tmp_path: Path) -> None:
    evaluator.evaluate(None, validation(small_spec(tmp_path)).instances[:7])
    shards = list((tmp_path / "outcomes" / evaluator.evaluation_id / "unrefined").iterdir())
    assert sorted(len(json.loads(path.read_text())["outcomes"]) for path in shards) == [1, 3, 3]
    assert len(OutcomeStore(str(tmp_path), evaluator.evaluation_id).read(None)) == 7
