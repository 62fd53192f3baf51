"""Weights come from safetensors alone; a folder with one variant of them only says how to ask for it."""

import json
from pathlib import Path

import pytest
import torch

from keystep.core.config import GSNg, Refinement, StepConfig
from keystep.core.generation import load_pipeline
from keystep.core.weight_files import weights_problem
from tests.core.sampling_cases import sampler_config
from tests.tiny_models import tiny_sd


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pipeline saved by diffusers itself: as safetensors, pickled, and as fp16 files alone."""
    root, pipe = tmp_path_factory.mktemp("weights"), tiny_sd()
    pipe.save_pretrained(root / "plain")
    pipe.save_pretrained(root / "fp16", variant="fp16")
    pipe.save_pretrained(root / "pickled")
    # What this release writes no more, hubs still have: the same tensors, pickled.
    for file in (root / "pickled").rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(getattr(pipe, file.parent.name).state_dict(), file.parent / name)
        file.unlink()
    return {path.name: path for path in root.iterdir()}


def test_pickled_weights_are_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(OSError, match=r"weights in \w+ are pickled \(\w+\.bin\); .*safe_serialization=True"):
        load_pipeline(str(saved["pickled"]))
    with pytest.raises(ValueError, match="use_safetensors=False would unpickle"):
        load_pipeline(str(saved["pickled"]), use_safetensors=False)


def test_diffusers_itself_is_told_to_take_safetensors_alone(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the files cannot be seen beforehand, as on the hub."""
    monkeypatch.setattr("keystep.core.generation.weights_problem", lambda *_, **__: None)
    with pytest.raises(OSError, match="pickled weights alone, which can run code and are not loaded"):
        load_pipeline(str(saved["pickled"]))


def test_one_pickled_part_is_enough_to_refuse(saved: dict[str, Path], tmp_path: Path) -> None:
    pipe = tiny_sd()
    pipe.save_pretrained(tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(pipe.vae.state_dict(), tmp_path / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=r"weights in vae are pickled \(diffusion_pytorch_model\.bin\)"):
        load_pipeline(str(tmp_path))
    loaded = load_pipeline(str(tmp_path), vae=pipe.vae)  # nothing is read from there
    assert loaded.vae is pipe.vae


def test_a_variant_is_asked_for_by_name(saved: dict[str, Path]) -> None:
    place = str(saved["fp16"])
    with pytest.raises(OSError, match=r'has weights of variant fp16 only; name it: variant="fp16" .*model\.variant'):
        load_pipeline(place)
    expected = load_pipeline(str(saved["plain"])).unet.state_dict()
    config = StepConfig(model=place, variant="fp16", sampler=sampler_config("ddpm"), refinement=Refinement(gsng=GSNg()))
    for pipe in (load_pipeline(place, variant="fp16"), load_pipeline(config)):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in pipe.unet.state_dict().items())
    with pytest.raises(OSError, match=r'of variant fp16 only; name it: variant="fp16"'):
        load_pipeline(place, variant="ema")
    with pytest.raises(OSError, match=r"no weights of variant .ema., only of variant none"):
        load_pipeline(str(saved["plain"]), variant="ema")


@pytest.mark.parametrize(
    ("files", "variant", "problem"),
    [
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], None, None),
        (["model.fp16-00001-of-00002.safetensors"], None, "variant fp16 only"),
        (["model.fp16-00001-of-00002.safetensors"], "fp16", None),
        (["diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], None, "variant fp16 only"),
        (["model.non_ema.safetensors", "model.fp16.safetensors"], None, "variant fp16 and non_ema only"),
        (["model.non_ema.safetensors", "model.safetensors", "pytorch_model.bin"], None, None),
        (["pytorch_model.fp16.bin"], "fp16", "are pickled"),
        (["config.json"], None, None),
        ([], None, None),
    ],
)
def test_names_of_weight_files(tmp_path: Path, files: list[str], variant: str | None, problem: str | None) -> None:
    parts = {"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"], "safety_checker": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(parts))
    for folder in ("unet", "safety_checker"):
        (tmp_path / folder).mkdir()
    (tmp_path / "safety_checker" / "pytorch_model.bin").touch()  # of a part that the pipeline has not
    for name in files:
        (tmp_path / "unet" / name).touch()
    found = weights_problem(str(tmp_path), variant)
    assert (found is None) == (problem is None) and (problem or "") in (found or "")


def test_a_config_without_the_new_fields_loads_as_before(tmp_path: Path) -> None:
    config = StepConfig(model="m", sampler=sampler_config("ddpm"), refinement=Refinement(gsng=GSNg()))
    plain = json.loads(config.save(tmp_path / "new.json").read_text())
    del plain["variant"], plain["family"], plain["sha256"]
    (tmp_path / "old.json").write_text(json.dumps(plain))
    assert StepConfig.load(tmp_path / "old.json") == config
