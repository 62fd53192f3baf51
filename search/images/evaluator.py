"""What a setting makes of given instances: the hot path of a search. What is known is read, the rest is computed."""

import pkgutil
import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from PIL import Image

from core.backbones import backbone_for
from core.config import Refinement
from core.latents import LatentStore, content_key
from core.pieces import Pieces
from core.prompts import Prompt
from core.sampling import Sampler
from evaluation.tiam import ImageScore, check_colors, score_detections
from search.images.encodings import Encodings
from search.images.models import detector_of, latents_folder, pipeline_of, use_threads
from search.images.notices import damage_noted
from search.images.outcomes import Outcome, OutcomeStore
from search.images.prefixes import Prefixes, Sample
from search.images.trajectories import Trajectories
from search.instances import Instance
from search.settings.space import Space
from search.spec import SearchSpec

VERSION = 1
"""Enters every evaluation id: raise it when the same settings come to give other images or scores."""

DEFAULT_EVALUATOR = "search.images.evaluator:Evaluator"
GIGABYTE = 10**9

Task = tuple[Prompt, int]


class BlockEvaluator(Protocol):
    """What trials and pools need of an evaluator, which is made from a spec."""

    computed: Collection[int]
    """Numbers of the instances of the last call that were not known before."""

    # May also have `notices`, a collection of texts: what the last call is to tell the user (see `notices_of`).

    def evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> Mapping[int, Outcome]:
        """The outcome of every instance, by number."""
        ...


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
        prefixes = Prefixes(store, identity, Space(spec, self.timesteps), precise=precise)
        self._trajectories = Trajectories(self.sampler, prefixes)
        self._encode = Encodings(self.sampler.backbone, spec.sampler.max_sequence_length)
        self._pieces = Pieces(spec.resources.batch_size, "images")
        self._checked: set[Prompt] = set()

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
        self._check(prompts)
        for batch in self._pieces(lambda piece: self._compute(refinement, tasks[piece]), len(tasks)):
            self.outcomes.write(refinement, batch)
            known |= batch
        self.computed = frozenset(instance.number for instance in missing)
        return {instance.number: known[_key(instance)] for instance in instances}

    def images(self, refinement: Refinement | None, instances: Sequence[Instance]) -> list[Image.Image]:
        """The images of the instances, in their order, for contact sheets."""
        tasks = [(instance.prompt, instance.seed) for instance in instances]
        pieces = self._pieces(lambda piece: self._decoded(self._finished(refinement, tasks[piece])), len(tasks))
        return [image for images in pieces for image in images]

    def _compute(self, refinement: Refinement | None, batch: Sequence[Task]) -> dict[tuple[str, int], Outcome]:
        began = time.perf_counter()
        samples = self._finished(refinement, batch)
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

    def _finished(self, refinement: Refinement | None, batch: Sequence[Task]) -> list[Sample]:
        return self._trajectories.finish(batch, self._encode([prompt for prompt, _ in batch]), refinement)

    def _decoded(self, samples: Sequence[Sample]) -> list[Image.Image]:
        return self.sampler.backbone.decode(torch.cat([sample.point.latents for sample in samples]))

    def _check(self, prompts: set[Prompt]) -> None:
        """A noun without a class would only look like a bad image."""
        fresh = prompts - self._checked
        self.detector.check_nouns(fresh)
        check_colors(fresh, self.settings.palette)
        self._checked |= fresh


def notices_of(evaluator: BlockEvaluator) -> tuple[str, ...]:
    """What an evaluator's last call is to tell the user, such as damage that it met in stored files.

    Texts in `evaluator.notices`; an evaluator without it has nothing to tell. See `search.images.notices`.
    """
    return tuple(getattr(evaluator, "notices", ()))


def evaluator_for(spec: SearchSpec, path: str = DEFAULT_EVALUATOR) -> BlockEvaluator:
    """The evaluator of a spec. The last one is kept in the process, whatever is reset around it.

    Args:
        spec: the search.
        path: `module:class`, which is called with the spec.
    """
    return _evaluator(spec.model_dump_json(), path)


@lru_cache(maxsize=1)
def _evaluator(spec: str, path: str) -> BlockEvaluator:
    return pkgutil.resolve_name(path)(SearchSpec.model_validate_json(spec))


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
