"""What came of an image, and the store of it: nothing that is known is computed again."""

import hashlib
import json
import sys
import uuid
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from keystep.core.config import Refinement
from keystep.core.prompts import Entity, Prompt
from keystep.core.seals import DamagedFile, open_seal, seal
from keystep.search.storing.secrets import masked
from keystep.search.storing.storage import Storage

FORMAT = 2
UNSEALED_FORMAT = 1  # of older versions, without a checksum: read, as far as its values are possible
UNREFINED = "unrefined"
READERS = 16  # shards read at a time: an object store answers each after tens of milliseconds


@dataclass(frozen=True)
class Outcome:
    """What one image showed of its prompt, and what it cost.

    Attributes:
        tiam: 1.0 if every entity is there in its colour, at the spec's confidence, else 0.0.
        found: of each entity in prompt order, whether it is there.
        bound: whether it is there in its colour.
        evaluations: denoiser evaluations spent on it when it was made; what was read from a store costs nothing.
            One sample through the denoiser is 1, so a step with guidance is 2, and so is a shift, which goes forward
            and back.
        evaluations_alone: what it would have cost from noise.
        seconds: its share of the time that its batch took, detection included.
        failure: why refinement left its latents where they were, or None.
        entities: what was looked for.
    """

    tiam: float
    found: tuple[bool, ...]
    bound: tuple[bool, ...]
    evaluations: float
    evaluations_alone: float
    seconds: float
    failure: str | None = None
    entities: tuple[Entity, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        plain = {**self.__dict__, "found": list(self.found), "bound": list(self.bound)}
        return plain | {"entities": [[entity.noun, entity.attribute] for entity in self.entities]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """An outcome from what `to_json` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it did not give that, or no image can have such an outcome.
        """
        entities = tuple(Entity(noun, attribute) for noun, attribute in plain["entities"])
        if plain["failure"] is not None and not isinstance(plain["failure"], str):
            raise ValueError(f"failure must be a text or null, got {plain['failure']!r}")
        return cls(
            tiam=_number(plain, "tiam", most=1.0),
            found=_flags(plain, "found", len(entities)),
            bound=_flags(plain, "bound", len(entities)),
            evaluations=_number(plain, "evaluations"),
            evaluations_alone=_number(plain, "evaluations_alone"),
            seconds=_number(plain, "seconds"),
            failure=plain["failure"],
            entities=entities,
        )


def _number(plain: Mapping[str, Any], name: str, most: float = sys.float_info.max) -> float:
    value = plain[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most:g}, got {value!r}")
    return float(value)


def _flags(plain: Mapping[str, Any], name: str, count: int) -> tuple[bool, ...]:
    flags = plain[name]
    if not isinstance(flags, list) or len(flags) != count or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(f"{name} must be true or false for each of {count} entities, got {flags!r}")
    return tuple(flags)


Outcomes = dict[tuple[str, int], Outcome]
"""By prompt text and seed."""


def setting_id(refinement: Refinement | None) -> str:
    """A short name of what a setting does; `unrefined` for None, and for a refinement without IterRef and GSNg."""
    if refinement is None or (refinement.iterref is None and refinement.gsng is None):
        return UNREFINED
    plain = json.dumps(refinement.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


class _Row(NamedTuple):
    text: str
    entities: tuple[Entity, ...]
    seed: int


@dataclass
class _Setting:
    """What this process knows of a setting."""

    shards: set[str] = field(default_factory=set)
    outcomes: dict[_Row, Outcome] = field(default_factory=dict)


class OutcomeStore:
    """Outcomes under `<uri>/outcomes/<evaluation_id>/<setting_id>/`, in JSON files that are written once.

    Any number of processes may read and write at a time: each write is a file of its own, which appears whole or not
    at all, sealed with its checksum. What has been read is kept in memory.

    Args:
        uri: as `keystep.search.storing.storage.Storage` takes it.
        evaluation_id: names all that an outcome depends on beside setting, prompt and seed.
        filesystem: of pyarrow, that holds `uri`; None goes by the address.

    Raises:
        ValueError: the place cannot be written to; says what to do.
    """

    def __init__(self, uri: str, evaluation_id: str, filesystem: Any = None):
        self.evaluation_id = evaluation_id
        self._storage = Storage(uri, filesystem)
        self._settings: dict[str, _Setting] = {}

    def read(self, refinement: Refinement | None, prompts: Iterable[Prompt] | None = None) -> Outcomes:
        """All that is known of a setting, by prompt text and seed, what other processes have added included.

        Args:
            refinement: the setting.
            prompts: only of these, with these entities; None is whatever is there.

        Warns:
            DamagedFile: a file is damaged, and counts as absent.

        Raises:
            OSError: the storage does not answer.
        """
        self._refresh(refinement)
        return self.remembered(refinement, prompts)

    def remembered(self, refinement: Refinement | None, prompts: Iterable[Prompt] | None = None) -> Outcomes:
        """As `read`, without looking for what others have added since."""
        outcomes = self._known(refinement).outcomes
        wanted = None if prompts is None else {(prompt.text, prompt.entities) for prompt in prompts}
        return {
            (row.text, row.seed): outcome
            for row, outcome in outcomes.items()
            if wanted is None or (row.text, row.entities) in wanted
        }

    def write(self, refinement: Refinement | None, outcomes: Mapping[tuple[str, int], Outcome]) -> None:
        """Keeps the outcomes of a setting.

        Raises:
            OSError: no room, or the place can no longer be written to; says what to do.
        """
        if not outcomes:
            return
        rows = [{"prompt": text, "seed": seed, **kept.to_json()} for (text, seed), kept in outcomes.items()]
        setting = None if refinement is None else refinement.model_dump(mode="json")
        content = seal(json.dumps({"format": FORMAT, "setting": setting, "outcomes": rows}, allow_nan=False))
        name = f"{uuid.uuid4().hex}.json"
        self._storage.write(f"{self._folder(refinement)}/{name}", content.encode())
        known = self._known(refinement)
        known.shards.add(name)
        known.outcomes.update({_Row(text, kept.entities, seed): kept for (text, seed), kept in outcomes.items()})

    def _known(self, refinement: Refinement | None) -> _Setting:
        return self._settings.setdefault(setting_id(refinement), _Setting())

    def _folder(self, refinement: Refinement | None) -> str:
        return f"outcomes/{self.evaluation_id}/{setting_id(refinement)}"

    def _refresh(self, refinement: Refinement | None) -> None:
        known, folder = self._known(refinement), self._folder(refinement)
        unseen = [name for name in self._storage.list(folder) if name not in known.shards]
        if len(unseen) < READERS:
            contents = [self._storage.read(f"{folder}/{name}") for name in unseen]
        else:
            with ThreadPoolExecutor(READERS) as readers:
                contents = list(readers.map(lambda name: self._storage.read(f"{folder}/{name}"), unseen))
        for name, content in zip(unseen, contents, strict=True):
            known.shards.add(name)
            try:
                known.outcomes.update(_parse(content))
            except (AttributeError, KeyError, TypeError, ValueError) as problem:
                warnings.warn(
                    f"the outcomes in {masked(self._storage.uri)}/{folder}/{name} are damaged ({problem!r}) and will "
                    "be computed again; the file can be removed",
                    DamagedFile,
                    stacklevel=3,
                )


def _parse(content: bytes) -> dict[_Row, Outcome]:
    plain, sealed = open_seal(content)
    if plain["format"] != (FORMAT if sealed else UNSEALED_FORMAT):
        raise ValueError(f"format {plain['format']!r}, this version reads {FORMAT}, with its checksum")
    rows = {}
    for row in plain["outcomes"]:
        outcome = Outcome.from_json(row)
        text, seed = row["prompt"], row["seed"]
        if not isinstance(text, str) or type(seed) is not int or seed < 0:
            raise ValueError(f"an outcome is of a prompt and a seed, got {text!r} and {seed!r}")
        rows[_Row(text, outcome.entities, seed)] = outcome
    return rows
