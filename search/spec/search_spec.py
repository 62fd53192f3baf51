"""SearchSpec: all that a search needs to know, as a user writes it in YAML."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator, model_validator

from keystep.core.config import SamplerConfig
from keystep.core.frozen import FrozenModel
from keystep.core.known_schedulers import MEMORY, MORE_STEPS
from keystep.evaluation.prompt_sets import STANDARD_SETS
from keystep.search.spec.prompt_parts import split_sets
from keystep.search.spec.sections import (
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
from keystep.search.spec.spaces import Range, SpaceSpec
from keystep.search.storing.secrets import masked

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

    @field_validator("name")
    @classmethod
    def _shown_everywhere(cls, name: str) -> str:
        return masked(name)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.search.sampler == "grid":
            for name in self.space.ranges:
                raise ValueError(
                    f"space.{name} is a range, which has no grid: list its values, or set search.sampler to tpe or "
                    "random"
                )
        return self

    @model_validator(mode="after")
    def _can_be_sampled(self) -> Self:
        """What is known of a schedule without the model: `keystep.search.checks.spec_checks` knows more."""
        scheduler, last = self.sampler.scheduler, self.sampler.num_inference_steps - 1
        if scheduler not in MEMORY:
            raise ValueError(
                f"sampler.scheduler: {scheduler!r} cannot be stopped and resumed, which a search does: choose one of "
                f"{', '.join(MEMORY)}"
            )
        for place, step in enumerate(self.space.steps if self.space.steps != "all" else ()):
            if step > last and scheduler not in MORE_STEPS:
                raise ValueError(
                    f"space.steps.{place}: step index {step} is outside the schedule: {scheduler} has steps 0..{last} "
                    "(sampler.num_inference_steps sets how many)"
                )
        for place, choice in enumerate(self.space.gsng):
            if scheduler in MORE_STEPS or choice is None:
                continue
            if not choice.step_range(last + 1) or (choice.stop or 0) > last + 1:
                raise ValueError(
                    f"space.gsng.{place}: start {choice.start} and stop {choice.stop} name no steps, or steps outside "
                    f"the schedule: {scheduler} has steps 0..{last} (sampler.num_inference_steps sets how many)"
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
        """The spec with the secrets in its texts masked: to be shown and logged, not to be run."""
        return self.from_plain(masked(self.model_dump(mode="json")), masked(self.name))

    def anchored(self) -> Self:
        """The spec with its local paths made absolute, for processes that run in another folder.

        `search_id` stays what it is.
        """
        root = Path.cwd()

        def absolute(path: str | None) -> str | None:
            return path if path is None or "://" in path else os.path.normpath(root / Path(path).expanduser())

        sets = tuple(name if name in STANDARD_SETS else absolute(name) for name in self.prompts.sets)
        storage = {"path": absolute(self.storage.path), "latents_path": absolute(self.storage.latents_path)}
        metrics = {name: path and located(path) for name, path in self.metrics}
        return self.model_copy(
            update={
                "model": self.model.model_copy(update={"id": located(self.model.id)}),
                "prompts": self.prompts.model_copy(update={"sets": sets}),
                "detector": self.detector.model_copy(update={"id": located(self.detector.id)}),
                "metrics": self.metrics.model_copy(update=metrics),
                "storage": self.storage.model_copy(update=storage),
            }
        )

    def _identity(self) -> dict[str, Any]:
        model, prompts, detector = self.model, self.prompts, self.detector
        validation, held_out = split_sets(prompts)
        unused = set()
        if self.search.pruner == "none":
            unused |= {"min_prompts"}
        if self.search.pruner != "paired":
            unused |= {"alpha"}
        return {
            # Specs without a variant keep the id that they had before there were variants.
            "model": [located(model.id), model.revision, model.dtype, *([model.variant] if model.variant else [])],
            "sampler": self.sampler.model_dump(mode="json"),
            "validation": [[prompts.hash for prompts in validation], prompts.seeds],
            "held_out": [[prompts.hash for prompts in held_out], prompts.held_out_seeds],
            "detector": {**detector.model_dump(mode="json"), "id": located(detector.id)},
            "space": self.space.model_dump(mode="json"),
            "search": self.search.model_dump(mode="json", exclude=unused),
        }


def located(name: str) -> str:
    """A model's name as it is, or, if it is that of a local file or folder, its absolute path; `KIND:` stays."""
    kind, colon, path = name.rpartition(":")
    local = not path.startswith("keystep/") and os.path.exists(path)
    return f"{kind}{colon}{os.path.abspath(path)}" if local else name
