"""YAML within stated limits: counted as it is parsed, aliases written out, before anything is made of it."""

from typing import Any

import yaml

from keystep.core.bounded_json import MAX_DEPTH, within_limits
from keystep.evaluation.yaml_text import UniqueKeyLoader

MAX_CHARACTERS = 100_000
MAX_NODES = 10_000


def load_yaml(text: str, source: str, loader: type = UniqueKeyLoader) -> Any:
    """The value in a YAML text.

    Args:
        source: what errors call it.
        loader: a class of PyYAML, one that makes plain values alone.

    Raises:
        ValueError: no YAML, or beyond a limit; names the source, and the limit.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{source} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        problem = _beyond_limits(text, loader)
        value = None if problem else yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        # Not its own text, which quotes the line: that may hold a password.
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"\n  in line {mark.line + 1}, column {mark.column + 1}"
        told = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{source}: not YAML: {told}{place}") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # Its constructors let through what Python says of a date in a 13th month or a number of 5,000 digits.
        raise ValueError(f"{source}: not YAML: {error}") from None
    if problem:
        raise ValueError(f"{source}: {problem}")
    return within_limits(value, source)


def _beyond_limits(text: str, loader: type) -> str | None:
    """What a text has too much of, with every alias written out; None if it is all within the limits.

    Known from the parser's events alone, so that an alias bomb does not go off.
    """
    sizes: dict[str, int] = {}  # of what stands under an anchor
    open_nodes: list[tuple[str | None, int]] = []  # anchor and size so far, outermost first
    total = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            if any(anchor == opened for opened, _ in open_nodes):
                return f"*{anchor} stands inside what it names, which would have no end"
            total += sizes.get(anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > MAX_NODES:
            return f"holds more than {MAX_NODES:,} values, aliases written out"
        if len(open_nodes) > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH} levels"
    return None
