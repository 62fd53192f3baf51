"""What a spec accepts and refuses, and what its id is made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from keystep.core.config import AttentionChoice, GSNg
from keystep.evaluation.tiam import TiamSettings
from keystep.search.spec.search_spec import Range, SearchSpec, SpaceSpec
from tests.search.specs import plain, small_spec


def test_plain_json_gives_the_spec_back():
    spec = small_spec(
        space__gsng=[False, True, {"start": 2, "stop": 5}],
        space__cn={"low": 0.5, "high": 2, "log": True},
        space__timesteps=[951],
        search__pruner="MedianPruner",
        search__pruner_options={"n_warmup_steps": 3},
    )
    assert spec.space.gsng == (None, GSNg(), GSNg(start=2, stop=5))
    assert spec.space.cn == Range(low=0.5, high=2.0, log=True)
    assert SearchSpec.from_plain(json.loads(spec.model_dump_json()), "text") == spec
    assert SearchSpec.from_plain(spec.model_dump(mode="json"), "text") == spec


def test_one_number_is_a_list_of_one():
    assert small_spec(space__cn=0.5, space__iou=2).space.iou == (2.0,)


def test_the_detector_scores_at_its_one_confidence():
    detector = small_spec(detector__confidence=0.5, detector__palette="extended", detector__superposed="keep_best")
    assert detector.detector.settings == TiamSettings((0.5,), superposed="keep_best", palette="extended")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.id", "", "at least 1 character"),
        ("model.dtype", "float8", "'float32', 'float16' or 'bfloat16'"),
        ("sampler.scheduler", "DDPM", "is no scheduler of diffusers"),
        ("sampler.height", 60, "multiple of 8"),
        ("prompts.sets", [], "at least 1 item"),
        ("prompts.sets", ["two", "two"], "lists 'two' twice"),
        ("prompts.seeds", [3, 3], "lists 3 twice"),
        ("prompts.seeds", [0, -1], "greater than or equal to 0"),
        ("prompts.validation", 0, "greater than or equal to 1"),
        ("detector.palette", "sepia", "choose one of tiam, extended"),
        ("detector.min_score", 0, "greater than 0"),
        ("space.steps", "some", "must be all, or a list of step indices"),
        ("space.steps", [], "at least one"),
        ("space.steps", [1, -2], "greater than or equal to 0"),
        ("space.steps", [3, 3], "lists 3 twice"),
        ("space.gsng", [{"start": 3, "stop": 3}], "stop must be above start"),
        ("space.cn", [1, -1], "greater than or equal to 0"),
        ("space.cn", "1", "must be a list of numbers, or a range"),
        ("space.cn", {"low": 2, "high": 1}, "low must be below high"),
        ("space.cn", {"low": 0, "high": 1, "log": True}, "above 0 with log"),
        ("space.step_size", [0], "must be above 0"),
        ("space.iterations", [0], "greater than or equal to 1"),
        ("space.optimizer", ["sgd"], "'gd', 'momentum' or 'adam'"),
        ("space.schedule", [0, 0], "not both 0"),
        ("space.threshold", float("nan"), "finite"),
        ("search.trials", "40", "valid integer"),
        ("search.trials", 0, "greater than or equal to 1"),
        ("search.sampler", "nsga", "'tpe', 'random' or 'grid'"),
        ("search.pruner", "MedianPrune", "did you mean 'MedianPruner'"),
        ("search.pruner_options", {"n": 1}, "paired takes no 'n'"),
        ("search.alpha", 1.0, "less than 1"),
        ("resources.gpus", 1.5, "fraction of one GPU or a whole number"),
        ("storage.latents_gb", 0, "greater than 0"),
        ("tracking.enabled", "no", "valid boolean"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(key: str, value: object, message: str):
    with pytest.raises(ValueError, match=message) as error:
        small_spec(**{key.replace(".", "__"): value})
    assert f"\n  {key}" in str(error.value) and "small.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"searc": {}}, "no field 'searc'; did you mean 'search'"),
        ({"search__trails": 3}, r"search: SearchSettings has no field 'trails'; did you mean 'trials'"),
        ({"space__cn": {"low": 1, "hihg": 2}}, r"space.cn: Range has no field 'hihg'; did you mean 'high'"),
        ({"space__timesteps": [901], "space__steps": [3]}, "steps and timesteps both say where"),
        ({"space__cn": [0, 1], "space__iou": {"low": 0, "high": 1}}, "cn and iou can both be 0"),
        ({"detector__confidence": 0.05}, "confidence is 0.05.*lower min_score"),
        ({"search__sampler": "grid", "space__cn": {"low": 1, "high": 2}}, "space.cn is a range, which has no grid"),
        (
            {"search__pruner": "MedianPruner", "search__pruner_options": {"n_warmup": 1}},
            "search.pruner_options: MedianPruner takes no 'n_warmup'; did you mean 'n_warmup_steps'",
        ),
    ],
)
def test_what_does_not_fit_together_says_what_to_do(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        small_spec(**changes)


def test_every_mistake_is_listed_at_once():
    with pytest.raises(ValueError) as error:
        small_spec(model__dtype="half", search__trials=0, space__iterations=[5, "b"])
    assert all(f"\n  {key}" in str(error.value) for key in ("model.dtype", "search.trials", "space.iterations.1"))


OTHER: dict[str, dict[str, object]] = {
    "model": {"id": "keystep/shapes-sd3", "revision": "main", "variant": "fp16", "dtype": "float16"},
    "sampler": {
        "scheduler": "DDIMScheduler",
        "scheduler_config": {"clip_sample": True},
        "num_inference_steps": 21,
        "guidance_scale": 2.0,
        "height": 72,
        "width": 72,
        "max_sequence_length": 16,
    },
    "prompts": {
        "sets": ["shapes_three", "shapes_two"],
        "validation": 7,
        "held_out": 9,
        "seeds": [1, 0],
        "held_out_seeds": [7, 8],
        "sample_seed": 1,
    },
    "detector": {
        "id": "keystep/other",
        "revision": "main",
        "min_score": 0.2,
        "confidence": 0.3,
        "palette": "extended",
        "color_share": 0.5,
        "superposed": "drop_both",
        "superposed_iou": 0.9,
    },
    "space": {
        "steps": [0, 1],
        "timesteps": [951.0],
        "gsng": [False, True],
        "cn": [0.5],
        "iou": {"low": 0.5, "high": 1.0},
        "iterations": [10],
        "step_size": [10.0],
        "optimizer": ["adam"],
        "schedule": [1.0, 0.5],
        "threshold": 0.1,
        "attention": {"layers": None, "resolution": [8, 8]},
    },
    "search": {
        "trials": 99,
        "sampler": "random",
        "pruner": "none",
        "alpha": 0.1,
        "min_prompts": 5,
        "block_prompts": 3,
        "lookahead": 3,
        "seed": 1,
    },
}
UNSEEN: dict[str, dict[str, object]] = {
    "model": {"device": "cpu"},
    "metrics": {"clip": "keystep/shapes-clip", "aesthetics": "some"},
    "resources": {
        "cpus": 2.0,
        "gpus": 0.5,
        "workers": 2,
        "batch_size": 3,
        "max_hours": 1.0,
        "max_gpu_hours": 1.0,
        "max_failures": 0,
    },
    "storage": {"path": "s3://bucket/runs", "latents_gb": 1.0, "latents_path": "elsewhere"},
    "tracking": {"uri": None, "experiment": "mine", "artifact_location": "there", "enabled": False},
}


def test_the_id_changes_with_all_that_changes_the_result():
    """Every field of every section is changed, so that a new field cannot be forgotten."""
    ids = {small_spec().search_id}
    assert len(next(iter(ids))) == 12 and int(next(iter(ids)), 16) >= 0
    fields = 0
    for section, changes in OTHER.items():
        for key, value in changes.items():
            ids.add(small_spec(**{f"{section}__{key}": value}).search_id)
            fields += 1
    assert len(ids) == fields + 1
    for section in OTHER:
        known = {*OTHER[section], *UNSEEN.get(section, {}), *(["pruner_options"] if section == "search" else [])}
        assert known == set(type(getattr(small_spec(), section)).model_fields)
    options = [small_spec(search__pruner="MedianPruner", search__pruner_options=o) for o in ({}, {"n_warmup_steps": 1})]
    assert options[0].search_id != options[1].search_id


def test_the_id_changes_with_nothing_else():
    spec = small_spec()
    assert small_spec(name="other").search_id == spec.search_id
    for section, changes in UNSEEN.items():
        assert small_spec(**{f"{section}__{key}": value for key, value in changes.items()}).search_id == spec.search_id
        known = {*changes, *OTHER.get(section, {})}
        assert known == set(type(getattr(spec, section)).model_fields)
    none = {"search__pruner": "none"}
    assert small_spec(**none, search__alpha=0.2, search__min_prompts=1).search_id == small_spec(**none).search_id
    assert small_spec(space__cn=[1]).search_id == small_spec(space__cn=[1.0]).search_id


def test_the_id_knows_prompts_by_their_content(tmp_path: Path):
    template = "template: a photo of $ind_ar1 $entity1 and $ind_ar2 $entity2\nunique: [[entity1, entity2]]\nentities: "
    nouns = ["circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"]
    copied, changed = tmp_path / "copied.yaml", tmp_path / "changed.yaml"
    copied.write_text(template + json.dumps(nouns))
    changed.write_text(template + json.dumps(["cube", *nouns[1:]]))
    sets = {"prompts__sets": ["shapes_two"]}
    spec = small_spec(**sets)
    assert small_spec(prompts__sets=[str(copied)]).search_id == spec.search_id
    edited = small_spec(prompts__sets=[str(changed)])
    assert edited.search_id != spec.search_id
    changed.write_text(copied.read_text())
    assert edited.search_id == spec.search_id


def test_a_changed_copy_has_an_id_of_its_own():
    spec = small_spec()
    before = spec.search_id
    changed = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 3})})
    assert changed.search_id == small_spec(search__trials=3).search_id != before


def test_paths_are_anchored_and_the_id_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.csv").write_text(
        "prompt,entity1\n" + "".join(f"a {noun},{noun}\n" for noun in ("cat", "dog", "bear", "owl"))
    )
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = small_spec(
        prompts={**plain()["prompts"], "sets": ["mine.csv", "shapes_two"], "validation": 2, "held_out": 2},
        model__id="weights",
        detector__id="yolo:weights",
        metrics={"clip": "weights", "aesthetics": None},
        storage={"path": "./runs", "latents_path": "s3://bucket/latents"},
    )
    anchored = spec.anchored()
    assert anchored.prompts.sets == (str(tmp_path / "mine.csv"), "shapes_two")
    assert anchored.storage.path == str(tmp_path / "runs") and anchored.storage.latents_path == "s3://bucket/latents"
    assert anchored.model.id == anchored.metrics.clip == str(tmp_path / "weights")
    assert anchored.detector.id == f"yolo:{tmp_path / 'weights'}" and anchored.metrics.aesthetics is None
    assert anchored.search_id == spec.search_id
    monkeypatch.chdir("/")
    assert anchored.anchored() == anchored
    assert (
        small_spec().anchored().model == small_spec().model and small_spec().anchored().prompts == small_spec().prompts
    )


def test_secrets_are_masked():
    uri, path = "postgresql://ann:s3cret@host:5432/db", "s3://key:hidden@bucket/x?region=eu"
    spec = small_spec(tracking__uri=uri, storage__path=path).without_secrets()
    shown = spec.model_dump_json()
    assert "s3cret" not in shown and "hidden" not in shown
    assert spec.tracking.uri is not None and spec.tracking.uri.endswith("@host:5432/db")
    assert spec.storage.path.endswith("@bucket/x?region=eu")
    assert small_spec().without_secrets() == small_spec()


def test_a_space_knows_its_ranges():
    space = SpaceSpec(cn=Range(low=1, high=2), step_size=(10.0, 20.0), attention=AttentionChoice())
    assert space.ranges == {"cn": Range(low=1, high=2)}
