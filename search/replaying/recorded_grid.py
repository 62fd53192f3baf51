"""Every setting of a grid on every instance, recorded once: what searches are replayed on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ArrowException

from keystep.core.config import Refinement
from keystep.core.prompts import Prompt
from keystep.core.seals import NAME
from keystep.evaluation.prompt_sets import PromptSet
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Part, make_part, make_parts
from keystep.search.spec.search_spec import SearchSpec

GRIDS = Path(__file__).parents[1] / "grids"
ALONE = -1
"""`step_index` of the settings without iterative refinement."""
_MARK = " #"


@dataclass(frozen=True, eq=False)
class RecordedGrid:
    """Outcomes of a whole grid.

    Attributes:
        spec: whose grid it is; its parts are the prompts.
        timesteps: of its sampler, one a step.
        outcomes: (N, P, S) 0 or 1: setting n, prompt p in the order of `prompts`, the s-th seed of its part.
        rows: setting -> n; the unrefined model is None.
    """

    spec: SearchSpec
    timesteps: tuple[float, ...]
    outcomes: NDArray[np.uint8]
    rows: Mapping[Refinement | None, int]

    @cached_property
    def space(self) -> Space:
        """The settings, with iterative refinement, that were recorded."""
        return Space(self.spec, self.timesteps)

    @cached_property
    def prompts(self) -> dict[tuple[str, str], int]:
        """(set, text) -> p, of both parts."""
        prompts: dict[tuple[str, str], int] = {}
        for part in make_parts(self.spec):
            for instance in part.instances:
                prompts.setdefault((instance.set_name, instance.prompt.text), len(prompts))
        return prompts

    def parts(self, validation: int, seed: int) -> tuple[Part, Part]:
        """Validation and held-out part of another draw.

        As long as prompts are left, they are the recorded prompts of each set, shuffled and split anew. Larger
        validation parts are drawn from them with replacement (a bootstrap: the recorded prompts stand for all that
        there are, and the held-out part is all of them).

        Args:
            validation: prompts a set in the validation part.
            seed: of the draw, and of the order within the parts.

        Raises:
            ValueError: fewer than 1.
        """
        if validation < 1:
            raise ValueError(f"validation must be at least 1 prompt a set, got {validation}")
        random = np.random.default_rng(seed)
        chosen, rest = [], []
        for name, prompts in self._pooled.items():
            if validation < len(prompts):
                order = random.permutation(len(prompts))
                chosen.append(PromptSet(name, tuple(prompts[index] for index in order[:validation])))
                rest.append(PromptSet(name, tuple(prompts[index] for index in order[validation:])))
            else:
                drawn = enumerate(random.integers(len(prompts), size=validation))
                chosen.append(PromptSet(name, tuple(_copy(prompts[index], number) for number, index in drawn)))
                rest.append(PromptSet(name, tuple(prompts)))
        seeds, block = self.spec.prompts.seeds, self.spec.search.block_prompts
        return make_part("validation", chosen, seeds, block, seed), make_part("held_out", rest, seeds, block, seed)

    @cached_property
    def _pooled(self) -> dict[str, list[Prompt]]:
        """The recorded prompts of each set."""
        pooled: dict[str, list[Prompt]] = {}
        for part in make_parts(self.spec):
            for prompts in part.sets:
                pooled.setdefault(prompts.name, []).extend(prompts)
        return pooled

    def values(self, refinement: Refinement | None, part: Part) -> dict[int, float]:
        """Instance number -> outcome of a setting on a part of the recorded prompts.

        Raises:
            ValueError: a setting that was not recorded.
        """
        if refinement not in self.rows:
            raise ValueError(f"the recorded grid has no setting {refinement!r}")
        outcomes = self.outcomes[self.rows[refinement]]
        rows = [self.prompts[instance.set_name, _original(instance.prompt)] for instance in part.instances]
        columns = [part.seeds.index(instance.seed) for instance in part.instances]
        return dict(enumerate(outcomes[rows, columns].astype(float).tolist()))

    def objective(self, refinement: Refinement | None, part: Part) -> float:
        """Accumulated TIAM of a setting on a part."""
        return part.objective(self.values(refinement, part))


def load_grid(name: str | Path = "shapes-sd") -> RecordedGrid:
    """A recorded grid that comes with the package, by its name, or one of your own, by its path.

    Raises:
        ValueError: no such grid; a file that is none, or that is damaged.
    """
    path = Path(name) if str(name).endswith(".parquet") else GRIDS / f"{name}.parquet"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in GRIDS.glob("*.parquet")))
        raise ValueError(f"no recorded grid at {path}; give a .parquet file of record_grid, or one of: {known}")
    try:
        table = pq.read_table(path)
        spec, timesteps = _described(table)
        return _grid(table, spec, timesteps)
    except (ArrowException, OSError, LookupError, AttributeError, StopIteration, TypeError, ValueError) as problem:
        raise ValueError(
            f"{path} is not a recorded grid, or is damaged ({problem}): install keystep again if it came with it, else "
            "record it again"
        ) from problem


def save_grid(table: pa.Table, spec: SearchSpec, timesteps: Sequence[float], path: Path) -> None:
    """Write a grid's table, with the spec and the timesteps, sealed with a checksum of all three."""
    metadata = {"spec": spec.model_dump_json(), "timesteps": json.dumps(list(timesteps))}
    sealed = metadata | {NAME: _digest(table, metadata["spec"].encode(), metadata["timesteps"].encode())}
    pq.write_table(table.replace_schema_metadata(sealed), path, compression="zstd")


def _digest(table: pa.Table, spec: bytes, timesteps: bytes) -> str:
    """Of all that is read from the file."""
    columns = json.dumps(table.to_pydict(), sort_keys=True, allow_nan=False).encode()
    return hashlib.sha256(b"\n".join([spec, timesteps, columns])).hexdigest()


def _described(table: pa.Table) -> tuple[SearchSpec, tuple[float, ...]]:
    metadata = table.schema.metadata or {}
    if b"spec" not in metadata or b"timesteps" not in metadata:
        raise ValueError("its metadata name no spec and no timesteps")
    if metadata.get(NAME.encode(), b"").decode() != _digest(table, metadata[b"spec"], metadata[b"timesteps"]):
        raise ValueError("its checksum is missing or does not fit")
    return SearchSpec.model_validate_json(metadata[b"spec"]), tuple(json.loads(metadata[b"timesteps"]))


def _grid(table: pa.Table, spec: SearchSpec, timesteps: tuple[float, ...]) -> RecordedGrid:
    space = Space(spec, timesteps)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    starts = range(0, table.num_rows, len(columns["setting"]) // (max(columns["setting"]) + 1))
    guided = iter(space.guidance_alone())
    rows: dict[Refinement | None, int] = {}
    for setting, start in enumerate(starts):
        params = {name: values[start] for name, values in columns.items()}
        if params["step_index"] != ALONE:
            rows[space.refinement({name: params[name] for name in space.varied})] = setting
        else:
            rows[None if params["gsng"] == "off" else next(guided)] = setting
    outcomes = np.array(columns["tiam"], dtype=np.uint8).reshape(len(rows), -1, len(spec.prompts.seeds))
    return RecordedGrid(spec, timesteps, outcomes, rows)


def _copy(prompt: Prompt, number: int) -> Prompt:
    """The prompt as one of its own: parts tell prompts apart by their text."""
    return replace(prompt, text=f"{prompt.text}{_MARK}{number}")


def _original(prompt: Prompt) -> str:
    return prompt.text.partition(_MARK)[0]
