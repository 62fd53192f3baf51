"""Detections on disk: exact, shared, and never detected twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.colors import PALETTES, Palette
from keystep.evaluation.detection_cache import CachedDetector, DetectionCache, image_key
from keystep.evaluation.detections import Instance, measure
from keystep.evaluation.detector import Detector
from keystep.evaluation.masks import mask_box
from keystep.evaluation.tiam import TiamSettings, score_images


class BrightDetector(Detector):
    """Sees the bright pixels of an image as one lamp, and counts how often it was asked."""

    name, labels, min_score, fingerprint = "bright", frozenset({"lamp"}), 0.1, "bright-1"

    def __init__(self):
        self.seen = 0

    def detect(self, images):
        self.seen += len(images)
        masks = [np.asarray(image.convert("L")) > 128 for image in images]
        return [[Instance("lamp", 0.7, mask_box(mask), mask)] if mask.any() else [] for mask in masks]


def random_image(seed: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_detections_survive_the_disk_exactly(tmp_path):
    image = random_image(0)
    rng = np.random.default_rng(1)
    seen = [Instance("cat", rng.random(), tuple(rng.random(4)), rng.random((7, 9)) > 0.5) for _ in range(3)]
    seen.append(replace(seen[0], label="dog"))
    before = measure(image, seen, min_score=0.1)
    DetectionCache(tmp_path, "d").put(image_key(image), before)
    after = DetectionCache(tmp_path, "d").get(image_key(image))
    assert after is not None and after.to_json() == before.to_json()
    for old, new in zip(seen, after.instances(), strict=True):
        np.testing.assert_array_equal(old.mask, new.mask)
        assert (old.label, old.score, old.box) == (new.label, new.score, new.box)
    assert after.overlaps[0] == (0, 3, 1.0)


def test_an_image_is_shown_to_the_detector_once(tmp_path):
    detector = BrightDetector()
    images = [random_image(0), random_image(1), random_image(0)]
    cached = CachedDetector(detector, tmp_path)
    first = cached.detections(images)
    assert detector.seen == 2
    assert [d.to_json() for d in CachedDetector(detector, tmp_path).detections(images)] == [d.to_json() for d in first]
    assert detector.seen == 2
    plain = BrightDetector().detections(images)
    assert [d.to_json() for d in first] == [d.to_json() for d in plain]


def test_other_thresholds_and_palettes_run_no_detector(tmp_path):
    detector = BrightDetector()
    images = [random_image(seed) for seed in range(4)]
    prompts = [Prompt("a red lamp", (Entity("lamp", "red"),))] * 4
    list(score_images(images, prompts, CachedDetector(detector, tmp_path)))
    assert detector.seen == 4
    for config in (TiamSettings((0.8,)), TiamSettings((0.3,), "drop_both", palette="extended")):
        list(score_images(images, prompts, CachedDetector(detector, tmp_path), config))
    assert detector.seen == 4


def test_a_new_palette_is_counted_on_remembered_masks(tmp_path):
    detector = BrightDetector()
    image = random_image(3)
    CachedDetector(detector, tmp_path).detections([image])
    grey = Palette("two", {"dark": [(0.0, 0.0, 0.0)], "light": [(100.0, 0.0, 0.0)]})
    [again] = CachedDetector(detector, tmp_path, palettes=[grey]).detections([image])
    assert detector.seen == 1
    expected = measure(image, detector.detect([image])[0], palettes=[grey])
    np.testing.assert_array_equal(again.color_shares(grey), expected.color_shares(grey))
    assert PALETTES["tiam"].fingerprint in again.colors
    with pytest.raises(ValueError, match="no colours of palette 'tiam'"):
        expected.color_shares(PALETTES["tiam"])


def test_processes_share_a_folder(tmp_path):
    here, there = DetectionCache(tmp_path, "d"), DetectionCache(tmp_path, "d")
    image = random_image(0)
    there.put(image_key(image), measure(image, []))
    assert here.get(image_key(image)) is None
    here.refresh()
    assert here.get(image_key(image)) is not None and len(here) == 1
    assert image_key(image) not in DetectionCache(tmp_path, "another detector")


def test_an_unfinished_line_is_never_read(tmp_path):
    cache = DetectionCache(tmp_path, "d")
    images = [random_image(0), random_image(1)]
    for image in images:
        cache.put(image_key(image), measure(image, []))
    [shard] = tmp_path.glob("d/*.jsonl")
    shard.write_bytes(shard.read_bytes()[:-5])
    reopened = DetectionCache(tmp_path, "d")
    assert image_key(images[0]) in reopened and image_key(images[1]) not in reopened
    reopened.put(image_key(images[1]), measure(images[1], []))
    assert len(DetectionCache(tmp_path, "d")) == 2


def test_the_cache_is_plain_json(tmp_path):
    image = random_image(0)
    DetectionCache(tmp_path, "d").put(image_key(image), measure(image, []))
    [line] = next(tmp_path.glob("d/*.jsonl")).read_text().splitlines()
    assert json.loads(line)["image"] == image_key(image)


def test_keys_are_of_pixels_and_size():
    image = random_image(0, (6, 4))
    assert image_key(image) == image_key(image.convert("RGBA"))
    assert image_key(image) != image_key(random_image(1, (6, 4)))
    flat = Image.fromarray(np.asarray(image).reshape(6, 4, 3))
    assert image_key(image) != image_key(flat)


def test_every_image_needs_its_prompt():
    with pytest.raises(ValueError, match="got 1 images and 0 prompts"):
        score_images([random_image(0)], [], BrightDetector())
