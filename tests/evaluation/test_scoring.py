"""Scoring a set: rendered scenes through the real segmenter, the report, and what stays in memory."""

import weakref

import numpy as np
import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.core.shapes.scenes import NOUNS, render, sample_scene
from keystep.evaluation.detector import Detector
from keystep.evaluation.detectors import SHAPES_DETECTOR, load_detector
from keystep.evaluation.file_names import file_stem
from keystep.evaluation.image_source import find_images
from keystep.evaluation.prompt_sets import PromptSet
from keystep.evaluation.score_report import entity_rates, estimates, report
from keystep.evaluation.scoring import SetScore, score_source
from keystep.evaluation.tiam import TiamSettings

PROMPTS = PromptSet(
    "x",
    (
        Prompt("a photo of a red circle and a blue star", (Entity("circle", "red"), Entity("star", "blue"))),
        Prompt("a photo of a green heart", (Entity("heart", "green"),)),
    ),
)


def draw(folder, prompt, seed, entities):
    """An image that is called after `prompt` and shows `entities`."""
    images, _ = render([sample_scene(np.random.default_rng(seed), entities)])
    Image.fromarray(images[0]).save(folder / f"{file_stem(prompt.text)}_{seed}.png")


@pytest.fixture
def folder(tmp_path):
    first, second = PROMPTS
    draw(tmp_path, first, 0, [("circle", "red"), ("star", "blue")])
    draw(tmp_path, first, 1, [("circle", "red")])
    draw(tmp_path, first, 2, [("circle", "blue"), ("star", "red")])
    draw(tmp_path, second, 0, [("heart", "green")])
    draw(tmp_path, second, 2, [("heart", "pink")])
    return tmp_path


def test_rendered_scenes_score_as_drawn(folder):
    source = find_images(folder, PROMPTS)
    done = []
    score = score_source(
        source, PROMPTS, load_detector(SHAPES_DETECTOR, device="cpu"), batch_size=2, on_image=done.append
    )
    np.testing.assert_array_equal(score.tiam(), [[1, 0, 0], [1, np.nan, 0]])
    np.testing.assert_array_equal(score.all_found(), [[1, 0, 1], [1, np.nan, 1]])
    assert len(done) == 5
    assert estimates(score)["tiam"].mean == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert entity_rates(score) == [
        {"found": 1.0, "bound": pytest.approx((2 / 3 + 1 / 2) / 2)},
        {"found": pytest.approx(2 / 3), "bound": pytest.approx(1 / 3)},
    ]
    written = report(score, TiamSettings(), {"name": "d"}, source.problems)
    assert written["images_scored"] == 5
    assert written["by_seed"] == {"0": 1.0, "1": 0.0, "2": 0.0}
    assert written["by_prompt"][0]["images"]["2"] == {"tiam": 0, "found": [1, 1], "bound": [0, 0]}
    assert written["by_prompt"][1]["tiam"] == 0.5
    assert written["problems"]["missing"] == ["'a photo of a green heart': number 1"]


class Blind(Detector):
    """Sees nothing, and watches how many of the images it was shown are still alive."""

    name, labels, min_score, fingerprint = "blind", frozenset(NOUNS), 0.1, "blind"

    def __init__(self):
        self.shown, self.most_alive = [], 0

    def detect(self, images):
        self.shown += [weakref.ref(image) for image in images]
        self.most_alive = max(self.most_alive, sum(image() is not None for image in self.shown))
        return [[] for _ in images]


def test_no_more_than_a_batch_or_two_is_ever_in_memory(tmp_path):
    prompt = PROMPTS.prompts[1]
    for seed in range(40):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{file_stem(prompt.text)}_{seed}.png")
    prompts, detector = PromptSet("x", (prompt,)), Blind()
    score = score_source(find_images(tmp_path, prompts), prompts, detector, batch_size=4)
    assert len(detector.shown) == 40 and detector.most_alive <= 9
    assert not score.tiam().any()


def test_cut_off_images_are_not_measured(folder):
    path = next(folder.glob("*heart_2.png"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = find_images(folder, PROMPTS)
    score = score_source(source, PROMPTS, Blind())
    assert score.measured.tolist() == [[True, True, True], [True, False, False]]
    assert len(source.problems.unreadable) == 1


def test_nouns_the_detector_cannot_see_are_refused_before_the_first_image(folder):
    prompts = PromptSet("x", (*PROMPTS, Prompt("a photo of a zebra", (Entity("zebra"),))))
    source, detector = find_images(folder, prompts), Blind()
    with pytest.raises(ValueError, match="zebra"):
        score_source(source, prompts, detector)
    assert not detector.shown


def test_colours_the_palette_lacks_are_refused_before_the_first_image(folder):
    prompts = PromptSet("x", (*PROMPTS, Prompt("a photo of an orange moon", (Entity("moon", "orange"),))))
    source, detector = find_images(folder, prompts), Blind()
    with pytest.raises(ValueError, match=r"'orange moon' in 'a photo of an orange moon'.*palette 'extended' has it"):
        score_source(source, prompts, detector)
    assert not detector.shown
    score_source(source, prompts, detector, TiamSettings(palette="extended"))
    assert len(detector.shown) == 5


def test_nothing_measured_is_no_score():
    empty = np.zeros((1, 1, 1, 1), bool)
    with pytest.raises(ValueError, match="no image could be scored"):
        estimates(SetScore(PromptSet("x", PROMPTS.prompts[1:]), (0,), (0.25,), empty[..., 0, 0], empty, empty))
