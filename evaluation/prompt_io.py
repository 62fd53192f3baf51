"""Prompt files in and out: CSV and JSONL here, GenEval and Hugging Face through their own modules."""

import csv
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.bounded_json import parse_json
from core.frozen import did_you_mean
from core.prompts import Entity, Prompt
from evaluation.geneval import geneval_row, is_geneval, prompt_from_geneval
from evaluation.prompt_sets import STANDARD_SETS, PromptSet, sample_template, standard_set
from evaluation.template import read_template
from evaluation.tiam_dataset import read_dataset, write_dataset

logger = logging.getLogger(__name__)

COLUMN = re.compile(r"(entity|object|adj)([1-9]\d*)")
MAX_CHARACTERS = 4000  # of a prompt; no text encoder reads so many
FORMATS = ".csv, .jsonl, a file named *metadata.jsonl (GenEval), or a folder (Hugging Face dataset)"


def load_prompt_set(source: str | Path, num_prompts: int | None = None, seed: int = 0) -> PromptSet:
    """The prompts that a name or a file stands for, sampled by `seed` if `num_prompts` is given.

    `source`: a name in STANDARD_SETS, a template (.yaml), prompts (.csv, .jsonl, GenEval's
    evaluation_metadata.jsonl), or a folder with a saved Hugging Face dataset. ValueError says what is wrong,
    and in which line of which file.
    """
    if str(source) in STANDARD_SETS:
        return standard_set(str(source), num_prompts, seed)
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"{source}: no such file, and no standard prompt set{did_you_mean(path.name, list(STANDARD_SETS))} "
            f"(those are {', '.join(STANDARD_SETS)})"
        )
    if path.suffix in (".yaml", ".yml"):
        return sample_template(read_template(path), num_prompts, seed, path.stem)
    prompts = read_prompts(path)
    return prompts if num_prompts is None else prompts.sample(num_prompts, seed)


def read_prompts(path: str | Path) -> PromptSet:
    """The prompts of a CSV, a JSONL, a GenEval metadata file or a dataset folder.

    CSV columns are `prompt,entity1,...,adj1,...` (empty cells: none; `object1` is accepted for `entity1`). A
    JSONL row is {"prompt": ..., "entities": [{"noun": ..., "attribute": ...}]} or the columns of the CSV as
    keys. ValueError with file, line and reason: a column that is unknown, a prompt that is empty or stands
    twice, an attribute without its entity, an entity or attribute whose words are not in the prompt.
    """
    path = Path(path)
    if path.is_dir():
        rows = ((f"{path}, row {number}", prompt) for number, prompt in enumerate(read_dataset(path)))
    elif path.suffix == ".csv":
        rows = _csv_rows(path)
    elif path.suffix == ".jsonl":
        rows = _jsonl_rows(path)
    else:
        raise ValueError(f"{path}: prompts are read from {FORMATS}")
    return PromptSet(path.stem, tuple(_checked(rows, path)))


def write_prompts(prompts: PromptSet, path: str | Path) -> None:
    """Writes a set that `read_prompts` reads back equal, in the format that the suffix says.

    `*metadata.jsonl` becomes GenEval's layout, a path without a suffix a saved Hugging Face dataset with
    TIAM's columns. ValueError for another suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        width = max(len(prompt.entities) for prompt in prompts)
        colored = any(entity.attribute for prompt in prompts for entity in prompt.entities)
        names = [f"entity{k + 1}" for k in range(width)] + [f"adj{k + 1}" for k in range(width if colored else 0)]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", *names], restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(flat_row(prompt) for prompt in prompts)
    elif path.suffix == ".jsonl":
        make_row = geneval_row if path.name.endswith("metadata.jsonl") else _nested_row
        lines = (json.dumps(make_row(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
        path.write_text("".join(lines), encoding="utf-8")
    elif not path.suffix:
        write_dataset(prompts.prompts, path)
    else:
        raise ValueError(f"{path}: prompts are written as {FORMATS}")


def flat_row(prompt: Prompt) -> dict[str, str]:
    """The prompt as `prompt, entity1, ..., adj1, ...`, without keys for what it has not."""
    row = {"prompt": prompt.text}
    row |= {f"entity{k + 1}": entity.noun for k, entity in enumerate(prompt.entities)}
    return row | {f"adj{k + 1}": entity.attribute for k, entity in enumerate(prompt.entities) if entity.attribute}


def prompt_from_flat(row: Mapping[str, object]) -> Prompt:
    """The inverse of `flat_row`; empty values are none. ValueError for a row that is no prompt."""
    found: dict[str, dict[int, str]] = {"entity": {}, "adj": {}}
    for column, value in row.items():
        match = COLUMN.fullmatch(column)
        if column != "prompt" and not match:
            raise ValueError(f"unknown column {column!r}; known are prompt, entity1, entity2, ..., adj1, adj2, ...")
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{column} must be text, got {value!r:.200}")
        if match and value and value.strip():
            found["adj" if match[1] == "adj" else "entity"][int(match[2])] = value.strip()
    nouns, attributes = found["entity"], found["adj"]
    for place in sorted(attributes.keys() - nouns.keys()):
        raise ValueError(f"adj{place} is {attributes[place]!r}, but there is no entity{place}")
    if sorted(nouns) != list(range(1, len(nouns) + 1)):
        raise ValueError(f"entities must fill entity1, entity2, ... without a gap, got {sorted(nouns)}")
    entities = tuple(Entity(nouns[place], attributes.get(place)) for place in sorted(nouns))
    return Prompt(str(row.get("prompt") or "").strip(), entities)


def check_prompt(prompt: Prompt) -> None:
    """Raises ValueError if the text is empty, names no entity, or lacks an entity's words, in any case."""
    if not prompt.text:
        raise ValueError("the prompt is empty")
    if len(prompt.text) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt.text):,} characters; at most {MAX_CHARACTERS:,} are read")
    if not prompt.entities:
        raise ValueError(f"{prompt.text!r} names no entity; fill entity1")
    for entity in prompt.entities:
        for word in filter(None, (entity.attribute, entity.noun)):
            if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt.text, re.IGNORECASE):
                raise ValueError(f"{word!r:.200} is not in the prompt {prompt.text!r}")


def _nested_row(prompt: Prompt) -> dict[str, object]:
    entities = [
        {"noun": entity.noun, "attribute": entity.attribute} if entity.attribute else {"noun": entity.noun}
        for entity in prompt.entities
    ]
    return {"prompt": prompt.text, "entities": entities}


def _prompt_from_nested(row: Mapping[str, object]) -> Prompt:
    unknown = sorted(row.keys() - {"prompt", "entities"})
    entities = row["entities"]
    if unknown or not isinstance(row.get("prompt"), str) or not isinstance(entities, list):
        raise ValueError('a row is {"prompt": text, "entities": [{"noun": ..., "attribute": ...}, ...]}')
    for entity in entities:
        if not isinstance(entity, dict) or not isinstance(entity.get("noun"), str) or not entity["noun"].strip():
            raise ValueError(f'an entity is {{"noun": text, "attribute": text or null}}, got {entity!r:.200}')
        if entity.keys() - {"noun", "attribute"} or not isinstance(entity.get("attribute"), str | None):
            raise ValueError(f'an entity is {{"noun": text, "attribute": text or null}}, got {entity!r:.200}')
    return Prompt(
        str(row["prompt"]).strip(),
        tuple(Entity(item["noun"], item.get("attribute") or None) for item in entities),
    )


def _csv_rows(path: Path) -> Iterator[tuple[str, Prompt]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if "prompt" not in (reader.fieldnames or ()):
            raise ValueError(f"{path}, line 1: the header needs 'prompt', got {', '.join(reader.fieldnames or ())!r}")
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row:
                    raise ValueError(f"{where}: more cells than the header has columns; quote commas in the prompt")
                yield where, _at(where, prompt_from_flat, row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Prompt]]:
    left_out = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise ValueError(f"{where}: a row must be an object {{...}}, got {line.strip()[:60]!r}")
            if is_geneval(row):
                prompt = _at(where, prompt_from_geneval, row)
                if prompt is None:
                    left_out += 1
                    continue
            else:
                prompt = _at(where, _prompt_from_nested if "entities" in row else prompt_from_flat, row)
            yield where, prompt
    if left_out:
        logger.warning(
            "%s: left out %d rows that ask for a number or a position, which TIAM does not see",
            path,
            left_out,
        )


def _at(where: str, parse, row):
    try:
        return parse(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _checked(rows: Iterator[tuple[str, Prompt]], path: Path) -> Iterator[Prompt]:
    first: dict[str, str] = {}
    for where, prompt in rows:
        _at(where, check_prompt, prompt)
        if prompt.text in first:
            raise ValueError(f"{where}: {prompt.text!r} stands already in {first[prompt.text]}")
        first[prompt.text] = where
        yield prompt
    if not first:
        raise ValueError(f"{path}: no prompts that can be scored")
