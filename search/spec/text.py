"""A spec as YAML that explains itself: the comments are the documentation of the fields."""

import inspect
import re
import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from keystep.core.config import GSNg
from keystep.evaluation.yaml_text import UniqueKeyLoader
from keystep.search.spec.search_spec import SearchSpec, SpaceSpec

WIDTH = 110
_FLOAT = re.compile(r"[-+]?\d+[eE][-+]?\d{1,3}$")


class SpecLoader(UniqueKeyLoader):
    """YAML with two changes: a key that stands twice is an error, and 1e-3 is a number as it is elsewhere."""


class SpecDumper(yaml.SafeDumper):
    """Writes what `SpecLoader` reads."""


class Switch(str):
    """`on` or `off`, which are true and false in YAML and say more in a list of choices."""


for _kind in (SpecLoader, SpecDumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
SpecDumper.add_representer(Switch, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:bool", value))


def spec_yaml(spec: SearchSpec) -> str:
    """The spec as YAML with a comment for every key; `keystep.search.spec.loading.parse_spec` reads an equal one back.

    A password in a URI is written too: that is what the search needs. See `SearchSpec.without_secrets`.
    """
    lines = []
    for name in SearchSpec.model_fields:
        value = getattr(spec, name)
        if not isinstance(value, BaseModel):
            lines += [*_entry(name, value, field_comments(SearchSpec).get(name, ""), indent=""), ""]
            continue
        comments = field_comments(type(value))
        lines += [f"# {line}" for line in textwrap.wrap(_summary(type(value)), WIDTH - 2)]
        lines.append(f"{name}:")
        for field in type(value).model_fields:
            content = getattr(value, field)
            if isinstance(value, SpaceSpec) and field == "gsng":
                content = tuple(_switched(choice) for choice in content)
            lines += _entry(field, content, comments.get(field, ""), indent="  ")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def field_comments(model: type[BaseModel]) -> dict[str, str]:
    """What the `Args` section of a model's docstring says of each field."""
    _, _, section = (inspect.getdoc(model) or "").partition("Args:\n")
    comments: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            comments |= dict.fromkeys(names, entry[2])
        elif line.startswith(" " * 8):
            for name in names:
                comments[name] += " " + line.strip()
        elif line.strip():
            break
    return {name: _in_yaml(comment).removesuffix(".") for name, comment in comments.items()}


def _summary(model: type[BaseModel]) -> str:
    return _in_yaml((inspect.getdoc(model) or "").partition("\n\n")[0].replace("\n", " "))


def _in_yaml(text: str) -> str:
    """A docstring's words as they read in YAML."""
    return re.sub(r"\bNone\b", "null", text.replace("`", ""))


def _entry(name: str, value: Any, comment: str, *, indent: str) -> list[str]:
    """The key's line, its comment behind it if there is room, else above."""
    line = f"{indent}{name}: {_inline(value)}"
    if not comment:
        return [line]
    if len(line) + len(comment) + 4 <= WIDTH:
        return [f"{line}  # {comment}"]
    return [*(f"{indent}# {part}" for part in textwrap.wrap(comment, WIDTH - len(indent) - 2)), line]


def _inline(value: Any) -> str:
    text = yaml.dump(_plain(value), Dumper=SpecDumper, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("...\n").strip()


def _switched(choice: GSNg | None) -> Switch | GSNg:
    if choice is None:
        return Switch("off")
    return Switch("on") if choice == GSNg() else choice


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
