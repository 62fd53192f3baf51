"""Prompt templates in YAML: `$entity1`, `$adj1`, `$ind_ar1`, `unique`; TIAM v1's `$object1`, `generate`."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from keystep.core.plain_text import read_text
from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.assignments import Assignments
from keystep.evaluation.bounded_yaml import load_yaml

PLACEHOLDER = re.compile(r"\$(entity|object|adj|ind_ar)(\d*)(?![A-Za-z0-9_])")
GENERATE = ("permutation", "combination", "ordered_combination")
KEYS = "template, unique, generate, entities, adjs, entity1, entity2, ..., adj1, adj2, ..."
AN = re.compile(r"[aeio]|u(?!ni(?!n|m)|s[aeu]|t[aeio]|r[aei]|k[aeiu]|bi)|hour|hono|honest|heir|8|1[18](?!\d)")
NOT_AN = re.compile(r"eu|ewe|on(e|ce)(?![a-z])|one-|ouija")


def indefinite_article(following: str) -> str:
    """The article of a word: "an" before a vowel sound (apple, hour, umbrella), else "a" (unicorn, one)."""
    word = following.lower()
    return "an" if AN.match(word) and not NOT_AN.match(word) else "a"


class Template:
    """All prompts a template stands for, by number, made when asked for.

    Arguments: `text` with placeholders, `$adjK` being the attribute of `$entityK`; `entities[k]` and
    `adjs[k]` the values of `$entity(k+1)` and `$adj(k+1)` (None where the text has no `$adj`); `unique`
    groups of placeholder names, without `$`, that must not take the same value in one prompt; `ordered`:
    mirrored prompts only once ("a and b", not "b and a"), which needs one list for all entities. `source`
    names the template in errors. Prompts are numbered with the last adjective turning fastest. ValueError for
    a template that cannot be filled.
    """

    def __init__(
        self,
        text: str,
        entities: Sequence[Sequence[str]],
        adjs: Sequence[Sequence[str] | None],
        unique: Sequence[Sequence[str]] = (),
        *,
        ordered: bool = False,
        source: str = "template",
    ):
        self.text, self.source = " ".join(text.split()), source
        self._adj_slots = [index for index, values in enumerate(adjs) if values is not None]
        names = [f"entity{k + 1}" for k in range(len(entities))] + [f"adj{k + 1}" for k in self._adj_slots]
        values = [*entities, *(values for values in adjs if values is not None)]
        for name, options in zip(names, values, strict=True):
            twice = sorted({value for value in options if list(options).count(value) > 1})
            if not options or twice:
                raise ValueError(f"{source}: {name} " + (f"lists {twice[0]!r} twice" if twice else "has no values"))
        distinct = set()
        for group in unique:
            unknown = sorted(set(group) - set(names))
            if unknown:
                raise ValueError(f"{source}: unique names {unknown[0]!r}, which is none of {', '.join(names)}")
            distinct |= set(itertools.combinations(sorted(names.index(name) for name in set(group)), 2))
        increasing = set(itertools.combinations(range(len(entities)), 2)) if ordered else set()
        if ordered and any(tuple(options) != tuple(entities[0]) for options in entities):
            raise ValueError(f"{source}: ordered_combination needs the same list for every entity")
        self.assignments = Assignments(
            tuple(tuple(options) for options in values), frozenset(distinct), frozenset(increasing)
        )
        if len(self.assignments) == 0:
            raise ValueError(f"{source}: no prompt satisfies unique; give longer lists or fewer constraints")

    def __len__(self) -> int:
        return len(self.assignments)

    def __getitem__(self, index: int) -> Prompt:
        values = self.assignments[index]
        num_entities = len(values) - len(self._adj_slots)
        nouns = values[:num_entities]
        attributes = dict(zip(self._adj_slots, values[num_entities:], strict=True))
        entities = tuple(Entity(noun, attributes.get(k)) for k, noun in enumerate(nouns))
        return Prompt(self._render(entities), entities)

    def _render(self, entities: tuple[Entity, ...]) -> str:
        def fill(match: re.Match[str]) -> str:
            if match[1] == "ind_ar":
                return "\0"  # which article depends on what the next word turns out to be
            entity = entities[int(match[2] or 1) - 1]
            return entity.attribute or "" if match[1] == "adj" else entity.noun

        filled = PLACEHOLDER.sub(fill, self.text)
        return re.sub("\0(?=(.*))", lambda match: indefinite_article(match[1].lstrip()), filled)


def parse_template(text: str, *, folder: Path | None = None, source: str = "template") -> Template:
    """The template that a YAML text describes; list files (`path:`) are looked up in `folder`.

    Keys: `template`; lists for all places at once (`entities`, `adjs`) or for one (`entity2`), each `[a, b]`,
    `{list: [a, b]}` or `{path: file, one value a line}`; `unique: [[entity1, entity2], [adj1, adj2]]`; TIAM
    v1's `generate: permutation | combination | ordered_combination`, and `object` wherever `entity` stands.
    Raises ValueError that names the source, and the line where YAML knows it.
    """
    data = load_yaml(text, source)
    if not isinstance(data, dict) or not isinstance(data.get("template"), str):
        raise ValueError(f"{source}: needs the key 'template' with a text such as 'a photo of $ind_ar1 $entity1'")
    data = {re.sub("^object", "entity", str(key)).replace("entitys", "entities"): data[key] for key in data}
    known = re.compile(r"template|unique|generate|entities|adjs|(entity|adj)[1-9]\d*")
    for key in data:
        if not known.fullmatch(key):
            raise ValueError(f"{source}: unknown key {key!r}; known are {KEYS}")
    entity_places, adj_places = _places(data["template"], source)
    lists = {
        key: _values(data[key], key, folder, source) for key in data if key not in ("template", "unique", "generate")
    }

    def values_of(kind: str, plural: str, place: int) -> list[str]:
        found = lists.get(f"{kind}{place}", lists.get(plural))
        if found is None:
            raise ValueError(f"{source}: no list for ${kind}{place}; add '{plural}' or '{kind}{place}'")
        return found

    entities = [values_of("entity", "entities", place) for place in entity_places]
    adjs = [values_of("adj", "adjs", place) if place in adj_places else None for place in entity_places]
    used = {f"entity{place}" for place in entity_places} | {f"adj{place}" for place in adj_places}
    for key in lists:
        if key not in used | {"entities", "adjs"} or (key == "adjs" and not adj_places):
            raise ValueError(f"{source}: {key!r} is given, but the template has no place for it")
    unique = _unique(data.get("unique", []), source)
    generate = data.get("generate")
    if generate is not None and generate not in GENERATE:
        raise ValueError(f"{source}: generate is one of {', '.join(GENERATE)}, got {generate!r}")
    if generate == "permutation":
        unique.append([f"entity{place}" for place in entity_places])
    return Template(data["template"], entities, adjs, unique, ordered=generate == "ordered_combination", source=source)


def read_template(path: str | Path) -> Template:
    """The template in a YAML file; list files are relative to it. Raises ValueError naming the file."""
    path = Path(path)
    return parse_template(read_text(path), folder=path.parent, source=str(path))


def _places(text: str, source: str) -> tuple[list[int], set[int]]:
    """The numbers of the `$entityK`, which must be 1..n, and of the `$adjK`, each needing its `$entityK`."""
    left_over = re.search(r"\$\w*", PLACEHOLDER.sub("", text))
    if left_over:
        raise ValueError(f"{source}: unknown placeholder {left_over[0]!r}; known are $entity1, $adj1 and $ind_ar1")
    numbers: dict[str, list[int]] = {"entity": [], "adj": [], "ind_ar": []}
    for kind, number in PLACEHOLDER.findall(text):
        numbers["entity" if kind == "object" else kind].append(int(number or 1))
    entities, adjs = sorted(numbers["entity"]), set(numbers["adj"])
    if not entities or entities != list(range(1, len(entities) + 1)):
        raise ValueError(f"{source}: entities must be numbered 1, 2, ... and stand once each, got {entities}")
    if len(adjs) != len(numbers["adj"]) or not adjs <= set(entities):
        raise ValueError(f"{source}: each $adj must stand once and have the $entity of its number, got {sorted(adjs)}")
    return entities, adjs


def _values(given: object, key: str, folder: Path | None, source: str) -> list[str]:
    if isinstance(given, dict) and set(given) == {"path"}:
        path = (folder or Path()) / str(given["path"])
        if not path.is_file():
            raise ValueError(f"{source}: the list file of {key!r} does not exist: {path}")
        given = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    elif isinstance(given, dict) and set(given) == {"list"}:
        given = given["list"]
    if not isinstance(given, list):
        raise ValueError(f"{source}: {key!r} must be a list, {{list: [...]}} or {{path: file}}, got {given!r}")
    for value in given:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{source}: {key!r} lists {value!r}, which is not text; put it in quotes")
    return [" ".join(value.split()) for value in given]


def _unique(given: object, source: str) -> list[list[str]]:
    groups = given if isinstance(given, list) else None
    if groups is None or not all(isinstance(group, list) for group in groups):
        raise ValueError(f"{source}: unique must be a list of lists such as [[entity1, entity2]], got {given!r}")
    return [[re.sub("^object", "entity", str(name)) for name in group] for group in groups]
