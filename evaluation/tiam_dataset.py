"""TIAM's prompt datasets: Hugging Face folders with its columns, in versions 1 and 2 of the layout."""

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from keystep.core.prompts import Entity, Prompt


def read_dataset(folder: str | Path) -> list[Prompt]:
    """The prompts of a folder that `Dataset.save_to_disk` wrote (a dict of splits: all of them).

    ValueError if the `datasets` extra is missing, the folder holds no dataset, or a row is not TIAM's.
    """
    library = _datasets()
    try:
        found = library.load_from_disk(str(folder))
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: not a dataset saved with save_to_disk: {error}") from error
    splits = list(found.values()) if isinstance(found, library.DatasetDict) else [found]
    prompts = []
    for number, row in enumerate(row for split in splits for row in split):
        try:
            prompts.append(prompt_from_tiam(row))
        except ValueError as error:
            raise ValueError(f"{folder}, row {number}: {error}") from error
    return prompts


def write_dataset(prompts: Sequence[Prompt], folder: str | Path) -> None:
    """Saves the prompts as a dataset with TIAMv2's columns. ValueError if the `datasets` extra is missing."""
    rows = [tiam_row(prompt) for prompt in prompts]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    _datasets().Dataset.from_dict(columns).save_to_disk(str(folder))


def tiam_row(prompt: Prompt) -> dict[str, Any]:
    """The prompt in TIAMv2's columns: prompt, params, labels_params, adjs_params, adj_apply_on."""
    labels = {f"entity{k + 1}": entity.noun for k, entity in enumerate(prompt.entities)}
    adjs = {f"adj{k + 1}": entity.attribute for k, entity in enumerate(prompt.entities) if entity.attribute}
    row = {"prompt": prompt.text, "params": labels | adjs, "labels_params": labels}
    if adjs:
        row |= {"adjs_params": adjs, "adj_apply_on": {name: name.replace("adj", "entity") for name in adjs}}
    return row


def prompt_from_tiam(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a row of TIAM's dataset; v1 says `sentence` for `prompt` and `object1` for `entity1`.

    Keys whose value is None stand for absent (Arrow fills a struct's missing keys so). ValueError for other
    rows.
    """
    text = row.get("prompt") or row.get("sentence")
    labels = {name: noun for name, noun in (row.get("labels_params") or {}).items() if noun}
    if not text or not labels:
        raise ValueError("a row needs 'prompt' (or v1's 'sentence') and 'labels_params' with entity1 (or object1), ...")
    attributes: dict[str, str] = {}
    applies = row.get("adj_apply_on") or {}
    for name, adjective in (row.get("adjs_params") or {}).items():
        if not adjective:
            continue
        target = applies.get(name) or ""
        if target not in labels:
            raise ValueError(f"{name} ({adjective!r}) applies to {target or 'nothing'!r}, which is no label")
        attributes[target] = adjective
    in_order = sorted(labels, key=lambda name: int(re.sub(r"\D", "", name) or 1))
    return Prompt(text, tuple(Entity(labels[name], attributes.get(name)) for name in in_order))


def _datasets() -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise ValueError(
            "Hugging Face datasets need: pip install 'keystep[datasets]' (or use a .csv or .jsonl file)"
        ) from error
