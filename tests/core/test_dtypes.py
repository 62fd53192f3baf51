"""The dtype of a pipeline's weights, under the name that this diffusers has for it."""

import warnings
from pathlib import Path

import diffusers
import pytest
import torch

from keystep.core.dtypes import dtype_argument
from keystep.core.generation import load_pipeline
from tests.tiny_models import tiny_sd


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("0.36.0", "torch_dtype"),
        ("0.39.2", "torch_dtype"),
        ("0.40.0", "dtype"),
        ("0.43.0.dev0", "dtype"),
        ("1.0.0", "dtype"),
    ],
)
def test_the_name_goes_by_the_version(version: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusers, "__version__", version)
    assert dtype_argument(torch.float16) == {name: torch.float16}


@pytest.mark.parametrize("given", [{}, {"dtype": torch.float16}, {"torch_dtype": torch.float16}])
def test_pipelines_load_in_the_dtype_asked_for_without_a_warning(given: dict, tmp_path: Path) -> None:
    tiny_sd().to(torch.float16).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        pipe = load_pipeline(str(tmp_path), **given)
    expected = torch.float16 if given else torch.float32
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {expected}
