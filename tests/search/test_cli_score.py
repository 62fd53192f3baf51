"""`keystep score` as a user runs it: rendered scenes, the real segmenter, real files."""

import json
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keystep.core.shapes.scenes import render, sample_scene
from keystep.evaluation.clip import ClipScorer
from keystep.evaluation.file_names import file_stem
from keystep.evaluation.prompt_io import read_prompts
from keystep.search.cli import build_app
from tests.evaluation.tiny_clip import save_blip, save_clip

CSV = """prompt,entity1,entity2,adj1,adj2
a photo of a red circle and a blue star,circle,star,red,blue
a photo of a green heart,heart,,green,
"""
SHOWN = {  # prompt number, image number -> what is drawn
    (0, 0): [("circle", "red"), ("star", "blue")],
    (0, 1): [("circle", "blue"), ("star", "red")],
    (1, 0): [("heart", "green")],
    (1, 1): [("moon", "green")],
}


def run(*arguments, columns=200):
    return CliRunner().invoke(build_app(), ["score", *map(str, arguments)], env={"COLUMNS": str(columns)})


@pytest.fixture
def place(tmp_path):
    (tmp_path / "prompts.csv").write_text(CSV)
    (tmp_path / "images").mkdir()
    prompts = read_prompts(tmp_path / "prompts.csv").prompts
    for (number, seed), entities in SHOWN.items():
        images, _ = render([sample_scene(np.random.default_rng(seed), entities)])
        Image.fromarray(images[0]).save(tmp_path / "images" / f"{file_stem(prompts[number].text)}_{seed}.png")
    return tmp_path


def arguments(place):
    return [place / "images", "--prompts", place / "prompts.csv", "--out", place / "scores.json", "--device", "cpu"]


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_shows_every_number_whole(place, width):
    result = run(*arguments(place), columns=width)
    assert result.exit_code == 0, result.stderr
    scores = json.loads((place / "scores.json").read_text())
    rows = []
    for row in scores["by_confidence"]:
        for name in ("tiam", "tiam_without_colors"):
            mean, low, high = (100 * row[name][end] for end in ("mean", "low", "high"))
            rows.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]")
    for name in ("clip_full", "clip_least"):
        metric = scores["metrics"][name]
        rows.append(f"{metric['mean']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]")
    assert all(result.stdout.count(text) >= rows.count(text) for text in rows), result.stdout
    assert max(len(line) for line in result.stdout.splitlines() if not line.startswith("->")) <= width


def test_scores_sheet_and_tiamv2_files(place):
    result = run(*arguments(place), "--sheet", place / "sheet.png", "--tiamv2", place / "tiamv2")
    assert result.exit_code == 0, result.stderr
    scores = json.loads((place / "scores.json").read_text())
    assert scores["tiam"]["mean"] == 0.5 and scores["tiam_without_colors"]["mean"] == 0.75
    assert scores["detector"]["name"] == "keystep/shapes-segmenter"
    assert scores["prompts"]["hash"] == read_prompts(place / "prompts.csv").hash
    low, high = 100 * scores["tiam"]["low"], 100 * scores["tiam"]["high"]
    assert f"50.0 [{low:.1f}, {high:.1f}]" in result.stdout
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.width > 400
    again = run("--from-json", place / "tiamv2" / "tiam_score_per_prompt", "--out", place / "again.json")
    assert again.exit_code == 0, again.stderr
    saved = json.loads((place / "again.json").read_text())
    assert set(saved) == {"tiam_score_1_colored_entities.json", "tiam_score_2_colored_entities.json"}
    for kind in saved.values():
        assert kind["tiam"][0]["mean"] == 0.5
    assert saved["tiam_score_2_colored_entities.json"]["without_colors"][0]["mean"] == 1.0


def without_rounding(scores):
    """What a file of scores holds; CLIP's numbers depend on the batch in their seventh digit."""

    def rounded(text):
        return round(float(text), 5)

    return json.loads(scores.read_text(), parse_float=rounded)


def test_an_interrupted_run_goes_on_from_what_was_detected(place):
    assert run(*arguments(place)).exit_code == 0
    scores = without_rounding(place / "scores.json")
    shards = list((place / "scores.detections").rglob("*.jsonl"))
    assert len(shards) == 2  # detections, and what CLIP measured
    for shard in shards:
        first, *_ = shard.read_bytes().splitlines(keepends=True)
        shard.write_bytes(first + first[:20])  # killed in the middle of the second line
    (place / "scores.json").unlink()
    assert run(*arguments(place)).exit_code == 0
    assert without_rounding(place / "scores.json") == scores
    for shard in shards:
        written = {path: path.read_bytes().count(b"\n") for path in shard.parent.glob("*.jsonl")}
        assert written.pop(shard) == 1 and sum(written.values()) == len(SHOWN) - 1


def test_ctrl_c_says_how_far_it_was_and_the_same_command_goes_on(place):
    total = 256
    picture = next((place / "images").glob("*_0.png")).read_bytes()
    for prompt in read_prompts(place / "prompts.csv").prompts:
        for number in range(total // 2):
            (place / "images" / f"{file_stem(prompt.text)}_{number}.png").write_bytes(picture)

    def press() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and not any((place / "scores.detections").rglob("*.jsonl")):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    result = run(*arguments(place), "--batch-size", "1")
    presser.join()
    assert result.exit_code == 130 and not (place / "scores.json").exists()
    told = re.search(r"interrupted: (\d+) of (\d+) images are scored\. The same command goes on from", result.stderr)
    assert told is not None and 0 <= int(told[1]) < int(told[2]) == total, result.stderr
    assert run(*arguments(place)).exit_code == 0


def test_clip_captions_and_looks_are_measured_in_the_same_pass(place):
    save_blip(folder := place / "blip")
    head = np.random.default_rng(0).normal(size=(1, 64))
    np.savez(place / "head.npz", weight=head, bias=np.full(1, 5.0))
    result = run(*arguments(place), "--captioner", folder, "--aesthetics", place / "head.npz")
    assert result.exit_code == 0, result.stderr
    scores = json.loads((place / "scores.json").read_text())
    clip = ClipScorer("keystep/shapes-clip", device="cpu")  # the default for prompts of its world
    assert scores["metric_models"]["clip"] == {"name": clip.name, "fingerprint": clip.fingerprint}
    assert set(scores["metric_models"]) == {"clip", "captioner", "aesthetics"}
    names = ("clip_full", "clip_least", "caption_similarity", "aesthetics")
    assert tuple(scores["metrics"]) == names
    prompts = read_prompts(place / "prompts.csv").prompts
    measured: dict[str, list[list[float]]] = {name: [] for name in names}
    for prompt, record in zip(prompts, scores["by_prompt"], strict=True):
        for name in names:
            measured[name].append([record["images"][str(seed)][name] for seed in (0, 1)])
        for seed in (0, 1):
            picture = Image.open(place / "images" / f"{file_stem(prompt.text)}_{seed}.png")
            own, image = clip.scores([picture], [prompt]), record["images"][str(seed)]
            assert image["clip_full"] == pytest.approx(float(own.full[0]), abs=1e-5)
            assert image["clip_least"] == pytest.approx(float(own.least[0]), abs=1e-5)
            looks = (clip.image_features([picture]) @ head[0]).item() + 5
            assert image["aesthetics"] == pytest.approx(looks, abs=1e-4)
    assert measured["clip_full"][1][0] > measured["clip_full"][1][1] + 0.1  # the heart, and a moon
    shown = result.stdout.replace(" ", "")
    for name in names:
        estimate = scores["metrics"][name]
        assert estimate["mean"] == pytest.approx(np.mean(measured[name]))
        assert estimate["low"] <= estimate["mean"] <= estimate["high"] and estimate["num_prompts"] == 2
        assert f"{estimate['mean']:.3f}[{estimate['low']:.3f},{estimate['high']:.3f}]" in shown


def test_clip_by_folder_or_not_at_all(place):
    save_clip(folder := place / "clip")
    assert run(*arguments(place), "--clip", folder).exit_code == 0
    scores = json.loads((place / "scores.json").read_text())
    assert scores["metric_models"]["clip"]["name"] == str(folder)
    assert set(scores["metrics"]) == {"clip_full", "clip_least"}
    result = run(*arguments(place), "--clip", "none")
    assert result.exit_code == 0 and "CLIP" not in result.stdout
    assert json.loads((place / "scores.json").read_text())["metrics"] == {}


def test_colours_outside_the_palette_end_it_before_anything_is_scored(place):
    text = "a photo of an orange circle"
    (place / "prompts.csv").write_text(f"prompt,entity1,adj1\n{text},circle,orange\n")
    images, _ = render([sample_scene(np.random.default_rng(0), [("circle", "red")])])
    Image.fromarray(images[0]).save(place / "images" / f"{file_stem(text)}_0.png")
    result = run(*arguments(place), "--allow-missing")
    assert result.exit_code == 2 and not (place / "scores.detections").exists()
    assert f"'orange circle' in '{text}' cannot be scored: palette 'tiam' has no colour 'orange'" in result.stderr
    assert "(palette 'extended' has it)" in result.stderr
    allowed = run(*arguments(place), "--allow-missing", "--palette", "extended")
    assert allowed.exit_code == 0, allowed.stderr
    scores = json.loads((place / "scores.json").read_text())
    assert scores["tiam"]["mean"] == 0.0 and scores["tiam_without_colors"]["mean"] == 1.0


def test_problems_are_named_and_end_it_unless_allowed(place):
    heart = place / "images" / "a_photo_of_a_green_heart_0.png"
    whole = heart.read_bytes()
    heart.write_bytes(whole[: len(whole) // 2])
    (place / "images" / "a_photo_of_a_green_heart_1.png").unlink()
    (place / "images" / "a_photo_of_a_cat_0.png").write_bytes(whole)
    result = run(*arguments(place))
    assert result.exit_code == 2
    assert "1 missing:\n    'a photo of a green heart': number 1" in result.stderr
    assert (
        "1 surplus:" in result.stderr and "a_photo_of_a_cat_0.png: no prompt of the set is called so" in result.stderr
    )
    assert "Traceback" not in result.stderr and not (place / "scores.json").exists()
    allowed = run(*arguments(place), "--allow-missing")
    assert allowed.exit_code == 0, allowed.stderr
    assert "1 unreadable:" in allowed.stderr
    scores = json.loads((place / "scores.json").read_text())
    assert {kind: len(entries) for kind, entries in scores["problems"].items()} == {
        "unreadable": 1,
        "missing": 1,
        "surplus": 1,
        "odd-sized": 0,
    }
    assert scores["images_scored"] == 2 and scores["tiam"]["num_prompts"] == 1
    kinds = [line.split("\t")[0] for line in (place / "scores.problems.txt").read_text().splitlines()]
    assert kinds == ["unreadable", "missing", "surplus"]


def test_genevals_folders_with_its_own_prompt_file(place):
    rows = [
        {"include": [{"class": "heart", "count": 2}], "prompt": "a photo of two hearts"},
        {"include": [{"class": "heart", "count": 1, "color": "green"}], "prompt": "a photo of a green heart"},
    ]
    (place / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, row in enumerate(rows):
        (place / "geneval" / f"{number:05}" / "samples").mkdir(parents=True)
        (place / "geneval" / f"{number:05}" / "metadata.jsonl").write_text(json.dumps(row))
    for seed in (0, 1):  # a green heart and a green moon
        picture = place / "images" / f"a_photo_of_a_green_heart_{seed}.png"
        picture.rename(place / "geneval" / "00001" / "samples" / f"{seed:05}.png")
    out = place / "scores.json"
    result = run(place / "geneval", "--prompts", place / "evaluation_metadata.jsonl", "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    (record,) = json.loads(out.read_text())["by_prompt"]
    assert record["prompt"] == "a photo of a green heart"
    assert [record["images"][seed]["tiam"] for seed in ("0", "1")] == [1, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ([], "needs IMAGES and --prompts, or --from-json DIR"),
        (["{}/images", "--prompts", "{}/nowhere.csv"], "no such file"),
        (["{}/prompts.csv", "--prompts", "{}/prompts.csv"], "images are read from a folder"),
        (["{}/images", "--prompts", "{}/prompts.csv", "--out", "{}/x.txt"], "--out is a .json file"),
        (["{}/images", "--prompts", "{}/prompts.csv", "--palette", "mine"], "palette"),
        (["{}/images", "--prompts", "{}/prompts.csv", "--clip", "none", "--captioner", "x"], "need a CLIP"),
        (["{}/images", "--prompts", "{}/prompts.csv", "--clip", "ViT-L-14"], "needs pretrained weights"),
        (["{}/images", "--prompts", "{}/prompts.csv", "--captioner", "{}/images"], "no captioner at"),
        (["{}/images", "--prompts", "{}/prompts.csv", "--aesthetics", "{}/no.pth"], "no aesthetic head at"),
        (["--from-json", "{}/images"], "no per-prompt JSON files"),
    ],
)
def test_user_errors_end_with_2_and_a_sentence(place, change, reason):
    result = run(*(argument.format(place) for argument in change))
    assert result.exit_code == 2
    assert reason in result.stderr and "Traceback" not in result.stderr
