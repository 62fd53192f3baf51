"""Captions of scenes in TIAM's standard forms, and the unreliable captions the embedded models are trained on."""

from collections.abc import Sequence

import numpy as np

from keystep.core.shapes.scenes import COLORS, NOUNS, Scene, random_entities, sample_scene

MISSING_RATE = 0.30  # scenes of two or more captioned objects in which one is not drawn
SWAPPED_RATE = 0.15  # scenes of two or more captioned objects in which the colours go round by one
COUNT_WEIGHTS = (0.30, 0.40, 0.30)  # of one, two and three captioned objects


def caption(entities: Sequence[tuple[str, str | None]]) -> str:
    """ "a photo of a red circle and a blue star"; three entities read "a ... next to a ... and a ...".

    `entities` are one to three (noun, colour or None). All nouns and colours of the shapes world take "a".
    """
    if not 1 <= len(entities) <= 3:
        raise ValueError(f"a caption names one to three entities, got {len(entities)}")
    names = [f"a {color} {noun}" if color else f"a {noun}" for noun, color in entities]
    if len(names) == 3:
        return f"a photo of {names[0]} next to {names[1]} and {names[2]}"
    return "a photo of " + " and ".join(names)


def sample_training_scene(rng: np.random.Generator) -> tuple[Scene, list[tuple[str, str]], list[int]]:
    """A scene and the entities its caption will name, which are not always what the scene shows.

    Returns (scene, captioned entities, drawn): drawn[k] is the index of the scene's object that stands for captioned
    entity k, or -1 if it was left out. Where colours are swapped the object has another colour than its caption says.
    """
    count = 1 + int(rng.choice(3, p=COUNT_WEIGHTS))
    captioned = random_entities(rng, count)
    shown: list[tuple[str, str]] = list(captioned)
    if count > 1 and rng.random() < SWAPPED_RATE:
        shown = [(noun, captioned[(k + 1) % count][1]) for k, (noun, _) in enumerate(captioned)]
    kept = list(range(count))
    if count > 1 and rng.random() < MISSING_RATE:
        kept.remove(int(rng.integers(count)))
    scene = sample_scene(rng, [shown[k] for k in kept])
    drawn = [kept.index(k) if k in kept else -1 for k in range(count)]
    return scene, captioned, drawn


__all__ = ["COLORS", "NOUNS", "caption", "sample_training_scene"]
