"""Several hundred bad inputs, drawn by fixed seeds: each is refused with a sentence, at once, and never believed.

Every input is a good one spoilt: in its bytes, in its structure, or with one value put in the place of another.
"""

import json
import random
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import keystep.cluster.cli
from keystep.core.config import StepConfig
from keystep.evaluation.bounded_yaml import load_yaml
from keystep.evaluation.prompt_io import load_prompt_set
from keystep.search.cli import build_app, commands
from keystep.search.spec.loading import load_spec
from keystep.search.spec.prompt_parts import split_sets
from tests.search.specs import plain
from tests.search.spoiling import BOMB, CONFIG, EXTREME, SECONDS, deep, in_yaml, places, replaced, spoilt, told


@pytest.mark.parametrize("seed", range(4))
def test_specs_with_a_value_replaced(seed: int, tmp_path: Path) -> None:
    """50 each: taken only where the value is one that a spec may have; then it can be identified, too."""
    generator, good = random.Random(seed), plain(space={"steps": [1, 2], "cn": [0.5], "gsng": [False, {"start": 1}]})
    ways = list(places(good))
    refused = 0
    for number in range(50):
        bad = replaced(good, generator.choice(ways), generator.choice(EXTREME))
        path = tmp_path / f"{number}.yaml"
        path.write_text(in_yaml(bad), encoding="utf-8")
        said = told(load_spec, path)
        refused += said is not None
        if said is None:
            told(lambda spec: split_sets(spec.prompts), load_spec(path))
    assert refused >= 35


@pytest.mark.parametrize("seed", range(4))
def test_specs_with_bytes_spoilt(seed: int, tmp_path: Path) -> None:
    generator, good = random.Random(100 + seed), in_yaml(plain()).encode()
    for number in range(50):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(spoilt(good, generator))
        told(load_spec, path)


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        pytest.param(BOMB, "holds more than 10,000 values, aliases written out", id="alias bomb"),
        pytest.param("name: &n {x: *n}", "stands inside what it names", id="endless"),
        pytest.param("name: " + deep(5000), "nested deeper than 32 levels", id="deep"),
        pytest.param("name: " + deep(3000, "{a: ", "}"), "nested deeper than 32 levels", id="deep mappings"),
        pytest.param("- " * 40 + "x", "nested deeper than 32 levels", id="deep list"),
        pytest.param("name: x" + "y" * 500_000, "at most 100,000 characters", id="long"),
        pytest.param("seeds: [" + "1," * 20_000 + "1]", "holds more than 10,000 values", id="wide"),
        pytest.param("name: .inf", "no finite number", id="infinite"),
        pytest.param("name: " + "9" * 100, "beyond 2**64", id="digits"),
        pytest.param("name: " + "9" * 5000, "4300 digits", id="more digits"),
        pytest.param("name: 2001-99-99", "not YAML: month must be in", id="month"),
        pytest.param("name: !!float x", "not YAML: could not convert", id="no float"),
        pytest.param("name: !!int ''", "not YAML", id="no integer"),
        pytest.param("name: !!bool x", "not YAML", id="no switch"),
        pytest.param("name: !!timestamp x", "not YAML", id="no time"),
        pytest.param("? [a, b]\n: c", "not YAML", id="list as a key"),
    ],
)
def test_limits_are_stated(content: str, limit: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    for said in (told(load_spec, path), told(load_spec, "shapes-sd", [f"prompts.seeds={content}"])):
        assert said is not None
    assert limit in str(told(load_spec, path))


def test_an_alias_that_is_no_bomb_is_taken() -> None:
    text = "seeds: &s [0, 1]\nheld: *s\nmore: {<<: &m {a: 1}, b: 2}\n"
    assert load_yaml(text, "text") == {"seeds": [0, 1], "held": [0, 1], "more": {"a": 1, "b": 2}}


@pytest.mark.parametrize("key", ["sampler.height", "sampler.width", "sampler.num_inference_steps", "search.trials"])
def test_sizes_have_limits_that_are_stated(key: str) -> None:
    said = told(load_spec, "shapes-sd", [f"{key}=800000"])
    assert f"{key}: Input should be less than or equal to" in str(said) and "got 800000" in str(said)


def test_images_in_all_have_a_limit() -> None:
    said = told(load_spec, "shapes-sd", ["prompts.validation=900000", f"prompts.seeds={list(range(900))}"])
    assert "are 3,240,000,000 images; at most 1,000,000 can be searched" in str(said)


@pytest.mark.parametrize("seed", range(4))
def test_changes_by_set(seed: int) -> None:
    generator = random.Random(200 + seed)
    keys = [".".join(map(str, way)) for way in places(plain()) if len(way) == 2]
    texts = [*map(str, EXTREME[:20]), ".inf", ".nan", deep(3000), "*a", "&a [*a]", "!!python/name:os.system", "{a: b"]
    for _ in range(50):
        key = generator.choice([*keys, "sampler.scheduler_config.num_train_timesteps", "a" * 5000, ".", "a." * 3000])
        told(load_spec, "shapes-sd", [f"{key}={generator.choice(texts)}"])


@pytest.mark.parametrize("seed", range(4))
def test_step_configs(seed: int, tmp_path: Path) -> None:
    """25 with a value replaced and 25 with bytes spoilt."""
    generator = random.Random(300 + seed)
    good = json.loads(CONFIG.model_dump_json())
    ways = list(places(good))
    path = tmp_path / "config.json"
    for _ in range(25):
        path.write_text(json.dumps(replaced(good, generator.choice(ways), generator.choice(EXTREME))))
        told(StepConfig.load, path)
        path.write_bytes(spoilt(json.dumps(good).encode(), generator))
        told(StepConfig.load, path)


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (deep(100_000), "nested deeper than 32 levels"),
        ('{"model": ' + deep(500) + "}", "nested deeper than 32 levels"),
        ('{"timestep": 1e999}', "no finite number"),
        ('{"timestep": NaN}', "no finite number"),
        ('{"timestep": ' + "9" * 5000 + "}", "is not JSON: Exceeds the limit (4300 digits)"),
        ('{"timestep": ' + "9" * 1000 + "}", "beyond 2**64"),
        ('{"model": "' + "x" * 17_000_000 + '"}', "at most 16,000,000 are read"),
        ("", "is not JSON"),
        ("\0", "zero byte"),
    ],
)
def test_limits_of_step_configs_are_stated(content: str, limit: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    assert limit in str(told(StepConfig.load, path))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".yaml"])
def test_prompt_files(seed: int, suffix: str, tmp_path: Path) -> None:
    """30 each with bytes spoilt, and JSON or YAML with a value replaced."""
    generator = random.Random(400 + seed)
    row = {"prompt": "a red cat and a dog", "entities": [{"noun": "cat", "attribute": "red"}, {"noun": "dog"}]}
    template = {"template": "a photo of $ind_ar1 $entity1", "entities": ["cat", "dog", "owl"], "unique": [["entity1"]]}
    table = "prompt,entity1,adj1\na red cat,cat,red\na blue dog,dog,blue\n"
    text = {".csv": table, ".jsonl": json.dumps(row) + "\n", ".yaml": in_yaml(template)}[suffix]
    path = tmp_path / f"mine{suffix}"
    for _ in range(30):
        path.write_bytes(spoilt(text.encode(), generator))
        told(load_prompt_set, path)
        if suffix != ".csv":
            good = row if suffix == ".jsonl" else template
            bad = replaced(good, generator.choice(list(places(good))), generator.choice(EXTREME))
            path.write_text(json.dumps(bad) if suffix == ".jsonl" else in_yaml(bad))
            told(load_prompt_set, path)
    path.write_text(deep(100_000) if suffix != ".csv" else "prompt\n" + "x" * 300_000)
    assert told(load_prompt_set, path)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["estimate", "shapes-sd", "--seconds-per-evaluation", value] for value in ("inf", "nan", "1e400", "-1", "x")),
        *(["estimate", "shapes-sd", "--measure", "--price-per-gpu-hour", value] for value in ("inf", "nan", "1e99")),
        *(["estimate", "shapes-sd", "--storage-mb-per-second", value] for value in ("inf", "nan", "0")),
        *(["estimate", "shapes-sd", "--gpus", value] for value in ("0", "-1", "x", "1e9", "9" * 400, "99999999999")),
        ["estimate", "shapes-sd", "--gpus", ",".join(map(str, range(1, 100)))],
        *(["prompts", "two", "--held-out", value] for value in ("inf", "nan", "-1", "1e400")),
        *(["prompts", "two", "--sample", value] for value in ("0", "9" * 30, "9" * 5000)),
        *(["generate", "a cat", "--out", "x", "--seeds", value] for value in ("9" * 30, "9" * 5000, "-1", "0-9999999")),
        *(["score", "x", "--prompts", "two", "--confidence", value] for value in ("nan", "2", "inf")),
        *(["score", "x", "--prompts", "two", "--images-per-prompt", value] for value in ("0", "9" * 30)),
        *(["launch", "shapes-sd", "--target", "slurm", "--dry-run", "--nodes", value] for value in ("0", "9" * 30)),
        *(["launch", "shapes-sd", "--target", "slurm", "--dry-run", "--gpus", value] for value in ("-1", "9" * 30)),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_numbers_on_the_command_line(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = build_app({**commands(), **keystep.cluster.cli.commands()})
    began = time.process_time()
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "Traceback" not in result.output, (result.output, result.exception)
    assert result.stderr.strip() and time.process_time() - began < 20 * SECONDS  # the first one imports
