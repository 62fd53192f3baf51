"""`keystep generate` with the embedded model, and the entities it finds by itself."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keystep.core.config import IterRef, Refinement, SamplerConfig, StepConfig
from keystep.core.generation import generate, load_pipeline
from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.image_source import find_images
from keystep.evaluation.prompt_io import read_prompts
from keystep.search.cli import build_app
from keystep.search.commands.generate import parse_seeds
from keystep.search.commands.mentioned import mentioned_entities

TEXT = "a photo of a red circle and a blue star"
CONFIG = StepConfig(
    model="keystep/shapes-sd",
    sampler=SamplerConfig(scheduler="DDPMScheduler", num_inference_steps=4, guidance_scale=1.5, height=64, width=64),
    refinement=Refinement(iterref=IterRef(step_index=1, iterations=2)),
    timestep=501,
)


def run(*arguments):
    return CliRunner().invoke(build_app(), ["generate", *map(str, arguments)], env={"COLUMNS": "200"})


def test_pictures_and_a_sheet(tmp_path):
    CONFIG.save(tmp_path / "step.json")
    result = run(
        *(TEXT, "--config", tmp_path / "step.json", "--seeds", "0-1,5", "--batch-size", "2"),
        *("--out", tmp_path / "pictures", "--compare", tmp_path / "sheet.png", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.stderr
    assert "Entities: red circle, blue star" in result.stdout
    prompt = Prompt(TEXT, [Entity("circle", "red"), Entity("star", "blue")])
    expected = generate(load_pipeline(CONFIG), prompt, CONFIG, [0, 1, 5])
    for image, seed in zip(expected.images, (0, 1, 5), strict=True):
        with Image.open(tmp_path / "pictures" / f"a_photo_of_a_red_circle_and_a_blue_star_{seed}.png") as written:
            assert np.array_equal(np.asarray(written), np.asarray(image))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 192 and sheet.width > 2 * 192


def test_a_prompt_that_is_no_file_name_stays_in_its_folder_and_is_found_by_score(tmp_path):
    text = "a photo of ../../a red circle and/or a blue star: " + "so " * 90
    CONFIG.save(tmp_path / "step.json")
    arguments = (text, "--entities", "red circle, blue star", "--config", tmp_path / "step.json", "--seeds", "3")
    out = tmp_path / "a" / "pictures"
    result = run(*arguments, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    (picture,) = out.iterdir()
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["a", "pictures", "step.json", picture.name])
    before = picture.read_bytes()
    again = run(*arguments, "--out", out, "--device", "cpu")
    assert again.exit_code == 2 and "has 1 of these pictures already" in again.stderr
    assert "--overwrite" in again.stderr and picture.read_bytes() == before
    picture.unlink()
    (tmp_path / "elsewhere.txt").write_text("mine")
    picture.symlink_to(tmp_path / "elsewhere.txt")
    assert "already" in run(*arguments, "--out", out).stderr
    assert run(*arguments, "--out", out, "--overwrite", "--device", "cpu").exit_code == 0
    assert picture.read_bytes() == before and (tmp_path / "elsewhere.txt").read_text() == "mine"
    row = {"prompt": text.strip(), "entity1": "circle", "adj1": "red", "entity2": "star", "adj2": "blue"}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row))
    source = find_images(out, read_prompts(tmp_path / "prompts.jsonl"))
    assert [file.seed for file in source.files] == [3] and not source.problems


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where names are refused: nothing may be drawn, so that no model may be loaded either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keystep.core.generation.load_pipeline", lambda config: pytest.fail("drawing began"))
    CONFIG.save("step_config.json")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "made" / "a_photo_of_a_red_circle_and_a_blue_star_1.png").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "file"], "--out: nothing can be written to file: "),
        (["--out", "file/inside"], "--out: nothing can be written to file/inside: "),
        (["--out", "made"], "made has 1 of these pictures already, the first: a_photo_of_a_red_circle"),
        (["--out", "made", "--overwrite"], "is a folder, and a picture is to be called so"),
        (["--compare", "folder.png"], "--compare is a .png file, and folder.png is a folder"),
        (["--compare", "file/sheet.png"], "--compare: nothing can be written to file: "),
        (
            ["--out", "new", "--compare", "new/a_photo_of_a_red_circle_and_a_blue_star_0.png"],
            "is also the name of one of the pictures",
        ),
        (["--out", "new", "--seeds", str(2**63)], "--seeds are at most 9,223,372,036,854,775,807"),
        (["--out", "new", "--entities", '"red circle'], "a quote is not closed"),
    ],
)
def test_names_are_settled_before_anything_is_drawn(place, arguments, reason):
    result = run(TEXT, *arguments, "--device", "cpu")
    assert result.exit_code == 2, result.output
    assert reason in result.stderr and "Traceback" not in result.stderr
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([TEXT], "say where the pictures go"),
        ([TEXT, "--compare", "x.jpg"], "--compare is a .png file"),
        ([TEXT, "--out", "x", "--seeds", "7-0"], "--seeds is a list such as 0-7"),
        ([TEXT, "--out", "x", "--seeds", "0-99999999999"], "more than 10,000 seeds"),
        ([TEXT, "--out", "x", "--config", "nowhere.json"], "there is no step config nowhere.json"),
        (["two cats", "--out", "x"], "cannot tell which entities the prompt 'two cats' asks for"),
        ([TEXT, "--out", "x", "--entities", "cat"], "entity 'cat' is not in the prompt"),
        ([TEXT, "--out", "x", "--config", "bad.json"], "bad.json is not a valid StepConfig"),
    ],
)
def test_user_errors_end_with_2_and_a_sentence(tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    CONFIG.save("step_config.json")
    (tmp_path / "bad.json").write_text('{"model": "__import__"}')
    result = run(*arguments)
    assert result.exit_code == 2
    assert reason in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"), [("0-3", [0, 1, 2, 3]), ("5", [5]), ("1, 3-4,1", [1, 3, 4]), ("0-0", [0])]
)
def test_seeds(text, expected):
    assert parse_seeds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, ["red circle", "blue star"]),
        ("a photo of a circle, a star and a moon", ["circle", "star", "moon"]),
        ("A painting of an orange traffic light, the dog, and a dark red apple.", None),
        ("a cat and a dog", ["cat", "dog"]),
        ("a photo of a teddy bear", ["teddy bear"]),
        ("a dining table and a parking meter", ["dining table", "parking meter"]),
        ("a gold ring, a king", ["gold ring", "king"]),
        ("a black and white cat and a dog", ["black and white cat", "dog"]),
        ("an orange and white cat", ["orange and white cat"]),
        ("a lion with a crown", ["lion", "crown"]),
        ("a photo of a child\u2019s toy and a ball", ["child\u2019s toy", "ball"]),
    ],
)
def test_entities_of_prompts_of_the_usual_form(text, expected):
    found = [str(entity) for entity in mentioned_entities(text).entities]
    assert found == (expected or ["orange traffic light", "dog", "dark red apple"])
    assert mentioned_entities(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "two cats",
        "a cat on a mat",
        "a man riding a horse",
        "a man dining",
        "a dining man",
        "a big and white cat",
        "a photo of cats and dogs",
        "a very big old red house car",
        "",
    ],
)
def test_other_prompts_need_their_entities_named(text):
    with pytest.raises(ValueError, match="--entities 'red circle, blue star'"):
        mentioned_entities(text)
