"""The files that `keystep generate` writes: settled before anything is drawn, then written whole."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keystep.evaluation.file_names import file_stem

if TYPE_CHECKING:
    from PIL import Image


def settled_names(folder: Path, text: str, seeds: Sequence[int], *, overwrite: bool) -> dict[int, Path]:
    """The file of each seed's picture, called as `keystep score` expects; the folder is made.

    Raises:
        ValueError: the folder cannot be made or written to; pictures are there already, unless that is allowed.
    """
    names = {seed: folder / f"{file_stem(text)}_{seed}.png" for seed in seeds}
    _usable_folder(folder, "--out")
    taken = [path for path in names.values() if os.path.lexists(path)]
    if taken and not overwrite:
        raise ValueError(
            f"{folder} has {len(taken)} of these pictures already, the first: {taken[0].name}. Name another folder "
            "with --out, other --seeds, or replace them with --overwrite"
        )
    blocked = next((path for path in taken if path.is_dir()), None)
    if blocked is not None:
        raise ValueError(f"{blocked} is a folder, and a picture is to be called so: name another folder with --out")
    return names


def settled_sheet(path: Path, others: Sequence[Path]) -> None:
    """Make the sheet's folder. ValueError if it cannot be written there, or would replace one of the other files."""
    if path.is_dir():
        raise ValueError(f"--compare is a .png file, and {path} is a folder")
    if path.resolve() in {other.resolve() for other in others}:
        raise ValueError(f"--compare {path} is also the name of one of the pictures: name another file")
    _usable_folder(path.parent, "--compare")


def write_picture(image: "Image.Image", path: Path) -> None:
    """Write a PNG, whole or not at all; a link that has the name is replaced, not followed."""
    draft = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        image.save(draft, "PNG")
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _usable_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{option}: nothing can be written to {folder}: {error.strerror or error}") from error
