"""SearchSpec: all that a search needs to know, as a user writes it in YAML."""

from typing import Self

from pydantic import model_validator

from core.config import SamplerConfig
from core.frozen import FrozenModel
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
