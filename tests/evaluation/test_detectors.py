"""Detectors of the real architectures, small and random, through the real processors and post-processing."""

import builtins
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Mask2FormerImageProcessor, RfDetrImageProcessor

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.coco import COCO_CATEGORY_IDS
from keystep.evaluation.detectors import DEFAULT_DETECTOR, DETECTORS, load_detector
from keystep.evaluation.geneval import prompt_from_geneval
from keystep.evaluation.instance_segmentation import FAMILIES, InstanceSegmenter, best_softmax, padded_size
from keystep.evaluation.labels import canonical_label, check_nouns
from keystep.evaluation.prompt_io import check_prompt
from keystep.evaluation.semantic_segmentation import SemanticSegmenter
from tests.evaluation import tiny_detectors

SAVERS = {
    "rf_detr": tiny_detectors.save_rf_detr,
    "mask2former": tiny_detectors.save_mask2former,
    "oneformer": tiny_detectors.save_oneformer,
    "semantic": lambda folder: tiny_detectors.save_segformer(folder, ["background", *tiny_detectors.LABELS]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVERS.items()}


@pytest.fixture(scope="module", params=SAVERS)
def detector(request, folders):
    return load_detector(str(folders[request.param]), min_score=0.005)


def picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


IMAGES = [picture(0, 64, 64), picture(1, 80, 48), picture(2, 64, 64), picture(3, 40, 40, "L")]


def test_keeps_the_contract(detector):
    found = detector.detect(IMAGES)
    assert len(found) == len(IMAGES) and any(found)
    for image, instances in zip(IMAGES, found, strict=True):
        scores = [instance.score for instance in instances]
        assert scores == sorted(scores, reverse=True)
        for instance in instances:
            assert instance.label in detector.labels
            assert detector.min_score <= instance.score <= 1
            assert instance.mask.shape == (image.height, image.width) and instance.mask.dtype == np.bool_
            x0, y0, x1, y1 = map(int, instance.box)
            assert instance.mask[y0:y1, x0:x1].sum() == instance.mask.sum() > 0
            assert instance.mask[y0].any() and instance.mask[y1 - 1].any()
            assert instance.mask[:, x0].any() and instance.mask[:, x1 - 1].any()


def test_an_image_is_seen_the_same_whatever_is_beside_it(detector):
    together = detector.detect(IMAGES)
    for image, beside in zip(IMAGES, together, strict=True):
        [alone] = detector.detect([image])
        assert [instance.label for instance in alone] == [instance.label for instance in beside]
        for one, other in zip(alone, beside, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert np.mean(one.mask != other.mask) < 0.01


def test_labels_go_by_their_canonical_names(detector):
    assert detector.labels == {"cat", "dog", "tv", "couch"}


def test_nothing_to_see_in_no_images(detector):
    assert detector.detect([]) == []


def test_the_fingerprint_is_of_what_the_detector_does(folders, tmp_path):
    for name, folder in folders.items():
        once = load_detector(str(folder))
        assert once.fingerprint == load_detector(str(folder)).fingerprint, name
        assert once.fingerprint != load_detector(str(folder), min_score=0.2).fingerprint, name
    other = tiny_detectors.save_rf_detr(tmp_path, labels=["cat", "dog", "tv", "bench"])
    assert load_detector(str(other)).fingerprint != load_detector(str(folders["rf_detr"])).fingerprint


def test_a_query_has_one_label_chosen_before_filtering(folders):
    """With a class that nearly ties everywhere, each query of the network comes back once at most."""
    detector = InstanceSegmenter(str(folders["rf_detr"]), min_score=1e-4)
    for instances in detector.detect(IMAGES):
        assert 0 < len(instances) <= 10


def rectangle(height: int, width: int, y0: int, y1: int, x0: int, x1: int) -> torch.Tensor:
    logits = torch.full((height, width), -8.0)
    logits[y0:y1, x0:x1] = 8.0
    return logits


def test_rf_detr_outputs_are_read_through_its_processor():
    scores = torch.tensor([[2.0, 1.5, -5.0], [-4.0, -4.0, 1.0], [-9.0, -9.0, -9.0]])
    masks = torch.stack(
        [rectangle(16, 16, 0, 8, 0, 8), rectangle(16, 16, 4, 12, 8, 16), rectangle(16, 16, 0, 16, 0, 16)]
    )
    outputs = SimpleNamespace(logits=scores[None], pred_masks=masks[None])
    [found] = FAMILIES["rf_detr"].read(RfDetrImageProcessor(), outputs, 0.25, [(32, 48)])
    assert [(label, round(score, 3)) for label, score, _ in found] == [(0, 0.881), (2, 0.731)]  # sigmoid(2), (1)
    expected = np.zeros((32, 48), bool)
    expected[:16, :24] = True
    assert np.mean(found[0][2].numpy() != expected) < 0.05


@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_mask2former_outputs_are_read_through_its_processor(family):
    probability = torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.3, 0.6], [0.05, 0.05, 0.9]])  # the last: no object
    masks = torch.stack([rectangle(16, 16, 0, 8, 0, 8), rectangle(16, 16, 0, 8, 0, 8), rectangle(16, 16, 0, 16, 0, 16)])
    outputs = SimpleNamespace(class_queries_logits=probability.log()[None], masks_queries_logits=masks[None])
    [found] = FAMILIES[family].read(Mask2FormerImageProcessor(), outputs, 0.1, [(32, 48)])
    found.sort(key=lambda item: -item[1])
    assert [label for label, _, _ in found] == [0, 1]  # once each, and not query 0 as class 1 too
    assert [score for _, score, _ in found] == pytest.approx([0.5, 0.3], abs=0.02)  # the masks are nearly certain
    expected = np.zeros((32, 48), bool)
    expected[:16, :24] = True
    for _, _, mask in found:
        assert np.mean(mask.numpy() != expected) < 0.05


def test_best_softmax_keeps_the_best_class_and_its_probability():
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0)) * 3
    before, after = logits.softmax(-1), best_softmax(logits).softmax(-1)
    best = before[..., :-1].argmax(-1, keepdim=True)
    torch.testing.assert_close(after.gather(-1, best), before.gather(-1, best))
    torch.testing.assert_close(after.gather(-1, best)[..., 0] + after[..., -1], torch.ones(5, 7))
    certain = best_softmax(torch.tensor([[1000.0, 0.0, 0.0]])).softmax(-1)
    assert certain.tolist() == [[1.0, 0.0, 0.0]]


def test_padding_is_no_part_of_the_image():
    assert padded_size((50, 100), None) == (50, 100)
    seen = torch.zeros(64, 100)
    seen[:50, :80] = 1
    assert padded_size((25, 40), seen) == (32, 50)


def test_masks_of_a_padding_processor_lie_on_the_image(folders, tmp_path):
    """The same network behind a processor that pads to multiples of 48 sees the same places."""
    model = tiny_detectors.save_mask2former(tmp_path)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    settings.update(size={"shortest_edge": 64, "longest_edge": 200}, size_divisor=48)
    (model / "preprocessor_config.json").write_text(json.dumps(settings))
    for width, height in ((64, 64), (96, 64), (64, 112)):
        for instance in load_detector(str(model), min_score=0.005).detect([picture(0, width, height)])[0]:
            assert instance.mask.shape == (height, width)


def test_classes_without_names_are_cocos(tmp_path):
    detector = load_detector(str(tiny_detectors.save_rf_detr(tmp_path, num_labels=91)), min_score=1e-4)
    assert detector.labels == set(COCO_CATEGORY_IDS.values()) and len(detector.labels) == 80
    assert {1: "person", 17: "cat", 44: "bottle", 90: "toothbrush"}.items() <= COCO_CATEGORY_IDS.items()
    assert max(COCO_CATEGORY_IDS) == 90 and 12 not in COCO_CATEGORY_IDS


def test_genevals_names_of_cocos_classes_are_known():
    """GenEval says what kind of mouse, keyboard and remote it means, and COCO's classes do not."""
    for name, label in {"computer mouse": "mouse", "computer keyboard": "keyboard", "tv remote": "remote"}.items():
        prompt = prompt_from_geneval({"include": [{"class": name, "count": 1}], "prompt": f"a photo of a {name}"})
        assert prompt is not None and canonical_label(prompt.entities[0].noun) == label
        check_prompt(prompt)
        check_nouns([prompt], frozenset(COCO_CATEGORY_IDS.values()), "coco")
    assert canonical_label("computer mouse") != "mouse"  # Open Images has both, and its mouse is an animal


def test_nouns_the_detector_cannot_see_are_refused(detector):
    detector.check_nouns([Prompt("a television and a sofa", (Entity("television"), Entity("sofa")))])
    with pytest.raises(ValueError) as error:
        detector.check_nouns(
            [Prompt("a cat and a dogg", (Entity("cat"), Entity("dogg"))), Prompt("a zebra", (Entity("zebra"),))]
        )
    message = str(error.value)
    assert "'dogg' (in 'a cat and a dogg'); did you mean 'dog'?" in message
    assert "'zebra' (in 'a zebra'); it knows cat, couch, dog, tv" in message


class FixedNetwork(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.logits.expand(len(pixel_values), -1, -1, -1))


def test_pieces_of_a_class_are_its_instances(folders):
    detector = SemanticSegmenter(str(folders["semantic"]), min_area=4)
    probability = torch.full((1, 5, 20, 20), 0.0025)
    probability[:, 0] = 0.99
    regions = {(1, 0.9): (slice(0, 5), slice(0, 5)), (1, 0.7): (slice(10, 15), slice(0, 5)),
               (2, 0.6): (slice(5, 7), slice(5, 7)), (3, 0.9): (slice(0, 1), slice(15, 18))}  # fmt: skip
    for (label, certain), where in regions.items():
        probability[(0, slice(None), *where)] = (1 - certain) / 4
        probability[(0, label, *where)] = certain
    probability[0, :, 7, 7] = (1 - 0.6) / 4
    probability[0, 2, 7, 7] = 0.6  # touches the piece of class 2 at a corner
    detector._model = FixedNetwork(probability.log())
    [found] = detector.detect([picture(0, 20, 20)])
    assert [(instance.label, round(instance.score, 3), int(instance.mask.sum())) for instance in found] == [
        ("cat", 0.9, 25), ("cat", 0.7, 25), ("dog", 0.6, 5),
    ]  # fmt: skip
    assert found[1].box == (0.0, 10.0, 5.0, 15.0)


def test_without_a_processor_pixels_are_fed_as_they_are(tmp_path):
    folder = tiny_detectors.save_segformer(tmp_path, ["background", "cat"], processor=False)
    detector = SemanticSegmenter(str(folder))
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = (255, 0, 127)
    fed = detector._inputs([Image.fromarray(pixels)])
    assert fed.shape == (1, 3, 4, 6)
    torch.testing.assert_close(fed[0, :, 0, 0], torch.tensor([1.0, -1.0, 127 / 127.5 - 1]))


def test_models_that_cannot_be_used_are_refused(tmp_path, folders):
    with pytest.raises(ValueError, match="no class named 'background'"):
        SemanticSegmenter(str(tiny_detectors.save_segformer(tmp_path, ["cat", "dog"])))
    with pytest.raises(ValueError, match="instance segmentation knows rf_detr, mask2former, oneformer"):
        load_detector(f"instance:{folders['semantic']}")
    with pytest.raises(ValueError, match="neither a folder"):
        load_detector(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"unknown kind of detector 'yollo'.*instance, semantic, yolo"):
        load_detector("yollo:yolov8x-seg.pt")
    with pytest.raises(ValueError, match=r"min_score must be within \(0, 1\), got 0"):
        load_detector(str(folders["rf_detr"]), min_score=0)
    (tmp_path / "future").mkdir()
    (tmp_path / "future" / "config.json").write_text('{"model_type": "rf_detr_99"}')
    with pytest.raises(ValueError, match=r"does not know the architecture.*5\.17 or later"):
        load_detector(str(tmp_path / "future"))


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_detectors.save_rf_detr(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_detector(str(folder))


def test_yolo_names_its_licence_when_it_is_missing(monkeypatch):
    real = builtins.__import__

    def without_ultralytics(name, *args, **kwargs):
        if name == "ultralytics":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ultralytics)
    with pytest.raises(ValueError, match=r"AGPL-3\.0.*pip install 'keystep\[ultralytics\]'"):
        load_detector("yolo:yolov8x-seg.pt")


def test_the_default_is_permissively_licensed():
    assert DEFAULT_DETECTOR == "Roboflow/rf-detr-seg-medium"
    assert set(DETECTORS) == {"instance", "semantic", "yolo"}
