"""Every mistake in a spec that needs no model to be seen: told in a second or two, before Ray starts."""

import os
from collections.abc import Iterator
from pathlib import Path

from keystep.core.bounded_json import read_json
from keystep.core.prompts import Prompt
from keystep.core.shapes.models import resolve_model
from keystep.evaluation.detector_names import KINDS
from keystep.evaluation.labels import canonical_label, check_nouns
from keystep.evaluation.tiam import check_colors
from keystep.search.settings.space import Space
from keystep.search.spec.prompt_parts import split_sets
from keystep.search.spec.schedule import is_known_here, latent_shape_of, timesteps_of
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.spec.sections import OWN_PRUNERS
from keystep.search.storing.storage import Storage


def check_spec(spec: SearchSpec, *, writes: bool = True) -> None:
    """Refuse a spec that cannot be searched, as far as it alone and this machine's files say so.

    Args:
        writes: whether its storage must be writable from here.

    Raises:
        ValueError: names the key, what is wrong with it, and what to do.
    """
    _check_names(spec)
    _check_prompts(spec)
    _check_pruner(spec)
    _check_device(spec.model.device)
    if writes:
        Storage(spec.storage.path)
    if is_known_here(spec.model):
        latent_shape_of(spec)
        Space(spec, timesteps_of(spec))


def _check_names(spec: SearchSpec) -> None:
    """Embedded models that do not exist, folders that are not there, kinds of detectors that are none."""
    detector = spec.detector.id
    kind, colon, rest = detector.partition(":")
    if colon and resolve_model(detector) == detector and kind not in KINDS:
        raise ValueError(f"detector.id: unknown kind of detector {kind!r} in {detector!r}; choose {', '.join(KINDS)}")
    for key, name in (("model.id", spec.model.id), ("detector.id", rest if colon else detector)):
        try:
            place = resolve_model(name)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        elsewhere = "RAY_ADDRESS" in os.environ  # whose folders are not seen from here
        if Path(place).expanduser().is_absolute() and not os.path.exists(place) and not elsewhere:
            raise ValueError(f"{key}: there is no {name} here: correct the path, or give a hub id")


def _check_prompts(spec: SearchSpec) -> None:
    """Colours that the palette lacks, and nouns that the detector has no class for, where its classes are here."""
    prompts = list(_prompts(spec))
    try:
        check_colors(prompts, spec.detector.palette)
        labels = _labels(spec.detector.id)
        if labels:
            check_nouns(prompts, labels, spec.detector.id)
    except ValueError as error:
        raise ValueError(f"prompts.sets: {error}") from None


def _prompts(spec: SearchSpec) -> Iterator[Prompt]:
    for part in split_sets(spec.prompts):
        for prompts in part:
            yield from prompts


def _labels(detector: str) -> frozenset[str]:
    """The classes that a detector in a folder names in its configuration; none if it is elsewhere or names none."""
    config = Path(resolve_model(detector.rpartition(":")[2])) / "config.json"
    if not config.is_file():
        return frozenset()
    found = read_json(config)
    names = found.get("id2label") if isinstance(found, dict) else None
    named = [str(name) for name in names.values()] if isinstance(names, dict) else []
    return frozenset(canonical_label(name) for name in named if not name.startswith("LABEL_"))


def _check_pruner(spec: SearchSpec) -> None:
    """Options that the pruner does not take, tried on a search of one prompt."""
    if spec.search.pruner in OWN_PRUNERS:
        return
    from keystep.search.settings.pruning import PRUNERS, PruningTask

    settings = spec.search
    task = PruningTask(
        rounds=[[[0]]],
        baseline={0: 0.0},
        block_sizes=[2],
        alpha=settings.alpha,
        min_prompts=settings.min_prompts,
        options=settings.pruner_options,
    )
    PRUNERS[settings.pruner](task)


def _check_device(device: str | None) -> None:
    """What no machine calls a device; whether this one's workers have it, they say."""
    if device is None:
        return
    import torch

    try:
        torch.device(device)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model.device: {device!r} is no device ({reason}): give cpu, cuda, or null") from None
