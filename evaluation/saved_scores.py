"""Scores from per-prompt TIAMv2 files, ours or its own, with the intervals that those files do not hold."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keystep.evaluation.scoring import SetScore
from keystep.evaluation.statistics import Estimate, interval
from keystep.evaluation.tiam_report import PromptScore, aggregate_tables, read_tables


@dataclass(frozen=True)
class SavedScore:
    """One kind of prompts: the name of TIAMv2's aggregate file and its table, and intervals at each confidence.

    `tiam`: colours included if the prompts have them; `without_colors`: None if they have none.
    """

    name: str
    table: dict[str, Any]
    confidences: tuple[float, ...]
    tiam: tuple[Estimate, ...]
    without_colors: tuple[Estimate, ...] | None


def read_saved(folder: str | os.PathLike[str]) -> list[SavedScore]:
    """Aggregates the folder's files: one result for each number of entities, with and without colours.

    ValueError if there are no such files, or one is of another layout, or prompts of a kind are at odds.
    """
    tables = read_tables(folder)
    results = []
    for name, aggregate in aggregate_tables(tables).items():
        kind = [table for table in tables if name in aggregate_tables([table])]
        colored = "tiam_gt_color" in aggregate
        found = _estimates(kind, "tiam_per_seed")
        results.append(
            SavedScore(
                name=name,
                table=aggregate,
                confidences=tuple(aggregate["conf"].values()),
                tiam=_estimates(kind, "tiam_gt_color_per_seed") if colored else found,
                without_colors=found if colored else None,
            )
        )
    return results


def prompt_scores(score: SetScore) -> Iterator[PromptScore]:
    """A scored set as `keystep.evaluation.tiam_report.write_tables` takes it; prompts without images are left out."""
    for index, prompt in enumerate(score.prompts):
        columns = np.flatnonzero(score.measured[index])
        if not columns.size:
            continue
        count = len(prompt.entities)
        yield PromptScore(
            prompt=prompt.text,
            seeds=tuple(score.seeds[column] for column in columns),
            confidences=score.confidences,
            colored=any(entity.attribute is not None for entity in prompt.entities),
            found=score.found[index, columns, :, :count],
            bound=score.bound[index, columns, :, :count],
        )


def _estimates(tables: list[dict[str, Any]], column: str) -> tuple[Estimate, ...]:
    """The interval of each row; seeds are aligned by position, which a mean over them does not see."""
    estimates = []
    for row in tables[0]["conf"]:
        outcomes = [list(table[column][row].values()) for table in tables]
        width = max(map(len, outcomes))
        estimates.append(interval([values + [np.nan] * (width - len(values)) for values in outcomes]))
    return tuple(estimates)
