"""The settings and the exported file: what goes in comes out, and what is wrong is refused by name."""

import json
from pathlib import Path
from typing import Any

import diffusers
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystep.core.config import (
    AttentionChoice,
    GSNg,
    IterRef,
    LossWeights,
    Refinement,
    SamplerConfig,
    StepConfig,
)
from keystep.core.evidence import Estimate, Evidence

SD = SamplerConfig(
    scheduler="DDPMScheduler",
    scheduler_config={"steps_offset": 1, "timestep_spacing": "leading"},
    num_inference_steps=50,
    guidance_scale=7.5,
    height=512,
    width=512,
)
EVIDENCE = Evidence(
    tiam_before=Estimate(value=0.447, low=0.41, high=0.49),
    tiam_after=Estimate(value=0.6, low=0.55, high=0.64, level=0.9),
    p_value=0.001,
    prompt_sets={"two": "ab12", "two_colored": "cd34"},
    detector="Roboflow/rf-detr-seg-medium",
    seeds=(0, 1, 2),
    search_id="search-7",
    versions={"keystep": "0.1.0", "torch": "2.11.0"},
    seconds_per_image=4.5,
)


def step_config(**changes: Any) -> StepConfig:
    values: dict[str, Any] = dict(
        model="some/model",
        revision="0123abcd",
        dtype="float16",
        sampler=SD,
        refinement=Refinement(
            weights=LossWeights(cn=1, iou=0.5), iterref=IterRef(step_index=8, threshold=0.1), gsng=GSNg(stop=25)
        ),
        timestep=821.0,
        evidence=EVIDENCE,
    )
    return StepConfig(**{**values, **changes})


def plain(**changes: Any) -> dict[str, Any]:
    """The file's content, with dotted fields changed."""
    data = step_config().model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = data
        for parent in parents:
            target = target[parent]
        target[name] = value
    return data


def written(folder: Path, content: Any) -> Path:
    path = folder / "step.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_defaults_are_those_of_the_method():
    iterref, gsng = IterRef(step_index=0), GSNg()
    assert (iterref.iterations, iterref.step_size, iterref.schedule) == (50, 20.0, (1.0, 1.0))
    assert (iterref.optimizer, iterref.threshold) == ("gd", None)
    assert (gsng.start, gsng.stop, gsng.step_size, gsng.schedule) == (0, None, 20.0, (1.0, 1.0))
    assert (LossWeights().cn, LossWeights().iou) == (1.0, 1.0)
    assert Refinement() == Refinement(weights=LossWeights(), iterref=None, gsng=None, attention=AttentionChoice())
    assert gsng.step_range(50) == range(25)
    assert GSNg(start=3, stop=60).step_range(50) == range(3, 50)


def test_save_and_load_give_the_same_config(tmp_path: Path):
    path = step_config().save(tmp_path / "new" / "step.json")
    assert StepConfig.load(path) == step_config()
    assert json.loads(path.read_text())["refinement"]["iterref"]["step_index"] == 8
    assert [entry.name for entry in path.parent.iterdir()] == ["step.json"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "readable by whoever may read a plain file"


@settings(max_examples=30, deadline=None)
@given(
    step_index=st.integers(0, 49),
    numbers=st.lists(st.floats(1e-6, 1e6), min_size=5, max_size=5),
    optimizer=st.sampled_from(["gd", "momentum", "adam"]),
    layers=st.none() | st.lists(st.text(min_size=1), min_size=1, max_size=3),
)
def test_no_value_is_lost_in_json(step_index, numbers, optimizer, layers):
    first, second, third, fourth, fifth = numbers
    refinement = Refinement(
        weights=LossWeights(cn=first, iou=second),
        iterref=IterRef(step_index=step_index, step_size=third, schedule=(fourth, fifth), optimizer=optimizer),
        attention=AttentionChoice(layers=layers, resolution=(16, 24)),
    )
    config = step_config(refinement=refinement, timestep=first)
    assert StepConfig.from_plain(json.loads(config.model_dump_json()), "text") == config


def test_the_schema_accepts_the_file_and_refuses_an_unknown_field():
    validator = jsonschema.Draft202012Validator(StepConfig.json_schema())
    validator.validate(plain())
    for wrong in (plain(extra=1), plain(refinement__iterref__steps=1), plain(sampler__height="512")):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize("content", ["", "{", "step_index: 3", '{"model": NaN}', "[1, 2]", '"text"', "3"])
def test_load_refuses_what_is_no_json_object(tmp_path: Path, content: str):
    with pytest.raises(ValueError, match=r"step\.json"):
        StepConfig.load(written(tmp_path, content))


def test_load_refuses_bytes_that_are_no_text(tmp_path: Path):
    (tmp_path / "weights.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"weights\.json is not JSON"):
        StepConfig.load(tmp_path / "weights.json")


@pytest.mark.parametrize(
    "content, place, choices",
    [
        ({"refinment": {}}, "refinment", "did you mean 'refinement'"),
        ({"refinement__iterref__iteratons": 3}, "refinement.iterref", "step_index, iterations, step_size"),
        ({"refinement__weights__CN": 1.0}, "refinement.weights", "the fields are cn, iou"),
        ({"evidence__p": 0.1}, "evidence", "p_value"),
    ],
)
def test_an_unknown_field_is_named_with_the_choices(tmp_path: Path, content, place: str, choices: str):
    with pytest.raises(ValueError) as error:
        StepConfig.load(written(tmp_path, plain(**content)))
    assert "step.json" in str(error.value) and place in str(error.value) and choices in str(error.value)


@pytest.mark.parametrize(
    "path, value",
    [
        ("model", ""),
        ("model", 3),
        ("dtype", "float8"),
        ("timestep", -1.0),
        ("timestep", "821"),
        ("sampler.num_inference_steps", 0),
        ("sampler.num_inference_steps", 50.5),
        ("sampler.guidance_scale", 0.5),
        ("sampler.height", 500),
        ("sampler.width", "512"),
        ("sampler.max_sequence_length", 0),
        ("refinement.weights.cn", -0.1),
        ("refinement.iterref.step_index", -1),
        ("refinement.iterref.step_index", True),
        ("refinement.iterref.step_index", "8"),
        ("refinement.iterref.iterations", 0),
        ("refinement.iterref.step_size", 0),
        ("refinement.iterref.step_size", float("inf")),
        ("refinement.iterref.schedule", [1.0]),
        ("refinement.iterref.schedule", [-1.0, 1.0]),
        ("refinement.iterref.schedule", [0, 0]),
        ("refinement.iterref.optimizer", "sgd"),
        ("refinement.iterref.threshold", float("nan")),
        ("refinement.gsng.start", -1),
        ("refinement.gsng.stop", 0),
        ("refinement.attention.layers", []),
        ("refinement.attention.layers", "all"),
        ("refinement.attention.resolution", [16]),
        ("evidence.p_value", 1.5),
        ("evidence.tiam_after.value", 101),
        ("evidence.seeds", []),
        ("evidence.seconds_per_image", 0),
        ("evidence.prompt_sets", {}),
    ],
)
def test_an_impossible_value_is_refused_with_its_field(path: str, value: object):
    with pytest.raises(ValueError) as error:
        StepConfig.from_plain(plain(**{path.replace(".", "__"): value}), "step.json")
    assert f"\n  {path}" in str(error.value)


def test_every_mistake_is_listed_at_once():
    data = plain(dtype="half", refinement__iterref__iterations=0, sampler__height=500)
    with pytest.raises(ValueError) as error:
        StepConfig.from_plain(data, "step.json")
    assert all(field in str(error.value) for field in ("dtype", "refinement.iterref.iterations", "sampler.height"))
    assert "'float32', 'float16' or 'bfloat16'" in str(error.value)


def test_a_missing_field_is_named():
    data = plain()
    del data["sampler"]["scheduler"]
    with pytest.raises(ValueError, match=r"sampler\.scheduler: Field required"):
        StepConfig.from_plain(data, "step.json")


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(refinement=Refinement(iterref=IterRef(step_index=50))), r"must be in 0\.\.49 .* got 50"),
        (dict(refinement=Refinement()), "neither iterref nor gsng"),
        (dict(timestep=None), "timestep must be given with refinement.iterref"),
        (dict(refinement=Refinement(gsng=GSNg(start=25)), timestep=None), "refinement.gsng must name steps in 0..49"),
        (dict(refinement=Refinement(gsng=GSNg(stop=51)), timestep=None), "refinement.gsng must name steps in 0..49"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        step_config(**values)


def test_guidance_alone_needs_no_timestep_and_is_held_to_the_one_it_has():
    assert step_config(refinement=Refinement(gsng=GSNg()), timestep=None).timestep is None
    first = step_config().sampler
    scheduler = getattr(diffusers, first.scheduler)(**first.scheduler_config)
    scheduler.set_timesteps(first.num_inference_steps)
    guided = Refinement(gsng=GSNg(start=3, stop=9))
    assert guided.key_step == 3
    step_config(refinement=guided, timestep=float(scheduler.timesteps[3])).check_schedule(scheduler)
    with pytest.raises(ValueError, match="step index 3 was chosen for timestep 1, but the scheduler has"):
        step_config(refinement=guided, timestep=1.0).check_schedule(scheduler)
    with pytest.raises(ValueError, match="so it has no step"):
        _ = Refinement().key_step


@pytest.mark.parametrize("weights", [dict(cn=0, iou=0), dict(cn=0.0, iou=0.0)])
def test_weights_that_leave_no_loss_are_refused(weights: dict[str, float]):
    with pytest.raises(ValueError, match="nothing would be minimised"):
        LossWeights(**weights)


def test_an_interval_holds_its_value():
    with pytest.raises(ValueError, match="low <= value <= high"):
        Estimate(value=0.5, low=0.6, high=0.7)


def test_repeated_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds must differ"):
        Evidence(**{**dict(EVIDENCE), "seeds": (0, 0)})


@pytest.mark.parametrize("version, remedy", [(2, "update keystep"), (0, "export it again")])
def test_another_schema_version_says_what_to_do(tmp_path: Path, version: int, remedy: str):
    # A newer file may have fields that this version does not know: the version is the message.
    path = written(tmp_path, plain(schema_version=version, something_new=1))
    with pytest.raises(ValueError, match=f"schema_version is {version} and this keystep reads 1: {remedy}"):
        StepConfig.load(path)


@pytest.mark.parametrize("version", ["1", None, 1.0, True])
def test_a_schema_version_of_another_type_is_refused(version: object):
    with pytest.raises(ValueError, match="schema_version"):
        StepConfig.from_plain(plain(schema_version=version), "step.json")


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        LossWeights().cn = 3.0


@pytest.mark.parametrize(
    "name, suggestion", [("DDPM", "DDPMScheduler"), ("os.system", ""), ("DDPMSheduler", "did you mean 'DDPMScheduler'")]
)
def test_a_scheduler_that_diffusers_lacks_is_refused_with_the_choices(name: str, suggestion: str):
    with pytest.raises(ValueError) as error:
        SamplerConfig(**{**dict(SD), "scheduler": name})
    assert "scheduler" in str(error.value) and suggestion in str(error.value)
    assert "EulerAncestralDiscreteScheduler" in str(error.value)


def test_an_argument_that_the_scheduler_lacks_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"DDPMScheduler takes no 'shift' .*beta_start, beta_end"):
        SamplerConfig(**{**dict(SD), "scheduler_config": {"shift": 3.0}})
