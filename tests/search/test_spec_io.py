"""Specs from names and files, changed key by key, and printed so that they load again."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from keystep.core.config import GSNg
from keystep.search.spec.loading import BUILT_IN, DEFAULT_SPEC, built_in_text, load_spec, parse_spec, spec_yaml
from keystep.search.spec.search_spec import Range, SearchSpec
from keystep.search.spec.text import field_comments
from tests.benchmarks.shapes_fitness import SAMPLERS
from tests.search.specs import plain, small_spec


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_printed_spec_loads_to_an_equal_one(name: str):
    spec = load_spec(name)
    assert spec.name == name
    text = spec_yaml(spec)
    assert parse_spec(text, "printed") == spec
    assert spec_yaml(parse_spec(text, "printed")) == text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_key_is_printed_and_explained(name: str):
    spec = load_spec(name)
    text = spec_yaml(spec)
    data = yaml.safe_load(text)
    for section in SearchSpec.model_fields.keys() - {"name"}:
        model = type(getattr(spec, section))
        assert list(data[section]) == list(model.model_fields)
        assert field_comments(model).keys() == model.model_fields.keys()
        for key, comment in field_comments(model).items():
            assert len(comment) > 5 and re.search(rf"^  {key}: ", text, re.MULTILINE)


@settings(max_examples=25, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    word=st.sampled_from(["off", "1e5", "12e3", "null", "3", "1.0", "~", "yes", "a: b", "# x", "'", "2026-01-01"]),
    numbers=st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=3, unique=True),
    low=st.floats(0, 1),
)
def test_any_value_survives_being_printed(text: str, word: str, numbers: list[float], low: float):
    spec = small_spec(
        name=text,
        model__revision=word,
        space__cn=numbers,
        space__iou={"low": low, "high": 2.0},
        space__gsng=[{"start": 1, "step_size": numbers[0]}, False, True],
        sampler__scheduler_config={"beta_start": numbers[0], "prediction_type": text, "trained_betas": None},
        search__pruner="MedianPruner",
        search__pruner_options={"n_warmup_steps": 3},
    )
    assert parse_spec(spec_yaml(spec), "printed") == spec


@pytest.mark.parametrize(
    ("name", "model", "scheduler", "steps", "guidance", "size", "dtype", "length"),
    [
        ("sd14", "CompVis/stable-diffusion-v1-4", "DDPMScheduler", 50, 7.5, 512, "float32", None),
        (
            "sd3-medium",
            "stabilityai/stable-diffusion-3-medium-diffusers",
            "FlowMatchEulerDiscreteScheduler",
            28,
            7.0,
            768,
            "bfloat16",
            256,
        ),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", "EulerDiscreteScheduler", 50, 5.0, 1024, "float16", None),
    ],
)
def test_the_reference_settings(name, model, scheduler, steps, guidance, size, dtype, length):
    spec = load_spec(name)
    sampler = spec.sampler
    assert (spec.model.id, spec.model.dtype, spec.detector.id) == (model, dtype, "Roboflow/rf-detr-seg-medium")
    assert (sampler.scheduler, sampler.num_inference_steps, sampler.guidance_scale) == (scheduler, steps, guidance)
    assert (sampler.height, sampler.width, sampler.max_sequence_length) == (size, size, length)
    assert spec.prompts.sets == ("two", "two_colored", "three", "three_colored")
    assert spec.space.steps == "all" and spec.space.gsng == (None, GSNg())


@pytest.mark.parametrize("name", ["shapes-sd", "shapes-sd3"])
def test_the_embedded_models_are_sampled_as_their_fitness_is_measured(name: str):
    spec = load_spec(name)
    assert spec.model.id == f"keystep/{name}" and spec.detector.id == "keystep/shapes-segmenter"
    ours, measured = spec.sampler, SAMPLERS[name]
    assert ours == measured
    assert not set(spec.prompts.seeds) & set(spec.prompts.held_out_seeds)


def test_the_default_is_the_embedded_model():
    assert load_spec() == load_spec(DEFAULT_SPEC) == load_spec("shapes-sd")


def test_keys_are_changed_by_path():
    spec = load_spec(
        "shapes-sd3",
        [
            "search.trials=40",
            "search.sampler=tpe",
            "space.cn=[1.0, 0.5]",
            "space.iou = {low: 1e-1, high: 2, log: true}",
            "space.gsng=[off, on, {start: 1, stop: 3}]",
            "space.steps=[3]",
            "search.trials=41",
            "sampler.scheduler_config.shift=3.0",
            "tracking.uri=",
            "metrics.clip=keystep/shapes-clip",
            "name=a=b",
        ],
    )
    assert (spec.search.trials, spec.space.cn, spec.space.steps) == (41, (1.0, 0.5), (3,))
    assert spec.space.iou == Range(low=0.1, high=2.0, log=True)
    assert spec.space.gsng == (None, GSNg(), GSNg(start=1, stop=3))
    assert spec.sampler.scheduler_config == {"shift": 3.0} and spec.tracking.uri is None
    assert spec.metrics.clip == "keystep/shapes-clip" and spec.name == "a=b"
    untouched = load_spec("shapes-sd3")
    assert spec.prompts == untouched.prompts and untouched.search.trials != 41


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", r"--set search\.trials: write KEY=VALUE, for instance search\.trials=40"),
        ("=3", "write KEY=VALUE"),
        ("search..trials=3", "write KEY=VALUE"),
        ("search.trials.x=3", r"search\.trials is 24, which has no key 'x': set it as a whole"),
        ("space.cn=[1,", r"--set space\.cn=\[1,: not YAML"),
        ("search.trials=many", r"with --set search\.trials=many is not .*\n  search\.trials: .*valid integer"),
        ("search.trails=3", r"search: SearchSettings has no field 'trails'; did you mean 'trials'"),
        ("serch.trials=3", r"no field 'serch'; did you mean 'search'"),
        ("search=3", r"\n  search: "),
    ],
)
def test_a_change_that_cannot_be_made_is_named(override: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_spec("shapes-sd", [override])


def test_a_file_is_called_by_its_name_and_may_leave_sections_empty(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    data = plain()
    del data["name"]
    path.write_text(yaml.safe_dump(data) + "tracking:\n  # uri: sqlite:///other.db\n")
    spec = load_spec(path)
    assert spec.name == "mine" and spec.model_copy(update={"name": "small"}) == small_spec()
    path.write_text(yaml.safe_dump(plain()))
    assert load_spec(str(path)) == small_spec()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"mine\.yaml: a spec is a mapping of name, model, sampler"),
        (b"- 1\n", r"mine\.yaml: a spec is a mapping"),
        (b"search:\n  trials: 3\n  trials: 4\n", r"mine\.yaml: not YAML: 'trials' stands twice\n.*line 3"),
        (b"search: [\n", r"mine\.yaml: not YAML: .*"),
        (b"\xff\xfe\x00", r"mine\.yaml is not text in UTF-8"),
        (b"search:\n  !!python/object:os.system {}\n", r"mine\.yaml: not YAML"),
        (b"search: {trials: 3}\n", r"mine\.yaml is not a valid SearchSpec:\n  model: Field required"),
    ],
)
def test_a_file_that_is_no_spec_is_named(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_spec(path)


@pytest.mark.parametrize("name", ["sd15", "no/such.yaml"])
def test_an_unknown_name_lists_the_known_ones(name: str):
    with pytest.raises(ValueError, match=r"is no file and no built-in spec.*shapes-sd, shapes-sd3, sd14") as error:
        load_spec(name)
    assert ("did you mean 'sd14'" in str(error.value)) == (name == "sd15")


def test_built_in_specs_say_what_they_are():
    for name in BUILT_IN:
        assert built_in_text(name).startswith("# ") and f"--print-spec {name}`" in built_in_text(name)
