"""Prompt files in and out: what a file, a folder or a name stands for, checked, and written in the same layouts."""

import csv
import json
import logging
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from keystep.core.frozen import did_you_mean
from keystep.core.prompts import Prompt, located_mentions
from keystep.evaluation.geneval import geneval_row, is_geneval, prompt_from_geneval
from keystep.evaluation.prompt_files import SUFFIXES, read_rows
from keystep.evaluation.prompt_rows import (
    EXAMPLE,
    Row,
    flat_row,
    names_entities,
    nested_row,
    prompt_from_flat,
    prompt_from_nested,
)
from keystep.evaluation.prompt_sets import STANDARD_SETS, PromptSet, sample_template, standard_set
from keystep.evaluation.template import read_template
from keystep.evaluation.tiam_dataset import read_dataset, write_dataset

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 4000  # of a prompt; no text encoder reads so many
FORMATS = ".csv, .jsonl, a file named *metadata.jsonl (GenEval), or a folder (Hugging Face dataset)"
READ = f"{', '.join(SUFFIXES)} or a folder (Hugging Face dataset)"


def load_prompt_set(source: str | Path, num_prompts: int | None = None, seed: int = 0) -> PromptSet:
    """The prompts that a name or a file stands for, sampled by `seed` if `num_prompts` is given.

    `source`: a name in STANDARD_SETS, a template (.yaml), prompts (.csv, .tsv, .jsonl, .json,
    GenEval's evaluation_metadata.jsonl), or a folder with a saved Hugging Face dataset. ValueError says what is wrong,
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
    if path.suffix.lower() in (".yaml", ".yml"):
        return sample_template(read_template(path), num_prompts, seed, path.stem)
    prompts = read_prompts(path)
    return prompts if num_prompts is None else prompts.sample(num_prompts, seed)


def read_prompts(path: str | Path) -> PromptSet:
    """The prompts of a table, of JSON rows, of a GenEval metadata file or of a dataset folder.

    Columns are `prompt,entity1,...,adj1,...` (empty cells: none; `object1` is accepted for `entity1`). A
    JSON row is {"prompt": ..., "entities": [{"noun": ..., "attribute": ...}]} or has the columns as
    keys. Columns of another kind are left out, and a warning names them. ValueError with file, line and reason: a
    column that is misspelt or stands twice, a prompt that is empty or stands twice, an attribute without its entity,
    an entity that `keystep.core.prompts.located_mentions` does not find; a list in which no prompt has entities.
    """
    path = Path(path)
    if path.is_dir():
        prompts = [(f"{path}, row {number}", prompt) for number, prompt in enumerate(read_dataset(path))]
    else:
        prompts = list(_prompts(_rows(path), path))
    return PromptSet(path.stem, tuple(_checked(prompts, path)))


def read_texts(path: str | Path) -> tuple[str, ...]:
    """The texts alone of a file of prompts, each once, whether it names entities or not. ValueError as above."""
    texts = (str(row.values.get("prompt") or "").strip() for row in _rows(Path(path)))
    return tuple(dict.fromkeys(filter(None, texts)))


def write_prompts(prompts: PromptSet, path: str | Path) -> None:
    """Writes a set that `read_prompts` reads back equal, in the format that the suffix says.

    `*metadata.jsonl` becomes GenEval's layout, a path without a suffix a saved Hugging Face dataset with
    TIAM's columns. ValueError for another suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        width = max(len(prompt.entities) for prompt in prompts)
        colored = any(entity.attribute for prompt in prompts for entity in prompt.entities)
        names = [f"entity{k + 1}" for k in range(width)] + [f"adj{k + 1}" for k in range(width if colored else 0)]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", *names], restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(flat_row(prompt) for prompt in prompts)
    elif path.suffix.lower() == ".jsonl":
        make_row = geneval_row if path.name.lower().endswith("metadata.jsonl") else nested_row
        lines = (json.dumps(make_row(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
        path.write_text("".join(lines), encoding="utf-8")
    elif not path.suffix:
        write_dataset(prompts.prompts, path)
    else:
        raise ValueError(f"{path}: prompts are written as {FORMATS}")


def check_prompt(prompt: Prompt) -> None:
    """Raises ValueError if the text is empty, names no entity, or lacks an entity."""
    if not prompt.text:
        raise ValueError("the prompt is empty")
    if len(prompt.text) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt.text):,} characters; at most {MAX_CHARACTERS:,} are read")
    if not prompt.entities:
        raise ValueError(f"{prompt.text!r} names no entity; fill entity1")
    for entity in prompt.entities:
        if len(str(entity)) > MAX_CHARACTERS:
            raise ValueError(f"an entity has {len(str(entity)):,} characters; at most {MAX_CHARACTERS:,} are read")
    located_mentions(prompt)


def _rows(path: Path) -> list[Row]:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: prompts are read from {READ}")
    return read_rows(path)


def _prompts(rows: list[Row], path: Path) -> Iterator[tuple[str, Prompt]]:
    """Where each prompt stands, and the prompt; what was left out is told at the end."""
    if rows and not any(names_entities(row.values) for row in rows):
        raise ValueError(_needs_entities(path, len(rows)))
    unseen, others = 0, set()
    for where, values in rows:
        if is_geneval(values):
            prompt = _at(where, prompt_from_geneval, values)
        elif "entities" in values:
            prompt = _at(where, prompt_from_nested, values, others)
        else:
            prompt = _at(where, prompt_from_flat, values, others)
        if prompt is None:
            unseen += 1
        else:
            yield where, prompt
    if unseen:
        logger.warning(
            "%s: left out %d rows that ask for a number or a position, which TIAM does not see", path, unseen
        )
    if others:
        logger.warning("%s: did not use %s", path, ", ".join(sorted(others)))


def _needs_entities(path: Path, count: int) -> str:
    return (
        f"{path}: none of its {count} prompts says which entities have to be in the picture, and those are what is "
        f"scored. Have them found where a prompt lists them plainly:\n"
        f"    keystep prompts {shlex.quote(str(path))} --find-entities --out prompts.csv\n"
        f"or add the columns entity1, adj1, entity2, adj2, ... (an empty adj is none):\n{EXAMPLE}"
    )


def _at(where: str, parse, *arguments):
    try:
        return parse(*arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _checked(rows: Iterable[tuple[str, Prompt]], path: Path) -> Iterator[Prompt]:
    first: dict[str, str] = {}
    for where, prompt in rows:
        _at(where, check_prompt, prompt)
        if prompt.text in first:
            raise ValueError(f"{where}: {prompt.text!r} stands already in {first[prompt.text]}")
        first[prompt.text] = where
        yield prompt
    if not first:
        raise ValueError(f"{path}: no prompts that can be scored")
