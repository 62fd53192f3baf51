"""SearchSpec: all that a search needs to know, as a user writes it in YAML."""

import hashlib
import json
import os
from functools import cached_property
from typing import Any, Self

from pydantic import model_validator

from core.config import SamplerConfig
from core.frozen import FrozenModel
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

    @cached_property
    def search_id(self) -> str:
        """12 hex digits that name all that determines what is found.

        Prompts enter by their content, not by where they are read from; `name`, `metrics`, `resources`, `storage`,
        `tracking` and the device do not enter.

        Raises:
            ValueError: prompt sets that cannot be read or split.
        """
        text = json.dumps(self._identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

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
