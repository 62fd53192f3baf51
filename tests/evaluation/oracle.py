"""TIAM again, slowly and differently: plain loops over pixels and orders, to check the fast one against."""

import itertools

import numpy as np

from keystep.core.prompts import Prompt
from keystep.evaluation.colors import Palette
from keystep.evaluation.detections import Instance
from keystep.evaluation.tiam import TiamSettings


def lab_of(color):
    linear = []
    for level in color:
        c = int(level) / 255
        linear.append(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    r, g, b = linear
    xyz = (
        (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047,
        0.2126729 * r + 0.7151522 * g + 0.0721750 * b,
        (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883,
    )
    fx, fy, fz = (v ** (1 / 3) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in xyz)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def nearest(color, palette: Palette) -> str:
    lab = lab_of(color)
    distances = [
        (sum((a - b) ** 2 for a, b in zip(lab, point, strict=True)), order, name)
        for order, (name, points) in enumerate(palette.references.items())
        for point in points
    ]
    return min(distances)[2]


def has_color(pixels, instance: Instance, color: str, palette: Palette, share: float) -> bool:
    inside = hits = 0
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            if instance.mask[y, x]:
                inside += 1
                hits += nearest(pixels[y, x], palette) == color
    return hits / inside >= share


def iou(first: Instance, second: Instance) -> float:
    both = either = 0
    for a, b in zip(first.mask.flat, second.mask.flat, strict=True):
        both += bool(a and b)
        either += bool(a or b)
    return both / either


def survivors(instances: list[Instance], confidence: float, settings: TiamSettings) -> list[Instance]:
    kept = [instance for instance in instances if instance.score >= confidence]
    dropped = set()
    for i, j in itertools.combinations(range(len(kept)), 2):
        if kept[i].label == kept[j].label or iou(kept[i], kept[j]) < settings.superposed_iou:
            continue
        if settings.superposed == "drop_both":
            dropped |= {i, j}
        elif settings.superposed == "keep_best" and kept[i].score != kept[j].score:
            dropped.add(i if kept[i].score < kept[j].score else j)
    return [instance for k, instance in enumerate(kept) if k not in dropped]


def score(pixels, instances: list[Instance], prompt: Prompt, settings: TiamSettings, palette: Palette):
    """found, bound: lists (C, E) of bool, the best over every way to hand out instances."""
    found_rows, bound_rows = [], []
    for confidence in settings.confidences:
        alive = survivors(instances, confidence, settings)
        suits = [
            [
                instance.label == entity.noun
                and (
                    entity.attribute is None
                    or has_color(pixels, instance, entity.attribute, palette, settings.color_share)
                )
                for instance in alive
            ]
            for entity in prompt.entities
        ]
        choices = [None, *range(len(alive))]
        best = None
        for hand in itertools.product(choices, repeat=len(prompt.entities)):
            used = [k for k in hand if k is not None]
            right = all(
                k is None or alive[k].label == entity.noun for k, entity in zip(hand, prompt.entities, strict=True)
            )
            if len(used) != len(set(used)) or not right:
                continue
            bound = [k is not None and suits[e][k] for e, k in enumerate(hand)]
            found = [k is not None for k in hand]
            rank = (sum(bound), bound, sum(found), found)
            if best is None or rank > best[0]:
                best = (rank, found, bound)
        found_rows.append(best[1])
        bound_rows.append(best[2])
    return np.array(found_rows), np.array(bound_rows)
