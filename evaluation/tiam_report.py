"""TIAM over many images: by prompt, by seed, by position, and in the files that TIAMv2 reads and writes.

TIAMv2 (CEA LIST) keeps one JSON file a prompt and one an aggregate, each a table stored column by column: a column is
an object from row number to value, a row is a confidence. `count_order` is how often the entity at each
position was found; `count_order_binding` how often it had its colour among the images where it was found.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keystep.core.bounded_json import read_json
from keystep.core.prompts import Prompt
from keystep.evaluation.file_names import file_stem, within_bytes
from keystep.evaluation.tiam import CONFIDENCES, ImageScore
from keystep.evaluation.tiam_checks import check_sums, impossible_value, write_sums

Table = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class PromptScore:
    """The scores of one prompt's S images, at C confidences, for E entities.

    Args:
        prompt: its text.
        seeds: S names of the images, distinct; numbers where the images have them.
        confidences: C numbers.
        colored: whether an entity has an attribute.
        found, bound: (S, C, E) bool, as in `ImageScore`.
    """

    prompt: str
    seeds: tuple[int | str, ...]
    confidences: tuple[float, ...]
    colored: bool
    found: NDArray[np.bool_]
    bound: NDArray[np.bool_]

    @property
    def num_entities(self) -> int:
        return self.found.shape[2]

    @property
    def tiam(self) -> NDArray[np.float64]:
        """(C,) share of the images that show everything, colours included where there are any."""
        return np.asarray(self.bound.all(2).mean(0))


def collect(
    prompt: Prompt,
    scores: Mapping[int | str, ImageScore],
    confidences: Sequence[float] = CONFIDENCES,
) -> PromptScore:
    """The scores of one prompt's images, by seed.

    Raises:
        ValueError: if there are none.
    """
    if not scores:
        raise ValueError(f"no image of prompt {prompt.text!r} was scored")
    return PromptScore(
        prompt=prompt.text,
        seeds=tuple(scores),
        confidences=tuple(confidences),
        colored=any(entity.attribute is not None for entity in prompt.entities),
        found=np.stack([score.found for score in scores.values()]),
        bound=np.stack([score.bound for score in scores.values()]),
    )


def prompt_table(score: PromptScore) -> Table:
    """One prompt in TIAMv2's layout."""
    rows = []
    for level, confidence in enumerate(score.confidences):
        found, bound = score.found[:, level], score.bound[:, level]
        row: dict[str, Any] = {
            "conf": confidence,
            "tiam": float(found.all(1).mean()),
            "n_class_detected": float(found.mean()),
            "tiam_per_seed": _per_seed(score.seeds, found),
            "prompt": score.prompt,
            "count_order": found.mean(0).tolist(),
        }
        if score.colored:
            row["tiam_gt_color"] = float(bound.all(1).mean())
            row["tiam_gt_color_per_seed"] = _per_seed(score.seeds, bound)
            row["count_order_binding"] = (bound.sum(0) / np.maximum(1, found.sum(0))).tolist()
        rows.append(row)
    return _columns(rows)


def aggregate_tables(tables: Iterable[Table]) -> dict[str, Table]:
    """TIAMv2's aggregates of per-prompt tables: one for each number of entities, with and without colours.

    Every prompt counts the same. The columns by seed are there only if all prompts of a kind have the same
    seeds.

    Returns:
        The name TIAMv2 gives the file (`tiam_score_2_colored_entities.json`) -> its table.

    Raises:
        ValueError: if prompts of one kind have different confidences.
    """
    kinds: dict[tuple[int, bool], list[Table]] = {}
    for table in tables:
        kinds.setdefault((len(table["count_order"]["0"]), "tiam_gt_color" in table), []).append(table)
    return {
        f"tiam_score_{count}_{'colored_' if colored else ''}entities.json": _aggregate(group, count, colored)
        for (count, colored), group in sorted(kinds.items())
    }


def write_tables(scores: Iterable[PromptScore], folder: str | os.PathLike[str]) -> dict[str, Table]:
    """Write `tiam_score_per_prompt/<prompt>.json` and the aggregates into a folder, as TIAMv2 does.

    The checksums of the per-prompt files stand beside their folder, as `sha256sum --check SHA256SUMS` reads them.

    Returns:
        The aggregates, by file name.

    Raises:
        ValueError: if a prompt comes twice.
    """
    per_prompt = Path(folder) / "tiam_score_per_prompt"
    per_prompt.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Table] = {}
    for score in scores:
        name = _file_name(score.prompt)
        if name in tables:
            raise ValueError(f"prompt {score.prompt!r} comes twice; collect all its images before writing")
        tables[name] = prompt_table(score)
        _write(per_prompt / name, tables[name])
    write_sums(per_prompt, tables)
    aggregates = aggregate_tables(tables.values())
    for name, table in aggregates.items():
        _write(Path(folder) / name, table)
    return aggregates


def read_tables(folder: str | os.PathLike[str]) -> list[Table]:
    """The per-prompt files of a folder, ours or TIAMv2's.

    Raises:
        ValueError: if there are none, one is not in the layout, has values that no score can have, or is not the one
            that was written; the message names the file.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ValueError(f"no per-prompt JSON files in {folder}")
    check_sums(Path(folder))
    return [_read(path) for path in paths]


def _aggregate(tables: Sequence[Table], count: int, colored: bool) -> Table:
    levels = [list(table["conf"].values()) for table in tables]
    if any(level != levels[0] for level in levels):
        raise ValueError(f"prompts with {count} entities were scored at different confidences; score them alike")
    same_seeds = len({frozenset(table["tiam_per_seed"]["0"]) for table in tables}) == 1
    rows = []
    for row, confidence in enumerate(levels[0]):
        cells = {column: [table[column][str(row)] for table in tables] for column in tables[0]}
        one: dict[str, Any] = {
            "conf": confidence,
            "n_prompt": len(tables),
            "tiam": float(np.mean(cells["tiam"])),
            "n_class_detected": float(np.mean(cells["n_class_detected"]) * count),
            "count_order": _by_position(cells["count_order"]),
        }
        if same_seeds:
            one["tiam_per_seed"] = _mean_by_seed(cells["tiam_per_seed"])
        if colored:
            one["tiam_gt_color"] = float(np.mean(cells["tiam_gt_color"]))
            one["count_order_binding"] = _by_position(cells["count_order_binding"])
            if same_seeds:
                one["tiam_gt_color_per_seed"] = _mean_by_seed(cells["tiam_gt_color_per_seed"])
        rows.append(one)
    return _columns(rows)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Table:
    return {column: {str(number): row[column] for number, row in enumerate(rows)} for column in rows[0]}


def _per_seed(seeds: Sequence[int | str], entities: NDArray[np.bool_]) -> dict[str, float]:
    return {str(seed): float(row.all()) for seed, row in zip(seeds, entities, strict=True)}


def _by_position(lists: Sequence[Sequence[float]]) -> dict[str, float]:
    return {str(position): float(mean) for position, mean in enumerate(np.mean(lists, axis=0))}


def _mean_by_seed(cells: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {seed: float(np.mean([cell[seed] for cell in cells])) for seed in cells[0]}


def _file_name(prompt: str) -> str:
    """TIAMv2's name, blanks as underscores; with a hash where that would be ambiguous, or no safe name of a file."""
    plain = re.sub(r"[^\w.,'-]", "_", prompt)
    if plain == prompt.replace(" ", "_") and "_" not in prompt and file_stem(prompt) == plain:
        return f"{plain}.json"
    return f"{within_bytes(plain, 100).lstrip('.')}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}.json"


def _write(path: Path, table: Table) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(table, indent=4))
    partial.replace(path)


def _read(path: Path) -> Table:
    table = read_json(path)
    wanted = ["conf", "tiam", "n_class_detected", "tiam_per_seed", "prompt", "count_order"]
    missing = wanted if not isinstance(table, dict) else [name for name in wanted if name not in table]
    if missing:
        raise ValueError(f"{path} is not a per-prompt TIAMv2 file: it has no {', '.join(missing)}")
    rows = set(table["conf"]) if isinstance(table["conf"], dict) else set()
    ragged = [name for name, column in table.items() if not isinstance(column, dict) or set(column) != rows]
    if ragged or "0" not in rows:
        raise ValueError(f"{path} is not a per-prompt TIAMv2 file: rows are missing in {', '.join(ragged) or 'conf'}")
    impossible = impossible_value(table)
    if impossible:
        raise ValueError(f"{path} is damaged, or not a per-prompt TIAMv2 file: {impossible}")
    return table
