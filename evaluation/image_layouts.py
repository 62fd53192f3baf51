"""Which image is of which prompt and number: by its name, a JSON map, or the layouts of GenEval and T2I-CompBench."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from keystep.core.bounded_json import parse_json, read_json
from keystep.evaluation.file_names import file_stem, plain_stem, same_name
from keystep.evaluation.geneval import is_geneval, prompt_from_geneval
from keystep.evaluation.prompt_sets import PromptSet

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NUMBERED = re.compile(r"(.+)[_.](\d+)")
COMPBENCH_DIGITS = 6


class Placed(NamedTuple):
    """An image: its place, its prompt's index (None: `reason` says why it has none) and its number."""

    place: str
    prompt_index: int | None
    number: int
    reason: str = "no prompt of the set is called so"


def placed_by_map(path: Path, prompts: PromptSet) -> Iterator[Placed]:
    """The images that a JSON map lists. ValueError if it is no such map."""
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise ValueError(f'{path}: must be a map such as {{"a photo of a cat": ["cat.png", ...]}}')
    index_of = {prompt.text: index for index, prompt in enumerate(prompts.prompts)}
    for text, places in listed.items():
        numbered = places.items() if isinstance(places, dict) else enumerate(places) if isinstance(places, list) else ()
        if not numbered:
            raise ValueError(
                f"{path}: {text!r} must have a list of files, or a map of number to file, got {places!r:.200}"
            )
        for number, place in numbered:
            if not isinstance(place, str) or not str(number).isdecimal():
                raise ValueError(f"{path}: {text!r}: expected a number and a file, got {number!r:.100}: {place!r:.100}")
            yield Placed(str(path.parent / place), index_of.get(text.strip()), int(number))


def placed_by_name(places: Sequence[str], prompts: PromptSet, read: Callable[[str], str]) -> list[Placed]:
    """The images among the files of a folder or a tar file, in reading order.

    Args:
        places: of all files; endings other than images' are none of our business.
        read: the text of the file at a place.

    Raises:
        ValueError: two prompts whose images would have the same names; GenEval's metadata that are no JSON.
    """
    images = [
        place for place in places if place.lower().endswith(SUFFIXES) and not PurePath(place).name.startswith(".")
    ]
    described = {str(PurePath(place).parent): place for place in places if PurePath(place).name == "metadata.jsonl"}
    if any(_sample_folder(place) in described for place in images):
        return _geneval(images, described, prompts, read)
    return _renumbered(list(_named(images, prompts)))


def _named(images: Sequence[str], prompts: PromptSet) -> Iterator[Placed]:
    index_of: dict[str, int] = {}
    for index, prompt in enumerate(prompts.prompts):
        other = index_of.setdefault(same_name(file_stem(prompt.text)), index)
        if other != index:
            raise ValueError(
                f"images of {prompts.prompts[other].text!r} and {prompt.text!r} have the same names: list them in a "
                f"map instead, {map_example(prompt.text, 'any/name.png')}"
            )
    for index, prompt in enumerate(prompts.prompts):
        index_of.setdefault(same_name(plain_stem(prompt.text)), index)
    for place in images:
        match = NUMBERED.fullmatch(PurePath(place).stem)
        index = index_of.get(same_name(match[1])) if match else None
        yield Placed(place, index, int(match[2]) if match else 0)


def _renumbered(images: list[Placed]) -> list[Placed]:
    """T2I-CompBench counts through all of its prompts, `..._000000.png` on: count each prompt's images from 0.

    That is so if every number has its six digits and no two images have the same.
    """
    of_the_set = [image for image in images if image.prompt_index is not None]
    digits = {len(PurePath(image.place).stem.rpartition("_")[2]) for image in of_the_set}
    numbers = {image.number for image in of_the_set}
    if digits != {COMPBENCH_DIGITS} or len(numbers) < len(of_the_set):
        return images
    counted: dict[int | None, int] = {}
    ranks = {}
    for image in sorted(of_the_set, key=lambda image: image.number):
        ranks[image.place] = counted.get(image.prompt_index, 0)
        counted[image.prompt_index] = ranks[image.place] + 1
    return [image._replace(number=ranks.get(image.place, image.number)) for image in images]


def _geneval(
    images: Sequence[str], described: dict[str, str], prompts: PromptSet, read: Callable[[str], str]
) -> list[Placed]:
    """GenEval's folders: `00000/metadata.jsonl` has the prompt of `00000/samples/0000.png`, `0001.png`, ...

    Pictures beside `samples` (`grid.png`) are no images, and folders that ask for a number or a position are
    left out, as their rows are when prompts are read.
    """
    index_of = {prompt.text: index for index, prompt in enumerate(prompts.prompts)}
    asked: dict[str, str | None] = {}
    for folder, place in described.items():
        row = parse_json(read(place), place)
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise ValueError(f"{place}: expected GenEval's row with a prompt, got {row!r:.80}")
        text = row["prompt"].strip()
        unseen = is_geneval(row) and text not in index_of and prompt_from_geneval(row) is None
        asked[folder] = None if unseen else text
    left_out = sum(text is None for text in asked.values())
    if left_out:
        logger.warning("left out %d folders that ask for a number or a position, which TIAM does not see", left_out)
    found = []
    for place in images:
        folder, number = _sample_folder(place), PurePath(place).stem
        if folder is None or not number.isdecimal():
            continue
        if folder not in asked:
            found.append(Placed(place, None, 0, f"no metadata.jsonl in {folder} says its prompt"))
        elif (text := asked[folder]) is not None:
            found.append(Placed(place, index_of.get(text), int(number), f"its prompt {text!r} is not of the set"))
    return found


def _sample_folder(place: str) -> str | None:
    """The folder above `samples`, if that is where the image lies."""
    samples = PurePath(place).parent
    return str(samples.parent) if samples.name == "samples" else None


def map_example(text: str, place: str) -> str:
    """A JSON map that names one image of one prompt, for a message."""
    return json.dumps({text: [place]}, ensure_ascii=False)
