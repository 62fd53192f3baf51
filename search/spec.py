"""SearchSpec: all that a search needs to know, as a user writes it in YAML."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from core.config import SamplerConfig
from core.frozen import FrozenModel
from evaluation.prompt_sets import STANDARD_SETS
from search.prompt_parts import split_sets
from search.spec_sections import (
    DetectorSpec,
    MetricsSpec,
    ModelSpec,
    PromptsSpec,
    ResourcesSpec,
    SearchSettings,
    StorageSpec,
    Text,
    TrackingSpec,
)
from search.spec_space import Range, SpaceSpec

__all__ = [
    "DetectorSpec",
    "MetricsSpec",
    "ModelSpec",
    "PromptsSpec",
    "Range",
    "ResourcesSpec",
    "SearchSettings",
    "SearchSpec",
    "SpaceSpec",
    "StorageSpec",
    "TrackingSpec",
]


class SearchSpec(FrozenModel):
    """A search for the best refinement of one model under one sampler.

    Args:
        name: what reports call it.
        model: the model whose step is sought.
        sampler: how images are sampled; a step index means something under these settings alone.
        prompts: what is drawn.
        detector: what judges it.
        metrics: what else is measured at the end.
        space: what is varied.
        search: how it is searched.
        resources: what it may use.
        storage: where it keeps what it knows.
        tracking: where it is logged.
    """

    name: Text
    model: ModelSpec
    sampler: SamplerConfig
    prompts: PromptsSpec
    detector: DetectorSpec = DetectorSpec()
    metrics: MetricsSpec = MetricsSpec()
    space: SpaceSpec = SpaceSpec()
    search: SearchSettings = SearchSettings()
    resources: ResourcesSpec = ResourcesSpec()
    storage: StorageSpec = StorageSpec()
    tracking: TrackingSpec = TrackingSpec()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        workers, lookahead = self.resources.workers, self.search.lookahead
        if workers is not None and workers > lookahead:
            raise ValueError(
                f"resources.workers is {workers}, but search.lookahead lets {lookahead} settings be under way at "
                "once: raise search.lookahead, or lower resources.workers"
            )
        if self.search.sampler == "grid":
            for name in self.space.ranges:
                raise ValueError(
                    f"space.{name} is a range, which has no grid: list its values, or set search.sampler to tpe or "
                    "random"
                )
        return self

    @property
    def search_id(self) -> str:
        """12 hex digits that name all that determines what is found.

        Prompts enter by their content, not by where they are read from; `name`, `metrics`, `resources`, `storage`,
        `tracking` and the device do not enter.

        Raises:
            ValueError: prompt sets that cannot be read or split.
        """
        text = json.dumps(self._identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def without_secrets(self) -> Self:
        """The spec with passwords and keys in its URIs masked: to be shown and logged, not to be run."""
        storage, tracking = self.storage, self.tracking
        return self.model_copy(
            update={
                "storage": storage.model_copy(
                    update={"path": masked(storage.path), "latents_path": masked(storage.latents_path)}
                ),
                "tracking": tracking.model_copy(
                    update={"uri": masked(tracking.uri), "artifact_location": masked(tracking.artifact_location)}
                ),
            }
        )

    def anchored(self, folder: str | os.PathLike[str] | None = None) -> Self:
        """The spec with its local paths made absolute, from `folder` or the working directory, for other processes.

        `search_id` stays what it is: prompts and models in files are known by what they are.
        """
        root = Path.cwd() if folder is None else Path(folder).absolute()

        def absolute(path: str | None) -> str | None:
            return path if path is None or "://" in path else os.path.normpath(root / Path(path).expanduser())

        storage = {"path": absolute(self.storage.path), "latents_path": absolute(self.storage.latents_path)}
        sets = tuple(name if name in STANDARD_SETS else absolute(name) for name in self.prompts.sets)
        model = absolute(self.model.id) if (root / self.model.id).is_dir() else self.model.id
        return self.model_copy(
            update={
                "model": self.model.model_copy(update={"id": model}),
                "prompts": self.prompts.model_copy(update={"sets": sets}),
                "storage": self.storage.model_copy(update=storage),
            }
        )

    def _identity(self) -> dict[str, Any]:
        model, prompts = self.model, self.prompts
        validation, held_out = split_sets(prompts)
        unused = set()
        if self.search.pruner == "none":
            unused |= {"min_prompts"}
        if self.search.pruner != "paired":
            unused |= {"alpha"}
        return {
            "model": [os.path.abspath(model.id) if os.path.isdir(model.id) else model.id, model.revision, model.dtype],
            "sampler": self.sampler.model_dump(mode="json"),
            "validation": [[prompts.hash for prompts in validation], prompts.seeds],
            "held_out": [[prompts.hash for prompts in held_out], prompts.held_out_seeds],
            "detector": self.detector.model_dump(mode="json"),
            "space": self.space.model_dump(mode="json"),
            "search": self.search.model_dump(mode="json", exclude=unused),
        }


def masked(uri: str | None) -> str | None:
    """A URI without the password before its host, and without keys, tokens and passwords in its query."""
    if uri is None or "://" not in uri:
        return uri
    uri = re.sub(r"(?<=://)([^/@:]*):[^/]*@", r"\1:***@", uri)
    return re.sub(r"(?i)([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&]*", r"\1***", uri)
