"""The models of a search, loaded once a process, whoever asks."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from keystep.core.devices import usable_device
from keystep.core.fingerprint import pipeline_fingerprint
from keystep.core.generation import load_pipeline
from keystep.evaluation.detector import Detector
from keystep.evaluation.detectors import load_detector
from keystep.search.spec.search_spec import ModelSpec, SearchSpec, StorageSpec
from keystep.search.storing.places import kept_here


def use_threads(cpus: float) -> None:
    """Gives PyTorch as many threads as a worker has CPUs, at least one: more would take the other workers'."""
    torch.set_num_threads(max(1, int(cpus)))


def pipeline_of(model: ModelSpec) -> tuple[Any, str]:
    """The pipeline, on its device, and its fingerprint. The last one asked for is kept.

    Raises:
        ValueError: the model cannot be found, or the device cannot be used; with the key.
    """
    return _pipeline(model.id, model.revision, model.variant, model.dtype, _device(model.device))


@lru_cache(maxsize=1)
def _pipeline(model: str, revision: str | None, variant: str | None, dtype: str, device: str) -> tuple[Any, str]:
    # A worker's log has better uses than bars of files that load.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipe = load_pipeline(model, revision=revision, variant=variant, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.id: {error}") from error
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, pipeline_fingerprint(pipe)


@lru_cache(maxsize=1)
def _detector(spec: str, revision: str | None, min_score: float, device: str) -> Detector:
    return load_detector(spec, revision=revision, min_score=min_score, device=device)


def detector_of(spec: SearchSpec) -> Detector:
    """The spec's detector, on the model's device. The last one asked for is kept.

    Raises:
        ValueError: it cannot be found or used.
    """
    detector, device = spec.detector, _device(spec.model.device)
    try:
        return _detector(detector.id, detector.revision, detector.min_score, device)
    except ValueError as error:
        raise ValueError(f"detector.id: {error}") from error


def latents_folder(storage: StorageSpec) -> Path:
    """Where a worker keeps latents: as the spec says, else among what it can make again."""
    return (
        kept_here(storage.path) / "latents" if storage.latents_path is None else Path(storage.latents_path).expanduser()
    )


def _device(device: str | None) -> str:
    try:
        return usable_device(device)
    except ValueError as error:
        raise ValueError(f"model.device: {error}") from error
