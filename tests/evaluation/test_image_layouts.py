"""Folders as GenEval's and T2I-CompBench's own scripts write them."""

import json
import logging
import tarfile
from pathlib import Path

import pytest

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.image_source import find_images
from keystep.evaluation.prompt_io import read_prompts
from keystep.evaluation.prompt_sets import PromptSet
from tests.evaluation.test_image_source import png, reds, write

ROWS = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": "a photo of two clocks"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "brown"}], "prompt": "a photo of a brown cow"},
]


def geneval(folder: Path) -> Path:
    """What GenEval's diffusers_generate.py leaves: a folder a row, two samples each, and a grid."""
    files = {}
    for number, row in enumerate(ROWS):
        files[f"{number:05}/metadata.jsonl"] = json.dumps(row).encode()
        files[f"{number:05}/grid.png"] = png((99, 0, 0))
        for sample in range(2):
            files[f"{number:05}/samples/{sample:05}.png"] = png((10 * number + sample, 0, 0))
    return write(folder, files)


def metadata(tmp_path: Path) -> PromptSet:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return read_prompts(path)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_geneval(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = geneval(tmp_path / "images")
    if kind == "tar":
        path = tmp_path / "images.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "images", "images")
    prompts = metadata(tmp_path)
    with caplog.at_level(logging.WARNING):
        source = find_images(path, prompts)
    assert not source.problems
    assert reds(source) == {(0, 0): 0, (0, 1): 1, (1, 0): 20, (1, 1): 21}  # rows 0 and 2 of the file
    assert "left out 1 folders that ask for a number or a position" in caplog.text


def test_what_is_odd_in_geneval_folders_is_named(tmp_path: Path) -> None:
    path = geneval(tmp_path / "images")
    (path / "00002" / "metadata.jsonl").unlink()
    (path / "00000" / "samples" / "00001.png").unlink()
    other = {"include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
    write(path, {"00003/metadata.jsonl": json.dumps(other).encode(), "00003/samples/00000.png": png()})
    problems = find_images(path, metadata(tmp_path)).problems
    assert problems.missing == ["'a photo of a brown cow': any"]
    assert [line.removeprefix(f"{path}/") for line in problems.surplus] == [
        f"00002/samples/00000.png: no metadata.jsonl in {path}/00002 says its prompt",
        f"00002/samples/00001.png: no metadata.jsonl in {path}/00002 says its prompt",
        "00003/samples/00000.png: its prompt 'a photo of a cat' is not of the set",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "metadata.jsonl is not JSON"), ("[]", "expected GenEval's row with a prompt"), ("{}", "expected GenEval's")],
)
def test_damaged_geneval_metadata(tmp_path: Path, content: str, reason: str) -> None:
    path = geneval(tmp_path / "images")
    (path / "00001" / "metadata.jsonl").write_text(content)
    with pytest.raises(ValueError, match=reason) as caught:
        find_images(path, metadata(tmp_path))
    assert str(path / "00001") in str(caught.value)


BENCH = Prompt("a green bench and a blue bowl", (Entity("bench", "green"), Entity("bowl", "blue")))
CLOCK = Prompt("The white and yellow clock reads 11:44.", (Entity("clock"),))
COLORS = PromptSet("color_val", (BENCH, CLOCK))


def compbench(folder: Path, numbers: list[tuple[Prompt, int]]) -> Path:
    return write(
        folder, {f"{prompt.text}_{number:06}.png": png((place, 0, 0)) for place, (prompt, number) in enumerate(numbers)}
    )


def test_t2i_compbench_counts_through_all_prompts(tmp_path: Path) -> None:
    images = compbench(tmp_path / "samples", [(BENCH, 0), (BENCH, 1), (BENCH, 2), (CLOCK, 3), (CLOCK, 4), (CLOCK, 5)])
    source = find_images(images, COLORS)
    assert not source.problems and source.seeds == (0, 1, 2)
    assert reds(source) == {(0, 0): 0, (0, 1): 1, (0, 2): 2, (1, 0): 3, (1, 1): 4, (1, 2): 5}
    (images / f"{CLOCK.text}_000003.png").unlink()
    assert find_images(images, COLORS).problems.missing == [f"{CLOCK.text!r}: number 2"]


def test_t2i_compbench_counted_by_prompt(tmp_path: Path) -> None:
    images = compbench(tmp_path / "samples", [(BENCH, 0), (BENCH, 2), (CLOCK, 0), (CLOCK, 2)])
    assert reds(find_images(images, COLORS)) == {(0, 0): 0, (0, 2): 1, (1, 0): 2, (1, 2): 3}


def test_six_digit_seeds_of_ones_own_are_kept(tmp_path: Path) -> None:
    """Numbers that two prompts share are seeds, however they are written."""
    images = compbench(tmp_path / "samples", [(BENCH, 123456), (CLOCK, 123456), (CLOCK, 654321)])
    assert find_images(images, COLORS).seeds == (123456, 654321)


def test_other_layouts_are_shown_the_map_that_does_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"prompt-17/b.png": png((7, 0, 0))})
    with pytest.raises(ValueError) as caught:
        find_images(folder, COLORS)
    said, shown = str(caught.value).split("a .json file such as\n    ")
    assert "the first would be called a_green_bench_and_a_blue_bowl_0.png" in said
    (tmp_path / "map.json").write_text(shown)
    source = find_images(tmp_path / "map.json", COLORS)
    assert reds(source) == {(0, 0): 7}
    (tmp_path / "map.json").write_text(shown[:-1] + ", " + shown[1:])
    with pytest.raises(ValueError, match=r"map\.json: the key 'a green bench and a blue bowl' stands twice"):
        find_images(tmp_path / "map.json", COLORS)
