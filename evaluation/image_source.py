"""The images of a prompt set, made by any generator: found in a folder, a tar file or a JSON map, and checked.

In a folder (sub-folders too) or a tar file an image is named after its prompt, blanks as underscores, and its
number: `a_photo_of_a_cat_and_a_dog_3.png` (also `...dog.3.png`), capitals being ignored; what is no safe name is
changed by `keystep.evaluation.file_names`, and found by the unchanged name too. GenEval's folders and T2I-CompBench's
names are read as they are (`keystep.evaluation.image_layouts`). A JSON map lists
images by prompt: {"a photo of a cat": ["any/name.png", ...]} (numbers count from 0) or {"a photo of a cat":
{"3": "any/name.png"}}, with paths relative to the JSON file. Only headers are read here; pictures are opened
one by one.
"""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from keystep.core.plain_text import decoded
from keystep.evaluation.file_names import file_stem
from keystep.evaluation.image_layouts import Placed, map_example, placed_by_map, placed_by_name
from keystep.evaluation.prompt_sets import PromptSet
from keystep.evaluation.rgb import as_rgb

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# What Pillow raises for files that are cut off, of another kind, or broken inside.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFile:
    """One image: its `place` (path, or name in the tar file), its prompt's index in the set and its number."""

    place: str
    prompt_index: int
    seed: int


@dataclass
class Problems:
    """What is not as expected, every entry a line to show: `path: reason`."""

    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    odd_sized: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(self.lists().values())

    def lists(self) -> dict[str, list[str]]:
        """The four lists by the name to show them under; bytes of a name that are no text as `\\udcff`."""
        lists = {
            "unreadable": self.unreadable,
            "missing": self.missing,
            "surplus": self.surplus,
            "odd-sized": self.odd_sized,
        }
        return {
            name: [entry.encode(errors="backslashreplace").decode() for entry in entries]
            for name, entries in lists.items()
        }


@dataclass(frozen=True)
class ImageSource:
    """The readable images of a set, in the order that reads fastest, and what was wrong with the others.

    `seeds`: the image numbers expected of every prompt, ascending; `size`: (width, height) in px that most have.
    """

    root: Path
    files: tuple[ImageFile, ...]
    seeds: tuple[int, ...]
    size: tuple[int, int]
    problems: Problems

    def images(self) -> Iterator[tuple[ImageFile, Image.Image | None]]:
        """Every file with its picture, decoded and RGB; None, and a line in `problems`, if it cannot be decoded."""
        with _opener(self.root) as open_place:
            for file in self.files:
                try:
                    with open_place(file.place) as stream, Image.open(stream) as image:
                        image.load()
                        picture = as_rgb(image)
                except UNREADABLE as error:
                    self.problems.unreadable.append(f"{file.place}: {error}")
                    picture = None
                yield file, picture


def find_images(path: str | Path, prompts: PromptSet, *, images_per_prompt: int | None = None) -> ImageSource:
    """The images of `prompts` at `path`, their headers read.

    `images_per_prompt`: numbers 0 to this minus one are expected of every prompt; None: every number that any
    prompt has. Expected and absent is missing; present and not expected, of no prompt of the set, or a second
    image of the same prompt and number is surplus; of another size than most is odd-sized, and still among
    the files. ValueError if the path is nothing of the kind, or holds no image of the set, or two prompts
    share a file name.
    """
    path = Path(path)
    if images_per_prompt is not None and images_per_prompt < 1:
        raise ValueError(f"images per prompt must be at least 1, got {images_per_prompt}")
    problems = Problems()
    placed = _placed(path, prompts)
    found = _sorted_out(placed, images_per_prompt, problems)
    if not found:
        raise ValueError(_nothing_found(path, placed, prompts))
    expected = range(images_per_prompt) if images_per_prompt else sorted({seed for _, seed in found})
    for index, prompt in enumerate(prompts.prompts):
        absent = [seed for seed in expected if (index, seed) not in found]
        if absent:
            numbers = "any" if len(absent) == len(expected) else f"number {', '.join(map(str, absent))}"
            problems.missing.append(f"{prompt.text!r}: {numbers}")
    files = [ImageFile(place, index, seed) for (index, seed), place in found.items()]
    sizes = _sizes(path, files, problems)
    if not sizes:
        raise ValueError(f"{path}: none of the {len(files)} images can be read; the first: {problems.unreadable[0]}")
    usual = Counter(sizes.values()).most_common(1)[0][0]
    for place, size in sizes.items():
        if size != usual:
            problems.odd_sized.append(f"{place}: {size[0]}x{size[1]} px, most are {usual[0]}x{usual[1]}")
    readable = tuple(file for file in files if file.place in sizes)
    return ImageSource(path, readable, tuple(expected), usual, problems)


def _placed(path: Path, prompts: PromptSet) -> list[Placed]:
    """Every image at the path, with what its place says of prompt and number."""
    if path.suffix.lower() == ".json" and path.is_file():
        return list(placed_by_map(path, prompts))
    if not (path.is_dir() or path.name.lower().endswith(TAR_SUFFIXES)):
        raise ValueError(f"{path}: images are read from a folder, a .tar file or a .json map; this is none")
    places = _places(path)
    with _opener(path) as open_place:

        def read(place: str) -> str:
            with open_place(place) as stream:
                return decoded(stream.read(), place)

        return placed_by_name(places, prompts, read)


def _sorted_out(
    placed: Iterable[Placed], images_per_prompt: int | None, problems: Problems
) -> dict[tuple[int, int], str]:
    """The places by prompt index and number; what is not expected goes to the problems."""
    found: dict[tuple[int, int], str] = {}
    for place, prompt_index, seed, reason in placed:
        if prompt_index is None:
            problems.surplus.append(f"{place}: {reason}")
        elif images_per_prompt is not None and seed >= images_per_prompt:
            problems.surplus.append(f"{place}: number {seed}, and {images_per_prompt} images a prompt are expected")
        elif (prompt_index, seed) in found:
            problems.surplus.append(f"{place}: same prompt and number as {found[prompt_index, seed]}")
        else:
            found[prompt_index, seed] = place
    return found


def _nothing_found(path: Path, placed: Sequence[Placed], prompts: PromptSet) -> str:
    text = prompts.prompts[0].text
    place = os.path.relpath(placed[0].place, path.parent) if placed and path.is_dir() else "any/name.png"
    return (
        f"{path}: no image of the prompt set; the first would be called {file_stem(text)}_0.png. Images with other "
        f"names are listed in a map, a .json file such as\n    {map_example(text, place)}"
    )


def _places(path: Path) -> list[str]:
    if path.is_dir():
        return [str(place) for place in sorted(path.rglob("*")) if place.is_file()]
    try:
        with tarfile.open(path) as archive:
            return [member.name for member in archive if member.isfile()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable tar file: {error}") from error


def _sizes(path: Path, files: list[ImageFile], problems: Problems) -> dict[str, tuple[int, int]]:
    sizes = {}
    with _opener(path) as open_place:
        for file in files:
            try:
                with open_place(file.place) as stream, Image.open(stream) as image:
                    sizes[file.place] = image.size
            except UNREADABLE as error:
                problems.unreadable.append(f"{file.place}: {_reason(error)}")
    return sizes


def _reason(error: BaseException) -> str:
    return "not an image" if "cannot identify" in str(error) else str(error)


@contextmanager
def _opener(path: Path):
    """A function that opens a place as a binary stream; one tar file stays open for all of its members."""
    if path.is_dir() or path.suffix.lower() == ".json":

        def open_file(place: str) -> BinaryIO:
            return open(place, "rb")

        yield open_file
        return
    with tarfile.open(path) as archive:

        def open_member(place: str) -> BinaryIO:
            stream = archive.extractfile(place)
            assert stream is not None, "only regular files are listed"
            return io.BytesIO(stream.read())

        yield open_member
