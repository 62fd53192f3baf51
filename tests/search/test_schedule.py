"""The timesteps read from configuration are those that the sampler of the loaded model has."""

import json
from pathlib import Path
from typing import Any

import pytest

from keystep.core.backbones import backbone_for
from keystep.core.generation import load_pipeline
from keystep.core.sampling import Sampler
from keystep.core.schedulers import MEMORY
from keystep.search.settings.space import Space
from keystep.search.spec.loading import load_spec
from keystep.search.spec.schedule import timesteps_of
from tests.search.specs import small_spec

FLOW = "FlowMatchEulerDiscreteScheduler"


@pytest.fixture(scope="module")
def backbones() -> dict[str, Any]:
    return {name: backbone_for(load_pipeline(name)) for name in ("keystep/shapes-sd", "keystep/shapes-sd3")}


@pytest.mark.parametrize("scheduler", sorted(set(MEMORY) - {FLOW}))
def test_the_schedule_is_the_samplers_own(scheduler: str, backbones: dict[str, Any]):
    spec = small_spec(sampler__scheduler=scheduler, sampler__num_inference_steps=7)
    expected = Sampler(backbones[spec.model.id], spec.sampler).timesteps
    assert timesteps_of(spec) == tuple(map(float, expected))
    assert Space(spec, timesteps_of(spec)).steps == tuple(range(len(expected)))


@pytest.mark.parametrize("arguments", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}])
@pytest.mark.parametrize("height", [64, 32])
def test_flow_matching_shifts_as_the_sampler_does(arguments: dict, height: int, backbones: dict[str, Any]):
    spec = small_spec(
        model__id="keystep/shapes-sd3",
        sampler__scheduler=FLOW,
        sampler__scheduler_config=arguments,
        sampler__height=height,
    )
    expected = Sampler(backbones[spec.model.id], spec.sampler).timesteps
    assert timesteps_of(spec) == tuple(map(float, expected))


def test_the_paper_s_timesteps_are_steps_of_sd14(tmp_path: Path):
    """981, 961, ..., 1: 821 is step 8 and 941 step 2, with the scheduler that the checkpoint comes with, PNDM."""
    (tmp_path / "scheduler").mkdir()
    config = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
    }
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    spec = load_spec("sd14", [f"model.id={tmp_path}", "space.timesteps=[821, 941]"])
    assert timesteps_of(spec) == tuple(range(981, 0, -20))
    assert Space(spec, timesteps_of(spec)).steps == (8, 2)


def test_a_model_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"model\.id: .* is a folder without scheduler/scheduler_config\.json.*embedded model such as"
    ):
        timesteps_of(small_spec(model__id=str(tmp_path)))
    with pytest.raises(ValueError, match="no embedded model 'keystep/shapes-sd4'"):
        timesteps_of(small_spec(model__id="keystep/shapes-sd4"))


def test_a_scheduler_that_cannot_be_resumed_is_refused_with_its_key():
    with pytest.raises(ValueError, match=r"sampler\.scheduler: .*'HeunDiscreteScheduler' cannot be stopped.*DDPMSch"):
        small_spec(sampler__scheduler="HeunDiscreteScheduler")
