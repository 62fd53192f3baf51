"""Measuring images beside TIAM: the numbers are the models' own, and no image is measured twice."""

import numpy as np
import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.aesthetics import AestheticHead
from keystep.evaluation.captions import BlipCaptioner
from keystep.evaluation.clip import ClipScorer
from keystep.evaluation.image_metrics import METRICS, ImageMetrics
from tests.evaluation.tiny_clip import save_blip, save_clip

PROMPTS = [Prompt("a red cat and a dog", (Entity("cat", "red"), Entity("dog"))), Prompt("a bird", (Entity("bird"),))]
ALL = ("clip_full", "clip_least", "caption_similarity", "aesthetics")


def images(*seeds: int) -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 32, 3), dtype=np.uint8)) for seed in seeds
    ]


class Counting(ClipScorer):
    """Counts the images it is shown."""

    shown = 0

    def image_features(self, images):
        self.shown += len(images)
        return super().image_features(images)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    clip, blip, head = (tmp_path_factory.mktemp(name) for name in ("clip", "blip", "head"))
    save_clip(clip)
    save_blip(blip)
    weight = np.random.default_rng(0).normal(size=(1, 16))
    np.savez(head / "head.npz", weight=weight, bias=np.full(1, 5.0))
    captioner = BlipCaptioner(str(blip), device="cpu", max_new_tokens=4)
    return str(clip), captioner, AestheticHead(head / "head.npz"), weight


def test_numbers_are_the_models_own(models, tmp_path):
    clip, captioner, head, weight = models
    scorer = Counting(clip, device="cpu")
    metrics = ImageMetrics(scorer, tmp_path, captioner=captioner, aesthetics=head)
    assert metrics.names == tuple(METRICS) == ALL
    pictures = images(0, 1)
    values = metrics.measure(pictures, PROMPTS)
    alone = ClipScorer(clip, device="cpu")
    expected = alone.scores(pictures, PROMPTS)
    np.testing.assert_allclose(values["clip_full"], expected.full, atol=1e-6)
    np.testing.assert_allclose(values["clip_least"], expected.least, atol=1e-6)
    texts = [alone.text_features([caption])[0] for caption in captioner.captions(pictures)]
    asked = [alone.text_features([prompt.text])[0] for prompt in PROMPTS]
    np.testing.assert_allclose(
        values["caption_similarity"], [a @ b for a, b in zip(texts, asked, strict=True)], atol=1e-6
    )
    np.testing.assert_allclose(values["aesthetics"], alone.image_features(pictures) @ weight[0] + 5, atol=1e-5)


def test_an_image_is_measured_once_for_its_prompt_and_models(models, tmp_path):
    clip, captioner, head, _ = models
    first = ImageMetrics(Counting(clip, device="cpu"), tmp_path).measure(images(0, 1), PROMPTS)
    scorer = Counting(clip, device="cpu")
    again = ImageMetrics(scorer, tmp_path)
    for name, values in again.measure(images(1, 0), PROMPTS[::-1]).items():
        np.testing.assert_array_equal(values, first[name][::-1])
    assert scorer.shown == 0
    again.measure(images(0, 2, 2), [PROMPTS[0], PROMPTS[0], PROMPTS[0]])
    assert scorer.shown == 1  # the new image, once
    again.measure(images(0), PROMPTS[1:])
    assert scorer.shown == 2  # another prompt
    more = ImageMetrics(scorer, tmp_path, captioner=captioner, aesthetics=head)
    assert set(more.measure(images(0), PROMPTS[:1])) == set(ALL) and scorer.shown == 3


def test_what_does_not_fit_is_refused(models, tmp_path):
    clip, *_ = models
    scorer = ClipScorer(clip, device="cpu")
    np.savez(tmp_path / "wide.npz", weight=np.zeros((1, 768)), bias=np.zeros(1))
    with pytest.raises(ValueError, match="reads embeddings of 768 numbers, got 16; use the CLIP it was made for"):
        ImageMetrics(scorer, tmp_path, aesthetics=AestheticHead(tmp_path / "wide.npz"))
    with pytest.raises(ValueError, match="got 2 images and 1 prompts"):
        ImageMetrics(scorer, tmp_path).measure(images(0, 1), PROMPTS[:1])
