"""Plain data from outside within stated limits, so that no text of a few hundred bytes fills memory or stops work."""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from keystep.core.plain_text import read_text

MAX_BYTES = 16_000_000
MAX_DEPTH = 32
MAX_NODES = 1_000_000
MAX_INTEGER = 2**64


def read_json(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a JSON file, in any encoding that `keystep.core.plain_text.read_text` knows.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, has a key twice, or is beyond a limit; names the file, and the limit.
    """
    path = Path(path)
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {max_bytes:,} are read")
    return parse_json(read_text(path), os.fspath(path))


def parse_json(text: str, source: str) -> Any:
    """The value in a JSON text; `source` is what errors call it.

    Raises:
        ValueError: as `read_json`.
    """
    twice: list[str] = []

    def watched(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return found

    try:
        value = json.loads(text, object_pairs_hook=watched)
    except RecursionError:
        raise ValueError(f"{source}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}") from None
    if twice:
        raise ValueError(f"{source}: the key {twice[0]!r} stands twice in one object; leave one of them")
    return within_limits(value, source)


def within_limits(value: Any, source: str, *, max_nodes: int = MAX_NODES) -> Any:
    """The value itself, if it is finite in every way: its numbers, its depth, how much it holds.

    Args:
        value: of mappings, lists, texts and numbers; nothing in it holds itself.

    Raises:
        ValueError: names the limit.
    """
    level, nodes = [value], 0
    for _ in range(MAX_DEPTH + 1):
        nodes += len(level)
        if nodes > max_nodes:
            raise ValueError(f"{source}: holds more than {max_nodes:,} values")
        inner = []
        for each in level:
            if isinstance(each, dict):
                inner += [*each.keys(), *each.values()]
            elif isinstance(each, list | tuple):
                inner += each
            else:
                _check_number(each, source)
        if not inner:
            return value
        level = inner
    raise ValueError(f"{source}: nested deeper than {MAX_DEPTH} levels")


def _check_number(value: Any, source: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{source}: {value} is no finite number; numbers go to about 1.8e308")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"{source}: a whole number beyond 2**64, {str(value)[:20]}...; none so large means anything")
