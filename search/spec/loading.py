"""Specs in and out of YAML: built in by name or from a file, changed key by key, printed with comments."""

import copy
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from keystep.core.frozen import SHOWN, did_you_mean
from keystep.evaluation.bounded_yaml import MAX_CHARACTERS, load_yaml
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.spec.text import SpecLoader, spec_yaml
from keystep.search.storing.secrets import masked

__all__ = ["BUILT_IN", "DEFAULT_SPEC", "built_in_text", "load_spec", "parse_spec", "spec_yaml"]

BUILT_IN = ("shapes-sd", "shapes-sd3", "sd14", "sd3-medium", "sdxl")
DEFAULT_SPEC = BUILT_IN[0]
MAX_SOURCE = 2000  # characters of what errors call a spec


def load_spec(name_or_path: str | Path = DEFAULT_SPEC, overrides: Sequence[str] = ()) -> SearchSpec:
    """The spec that a name in `BUILT_IN` or a YAML file stands for, with keys changed by `overrides`.

    Args:
        name_or_path: a built-in name, or a file. A file without `name` is called by its own.
        overrides: `KEY=VALUE` each: a key's path and a YAML value, such as `search.trials=40` or
            `space.cn=[1.0, 0.5]`; no value is null. Later ones win.

    Raises:
        ValueError: no such spec, no YAML, or a mistake in it, each with its key's path.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in BUILT_IN:
        return parse_spec(built_in_text(name), f"built-in spec {name}", overrides=overrides, name=name)
    if not path.is_file():
        raise ValueError(
            f"{name} is no file and no built-in spec{did_you_mean(name, list(BUILT_IN))} "
            f"(those are {', '.join(BUILT_IN)})"
        )
    if path.stat().st_size > 4 * MAX_CHARACTERS:
        raise ValueError(f"{name} has {path.stat().st_size:,} bytes; a spec has at most {MAX_CHARACTERS:,} characters")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8: {error}") from None
    return parse_spec(text, name, overrides=overrides, name=path.stem)


def built_in_text(name: str) -> str:
    """The YAML of a built-in spec."""
    return (resources.files("keystep.search.spec") / "built_in" / f"{name}.yaml").read_text(encoding="utf-8")


def parse_spec(text: str, source: str, *, overrides: Sequence[str] = (), name: str | None = None) -> SearchSpec:
    """The spec in a YAML text; `source` is what errors call it, `name` its name if it has none.

    Raises:
        ValueError: as `load_spec`; secrets are masked.
    """
    try:
        return _parsed(text, source, overrides, name)
    except ValueError as error:
        raise ValueError(masked(str(error))) from None


def _parsed(text: str, source: str, overrides: Sequence[str], name: str | None) -> SearchSpec:
    data = _read(text, source)
    if not isinstance(data, dict):
        raise ValueError(f"{source}: a spec is a mapping of {', '.join(SearchSpec.model_fields)}, got {data!r:.60}")
    # A section whose keys are all commented out is empty, and YAML calls that null.
    data = {key: value for key, value in data.items() if value is not None}
    if name is not None:
        data = {"name": name} | data
    for override in overrides:
        data = overridden(data, override)
    if overrides:
        source = f"{source} with --set {' --set '.join(overrides)}"[:MAX_SOURCE]
    return SearchSpec.from_plain(data, source)


def overridden(data: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy of plain data with one key changed, `KEY.KEY=VALUE`.

    Raises:
        ValueError: it is not written so, or a key on the way has no keys of its own.
    """
    path, equals, text = override.partition("=")
    override = override if len(override) <= SHOWN else f"{override[:SHOWN]}..."
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(re.fullmatch(r"\w+", key) for key in keys):
        raise ValueError(f"--set {override}: write KEY=VALUE, for instance search.trials=40 or space.cn=[1.0, 0.5]")
    value = _read(text, f"--set {override}")
    changed = copy.deepcopy(data)
    place = changed
    for depth, key in enumerate(keys[:-1]):
        inner = place.get(key)
        if inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict):
            raise ValueError(
                f"--set {override}: {'.'.join(keys[: depth + 1])} is {inner!r}, which has no key "
                f"{keys[depth + 1]!r}: set it as a whole"
            )
        place = inner
    place[keys[-1]] = value
    return changed


def _read(text: str, source: str) -> Any:
    return load_yaml(text, source, SpecLoader)
