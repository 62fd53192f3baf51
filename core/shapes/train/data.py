"""The training set: scenes drawn once, kept on disk, read as memory maps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keystep.core.shapes.captions import caption, sample_training_scene
from keystep.core.shapes.scenes import COLORS, IMAGE_SIZE, MAX_OBJECTS, NOUNS, Scene, render

GRID = 16  # query grid of the embedded models' finest attention
CHUNK = 1000
COLOR_RATE = 0.5  # captions that name colours
# Captions, by how many entities they had, that get one more which the scene does not show. With it 58 % of the captions
# of two entities and 61 % of those of three name something absent.
ABSENT_RATES = {1: 0.1, 2: 0.25, 3: 0.0}


@dataclass(frozen=True)
class TrainingSet:
    """Scenes as arrays, N long.

    images (N,64,64,3) uint8; classes (N,64,64) uint8: 0 background, k+1 noun k; coverage (N,3,16,16) uint8: share of a
    cell that captioned entity e covers, 255 = all, 0 throughout if it was left out; captioned (N,3,2) int8: noun and
    colour index of each captioned entity, -1 beyond the last; shown (N,3,2) int8: the same of each drawn object.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    coverage: NDArray[np.uint8]
    captioned: NDArray[np.int8]
    shown: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.images)


FIELDS = {
    "images": ((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
    "classes": ((IMAGE_SIZE, IMAGE_SIZE), np.uint8),
    "coverage": ((MAX_OBJECTS, GRID, GRID), np.uint8),
    "captioned": ((MAX_OBJECTS, 2), np.int8),
    "shown": ((MAX_OBJECTS, 2), np.int8),
}


def load_training_set(folder: Path, num_scenes: int, seed: int) -> TrainingSet:
    """Scenes 0..num_scenes-1 of `seed`, drawn on first use (about half a second a thousand)."""
    home = folder / f"scenes-{num_scenes}-seed{seed}"
    if not home.exists():
        draft = home.with_suffix(".part")
        draft.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: np.lib.format.open_memmap(draft / f"{name}.npy", "w+", dtype, (num_scenes, *shape))
            for name, (shape, dtype) in FIELDS.items()
        }
        for start in range(0, num_scenes, CHUNK):
            stop = min(start + CHUNK, num_scenes)
            _draw(arrays, start, stop, np.random.default_rng([seed, start]))
            print(f"\rdrawing scenes {stop}/{num_scenes}", end="" if stop < num_scenes else "\n", flush=True)
        del arrays
        draft.rename(home)
    return TrainingSet(**{name: np.load(home / f"{name}.npy", mmap_mode="r") for name in FIELDS})


def training_caption(captioned: NDArray[np.int8], rng: np.random.Generator) -> tuple[str, list[int], list[str]]:
    """A caption of one scene's `captioned` (3,2): coloured or not, entities in any order, perhaps one that is absent.

    Returns the text, the order and the nouns: order[j] is the captioned entity that the caption names in place j, or -1
    for one that was made up.
    """
    count = int((captioned[:, 0] >= 0).sum())
    codes = [(int(noun), int(color)) for noun, color in captioned[:count]]
    order = list(range(count))
    if rng.random() < ABSENT_RATES[count]:
        nouns, colors = ({code[place] for code in codes} for place in (0, 1))
        codes.append((_other(len(NOUNS), nouns, rng), _other(len(COLORS), colors, rng)))
        order.append(-1)
    places = rng.permutation(len(codes)).tolist()
    colored = rng.random() < COLOR_RATE
    entities = [(NOUNS[codes[k][0]], COLORS[codes[k][1]] if colored else None) for k in places]
    return caption(entities), [order[k] for k in places], [noun for noun, _ in entities]


def _other(length: int, taken: set[int], rng: np.random.Generator) -> int:
    return int(rng.choice([index for index in range(length) if index not in taken]))


def _draw(arrays: Mapping[str, NDArray], start: int, stop: int, rng: np.random.Generator) -> None:
    samples = [sample_training_scene(rng) for _ in range(start, stop)]
    images, masks = render([scene for scene, _, _ in samples])
    cell = IMAGE_SIZE // GRID
    cells = masks.reshape(-1, MAX_OBJECTS, GRID, cell, GRID, cell).mean((3, 5))
    arrays["images"][start:stop] = images
    for row, (scene, captioned, drawn) in enumerate(samples, start):
        nouns, mask = _codes(_objects(scene)), masks[row - start]
        arrays["shown"][row] = nouns
        arrays["captioned"][row] = _codes(captioned)
        arrays["classes"][row] = np.max(mask * (nouns[:, 0, None, None] + 1), axis=0)
        arrays["coverage"][row] = 0
        for entity, item in enumerate(drawn):
            if item >= 0:
                arrays["coverage"][row, entity] = np.rint(255 * cells[row - start, item])


def _objects(scene: Scene) -> list[tuple[str, str]]:
    return [(item.noun, item.color) for item in scene.objects]


def _codes(entities: list[tuple[str, str]]) -> NDArray[np.int8]:
    codes = np.full((MAX_OBJECTS, 2), -1, np.int8)
    for k, (noun, color) in enumerate(entities):
        codes[k] = NOUNS.index(noun), COLORS.index(color)
    return codes
