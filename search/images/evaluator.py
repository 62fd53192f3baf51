"""What a setting makes of given instances: the hot path of a search. What is known is read, the rest is computed."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from keystep.core.backbones import backbone_for
from keystep.core.config import Refinement
from keystep.core.latents import LatentStore, content_key
from keystep.core.pieces import Pieces
from keystep.core.prompts import Prompt
from keystep.core.sampling import Sampler
from keystep.core.write_behind import WriteBehind
from keystep.evaluation.tiam import ImageScore, check_colors, score_detections
from keystep.search.images.encodings import Encodings
from keystep.search.images.interruption import Interruption
from keystep.search.images.models import detector_of, latents_folder, pipeline_of, use_threads
from keystep.search.images.notices import damage_noted
from keystep.search.images.outcomes import Outcome, OutcomeStore
from keystep.search.images.prefixes import Prefixes, Sample
from keystep.search.images.trajectories import Trajectories
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Instance
from keystep.search.spec.search_spec import SearchSpec

VERSION = 1
"""Enters every evaluation id: raise it when the same settings come to give other images or scores."""

GIGABYTE = 10**9

Task = tuple[Prompt, int]


class Evaluator:
    """Draws and judges images of a spec's model, sampler and detector, in this process.

    Points that settings share come from the latent store, outcomes that are known from the outcome store; both are
    shared by all processes of all searches with the same storage.

    Args:
        spec: the search.

    Raises:
        ValueError: a model, detector, step or storage that cannot be used; with its key.
    """

    def __init__(self, spec: SearchSpec):
        use_threads(spec.resources.cpus)
        pipe, fingerprint = pipeline_of(spec.model)
        self.detector = detector_of(spec)
        self.settings = spec.detector.settings
        self.sampler = Sampler(backbone_for(pipe), spec.sampler)
        self.timesteps = [float(timestep) for timestep in self.sampler.timesteps]
        identity = {"version": VERSION, "pipeline": fingerprint, "sampler": self.sampler.identity}
        judge = {"detector": self.detector.fingerprint, "tiam": _plain(self.settings)}
        self.evaluation_id = content_key({**identity, **judge})[:20]
        self.outcomes = OutcomeStore(spec.storage.path, self.evaluation_id)
        self.computed: frozenset[int] = frozenset()
        self.notices: tuple[str, ...] = ()
        store = LatentStore(latents_folder(spec.storage), max(1, int(spec.storage.latents_gb * GIGABYTE)))
        precise = torch.finfo(self.sampler.dtype).bits >= 32
        self._store = store
        self._prefixes = Prefixes(store, identity, Space(spec, self.timesteps), precise=precise)
        self._trajectories = Trajectories(self.sampler, self._prefixes)
        self._encode = Encodings(self.sampler.backbone, spec.sampler.max_sequence_length)
        self._pieces = Pieces(spec.resources.batch_size, "images")
        self._checked: set[Prompt] = set()
        self.interruption = Interruption(self.sampler.backbone.denoiser)

    def write_behind(self) -> None:
        """From now on latents are written in the background; what other processes do not see of them yet they make."""
        if self._prefixes.store is self._store:
            self._prefixes.store = WriteBehind(self._store)

    def evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> dict[int, Outcome]:
        """The outcome of every instance, by its number. What is computed is stored, a batch at a time.

        Args:
            refinement: the setting; None is the model as it is.
            instances: any of them, in any order.

        Raises:
            ValueError: a noun that the detector has no class for, an entity that is not in its prompt.
            OSError: the outcomes cannot be stored.
        """
        with damage_noted() as notices:
            outcomes = self._evaluate(refinement, instances)
        self.notices = tuple(notices)
        return outcomes

    def _evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> dict[int, Outcome]:
        prompts = {instance.prompt for instance in instances}
        known = self.outcomes.remembered(refinement, prompts)
        if any(_key(instance) not in known for instance in instances):
            known = self.outcomes.read(refinement, prompts)
        missing = [instance for instance in instances if _key(instance) not in known]
        tasks = list(dict.fromkeys((instance.prompt, instance.seed) for instance in missing))
        held_out = all(instance.held_out for instance in missing)
        self._check(prompts)
        for batch in self._pieces(lambda piece: self._compute(refinement, tasks[piece], held_out), len(tasks)):
            self.outcomes.write(refinement, batch)
            known |= batch
        self.computed = frozenset(instance.number for instance in missing)
        return {instance.number: known[_key(instance)] for instance in instances}

    def images(self, refinement: Refinement | None, instances: Sequence[Instance]) -> list[Image.Image]:
        """The images of the instances, in their order, for contact sheets."""
        tasks = [(instance.prompt, instance.seed) for instance in instances]
        held_out = all(instance.held_out for instance in instances)
        pieces = self._pieces(
            lambda piece: self._decoded(self._finished(refinement, tasks[piece], held_out)), len(tasks)
        )
        return [image for images in pieces for image in images]

    def _compute(
        self, refinement: Refinement | None, batch: Sequence[Task], held_out: bool
    ) -> dict[tuple[str, int], Outcome]:
        began = time.perf_counter()
        samples = self._finished(refinement, batch, held_out)
        detected = self.detector.detections(self._decoded(samples))
        scores = [
            score_detections(detections, sample.prompt, self.settings)
            for sample, detections in zip(samples, detected, strict=True)
        ]
        seconds = (time.perf_counter() - began) / len(batch)
        return {
            (sample.prompt.text, sample.seed): _outcome(sample, score, seconds)
            for sample, score in zip(samples, scores, strict=True)
        }

    def _finished(self, refinement: Refinement | None, batch: Sequence[Task], held_out: bool) -> list[Sample]:
        conditioning = self._encode([prompt for prompt, _ in batch])
        return self._trajectories.finish(batch, conditioning, refinement, held_out=held_out)

    def _decoded(self, samples: Sequence[Sample]) -> list[Image.Image]:
        return self.sampler.backbone.decode(torch.cat([sample.point.latents for sample in samples]))

    def _check(self, prompts: set[Prompt]) -> None:
        """A noun without a class would only look like a bad image."""
        fresh = prompts - self._checked
        self.detector.check_nouns(fresh)
        check_colors(fresh, self.settings.palette)
        self._checked |= fresh


def _key(instance: Instance) -> tuple[str, int]:
    return instance.prompt.text, instance.seed


def _plain(settings: Any) -> dict[str, Any]:
    return {**vars(settings), "confidences": list(settings.confidences)}


def _outcome(sample: Sample, score: ImageScore, seconds: float) -> Outcome:
    return Outcome(
        tiam=float(score.tiam[0]),
        found=tuple(score.found[0].tolist()),
        bound=tuple(score.bound[0].tolist()),
        evaluations=sample.spent,
        evaluations_alone=sample.alone,
        seconds=seconds,
        failure=sample.failure,
        entities=sample.prompt.entities,
    )
