"""Whether per-prompt TIAMv2 files are what was written, and hold what scores can be.

The layout is TIAMv2's own and has no place for a checksum: those of what keystep wrote stand beside the folder.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")
TOLERANCE = 1e-6


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of files of a folder, beside the folder."""
    lines = [f"{_sha256(folder / name)}  {folder.name}/{name}\n" for name in sorted(names)]
    partial = folder.parent / f"{SUMS}.partial"
    partial.write_text("".join(lines), encoding="utf-8")
    os.replace(partial, folder.parent / SUMS)


def check_sums(folder: Path) -> None:
    """Compare the files of a folder with their checksums. Files that have none are let through.

    Raises:
        ValueError: a file is missing or another one than was written; names it and what to do.
    """
    folder = folder.absolute()
    sums = folder.parent / SUMS
    if not sums.exists():
        return
    remedy = f"score the images again, or remove {sums} if you changed the files yourself"
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _SUM.fullmatch(line)
        if found is None:
            raise ValueError(f"{sums} is damaged (it has the line {line[:80]!r}): {remedy}")
        path = folder.parent / found[2]
        if path.parent != folder:
            continue
        if not path.is_file():
            raise ValueError(f"{path} is missing, which {sums} names: {remedy}")
        if _sha256(path) != found[1]:
            raise ValueError(f"{path} is damaged: it was changed after it was written. To mend it, {remedy}")


def impossible_value(table: Mapping[str, Mapping[str, Any]]) -> str:
    """What no scores can be in a per-prompt table whose columns have the same rows; empty if there is nothing."""
    counts = {len(value) if isinstance(value, list) else None for value in table["count_order"].values()}
    if len(counts) != 1 or not counts - {None, 0}:
        return "count_order must have one number an entity, as many in every row"
    for row, confidence in table["conf"].items():
        if not _share(confidence):
            return f"conf {confidence!r} in row {row} is no number from 0 to 1"
        if not isinstance(table["prompt"][row], str):
            return f"prompt in row {row} is no text"
        if not all(map(_share, table["count_order"][row])):
            return f"count_order in row {row} has a value that is no number from 0 to 1"
        if not _number(table["n_class_detected"][row]):
            return f"n_class_detected in row {row} is no number from 0"
        for column in ("tiam", "tiam_gt_color"):
            said = _unlike(table, column, row)
            if said:
                return said
    return ""


def _unlike(table: Mapping[str, Mapping[str, Any]], column: str, row: str) -> str:
    """Whether a share is not the mean of its images'."""
    if column not in table and f"{column}_per_seed" not in table:
        return ""
    value, images = table.get(column, {}).get(row), table.get(f"{column}_per_seed", {}).get(row)
    if not isinstance(images, dict) or not images or not all(map(_share, images.values())):
        return f"{column}_per_seed in row {row} must have a number from 0 to 1 for each image"
    mean = sum(images.values()) / len(images)
    if value is None or not _share(value) or abs(value - mean) > TOLERANCE:
        return f"{column} in row {row} is {value!r}, and its images' mean is {mean:g}"
    return ""


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _share(value: object) -> bool:
    return _number(value) and value <= 1  # type: ignore[operator]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
