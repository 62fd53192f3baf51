"""CLIP metrics with small random models: loading, arithmetic against open_clip and numpy, errors."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from keystep.core.prompts import Entity, Prompt
from keystep.core.shapes.models import resolve_model
from keystep.core.shapes.scenes import render, sample_scene
from keystep.evaluation.aesthetics import AestheticHead
from keystep.evaluation.captions import BlipCaptioner
from keystep.evaluation.clip import SHAPES_CLIP, ClipScorer, entity_phrase, load_clip
from tests.evaluation.tiny_clip import BLIP_WORDS, CLIP, save_blip, save_clip

PROMPTS = [
    Prompt("a red cat and an orange dog", (Entity("cat", "red"), Entity("dog", "orange"))),
    Prompt("a bird", (Entity("bird"),)),
    Prompt("fog", ()),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return ClipScorer(str(folder), device="cpu", batch_size=2)


def images(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)) for _ in range(count)]


def reference(folder, texts: list[str]) -> np.ndarray:
    """(images, texts) similarities straight from open_clip, one pair at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    rows = []
    with torch.no_grad():
        for image in images():
            seen = model.encode_image(preprocess(image)[None])[0]
            said = [model.encode_text(tokenize([text]))[0] for text in texts]
            rows.append([float(torch.cosine_similarity(seen, one, dim=0)) for one in said])
    return np.array(rows)


def test_similarities_are_open_clips(scorer, folder):
    scores = scorer.scores(images(), PROMPTS)
    whole = reference(folder, [prompt.text for prompt in PROMPTS])
    np.testing.assert_allclose(scores.full, np.diag(whole), atol=1e-5)
    parts = reference(folder, ["a red cat", "an orange dog", "a bird"])
    np.testing.assert_allclose(scores.least, [parts[0, :2].min(), parts[1, 2], whole[2, 2]], atol=1e-5)


def test_prompts_without_entities_have_only_the_whole(scorer):
    scores = scorer.scores(images(1), PROMPTS[2:])
    np.testing.assert_array_equal(scores.full, scores.least)


def test_texts_are_compared_with_texts(scorer):
    same = scorer.text_similarity([prompt.text for prompt in PROMPTS], PROMPTS)
    np.testing.assert_allclose(same, 1.0, atol=1e-5)
    assert (scorer.text_similarity(["a bird", "fog", "a cat"], PROMPTS) < 0.9999).all()


def test_features_have_length_one_whatever_the_batch(scorer, folder):
    features = scorer.image_features(images())
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    whole = ClipScorer(f"local-dir:{folder}", device="cpu", batch_size=64)
    np.testing.assert_allclose(whole.image_features(images()), features, atol=1e-5)
    assert whole.fingerprint == scorer.fingerprint


def test_articles():
    assert entity_phrase(Entity("circle", "red")) == "a red circle"
    assert entity_phrase(Entity("cat", "orange")) == "an orange cat"
    assert entity_phrase(Entity("elephant")) == "an elephant"
    assert entity_phrase(Entity("unicorn")) == "a unicorn"


def test_weights_are_never_random(tmp_path):
    with pytest.raises(ValueError, match=r"'ViT-B-32' is an architecture and needs pretrained weights: openai"):
        ClipScorer("ViT-B-32")
    with pytest.raises(ValueError, match="neither a folder"):
        ClipScorer("ViT-of-nowhere")
    with pytest.raises(ValueError, match="there is no folder"):
        ClipScorer(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match=r"no open_clip_config\.json"):
        ClipScorer(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    with pytest.raises(ValueError, match="no CLIP at"):
        ClipScorer(str(tmp_path))


def scene(seed: int, *entities: tuple[str, str]) -> Image.Image:
    pixels, _ = render([sample_scene(np.random.default_rng(seed), list(entities))])
    return Image.fromarray(pixels[0])


def test_the_embedded_model_loads_as_a_local_folder_and_knows_its_world():
    shapes = ClipScorer(SHAPES_CLIP, device="cpu")
    folder = load_clip(f"local-dir:{resolve_model(SHAPES_CLIP)}", device="cpu")
    assert folder.fingerprint == shapes.fingerprint == load_clip(SHAPES_CLIP, device="cpu").fingerprint
    asked = [
        (("circle", "red"), ("star", "blue")),
        (("heart", "green"), ("moon", "pink")),
        (("ring", "yellow"), ("cross", "purple")),
    ]
    prompts = [
        Prompt(
            "a photo of " + " and ".join(f"a {color} {noun}" for noun, color in entities),
            [Entity(noun, color) for noun, color in entities],
        )
        for entities in asked
    ]
    pictures = [scene(seed, *entities) for seed, entities in enumerate(asked)]
    texts = shapes.text_features([prompt.text for prompt in prompts])
    assert (shapes.image_features(pictures) @ texts.T).argmax(1).tolist() == [0, 1, 2]
    neglected = [scene(seed, entities[0]) for seed, entities in enumerate(asked)]
    whole, half = shapes.scores(pictures, prompts), shapes.scores(neglected, prompts)
    assert (half.full < whole.full).all() and (half.least < whole.least - 0.1).all()


def test_models_are_named_with_their_weights_or_by_their_folder(folder, tmp_path):
    by_folder = load_clip(str(folder), device="cpu")
    assert by_folder.fingerprint == ClipScorer(str(folder), device="cpu").fingerprint
    odd = tmp_path / "a:b"
    odd.symlink_to(folder)
    assert load_clip(str(odd), device="cpu").fingerprint == by_folder.fingerprint
    (tmp_path / "tiny-architecture.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(tmp_path)
    weights = folder / "open_clip_model.safetensors"
    named = load_clip(f"tiny-architecture:{weights}", device="cpu")
    assert named.name == f"tiny-architecture/{weights}"
    texts = ["a red cat", "fog"]
    np.testing.assert_allclose(named.text_features(texts), by_folder.text_features(texts), atol=1e-6)
    with pytest.raises(ValueError, match=r"'tiny-architecture' is an architecture and needs pretrained weights"):
        load_clip("tiny-architecture")
    with pytest.raises(ValueError, match="no CLIP at 'tiny-architecture' with weights 'nowhere'"):
        load_clip("tiny-architecture:nowhere")


def test_every_image_needs_its_prompt(scorer):
    with pytest.raises(ValueError, match="got 3 and 2"):
        scorer.scores(images(), PROMPTS[:2])
    with pytest.raises(ValueError, match="got 0 and 0"):
        scorer.scores([], [])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_the_aesthetic_head_is_a_linear_layer(tmp_path, suffix):
    weight, bias = np.array([[1.0, -2.0, 0.5]], np.float32), np.array([4.0], np.float32)
    tensors = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    path = tmp_path / f"head{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    elif suffix == ".npz":
        np.savez(path, weight=weight, bias=bias)
    else:
        torch.save(tensors, path)
    head = AestheticHead(path)
    features = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]], np.float32)
    np.testing.assert_allclose(head.scores(features), [5.0, 2.0, 5.0], rtol=1e-6)
    with pytest.raises(ValueError, match="embeddings of 3 numbers, got 2"):
        head.scores(features[:, :2])


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_head_that_could_run_code_is_refused(tmp_path, capsys):
    torch.save({"weight": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="cannot be read as an aesthetic head"):
        AestheticHead(tmp_path / "bad.pth")
    assert "must not run" not in capsys.readouterr().out


def test_a_head_that_is_broken_or_another_thing_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, tmp_path / "cut.pth")
    np.savez(tmp_path / "cut.npz", weight=np.zeros((1, 3)), bias=np.zeros(1))
    for cut in (tmp_path / "cut.pth", tmp_path / "cut.npz"):
        cut.write_bytes(cut.read_bytes()[:-100])
        with pytest.raises(ValueError, match="cannot be read as an aesthetic head"):
            AestheticHead(cut)
    np.savez(tmp_path / "odd.npz", weight=np.zeros((2, 3)), bias=np.zeros(2))
    with pytest.raises(ValueError, match=r"weight \(1, D\) and bias \(1,\)"):
        AestheticHead(tmp_path / "odd.npz")
    np.savez(tmp_path / "short.npz", weight=np.zeros((1, 3)))
    with pytest.raises(ValueError, match="exactly weight and bias, got weight"):
        AestheticHead(tmp_path / "short.npz")
    with pytest.raises(ValueError, match="no aesthetic head at"):
        AestheticHead(tmp_path / "nowhere.npz")
    (tmp_path / "head.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.safetensors, \.npz or \.pth"):
        AestheticHead(tmp_path / "head.bin")


def test_blip_captions_images(tmp_path, scorer):
    save_blip(tmp_path)
    captioner = BlipCaptioner(str(tmp_path), device="cpu", batch_size=2, max_new_tokens=4)
    captions = captioner.captions(images())
    assert len(captions) == 3 and all(set(caption.split()) <= set(BLIP_WORDS) for caption in captions)
    assert captioner.captions(images()) == captions
    assert captioner.captions(images()[2:]) == captions[2:]
    assert scorer.text_similarity(captions, PROMPTS).shape == (3,)


def test_captions_need_a_blip(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a bert model; captions need a BLIP"):
        BlipCaptioner(str(tmp_path))
