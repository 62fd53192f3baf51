"""Names of things: one spelling for each, so that prompts, detectors and caches agree."""

import difflib
from collections.abc import Iterable, Sequence

from keystep.core.prompts import Prompt

_ALIASES = {
    "aeroplane": "airplane",
    "plane": "airplane",
    "bike": "bicycle",
    "cellphone": "cell phone",
    "mobile phone": "cell phone",
    "computer keyboard": "keyboard",
    "diningtable": "dining table",
    "doughnut": "donut",
    "fridge": "refrigerator",
    "hair dryer": "hair drier",
    "hotdog": "hot dog",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "remote control": "remote",
    "sofa": "couch",
    "stoplight": "traffic light",
    "television": "tv",
    "traffic signal": "traffic light",
    "tv remote": "remote",
    "tv monitor": "tv",
    "tvmonitor": "tv",
}


def canonical_label(name: str) -> str:
    """One spelling for a noun or a detector's class: lower case, single spaces, aliases resolved.

    A class that lists synonyms ("bus, autobus, coach", as ADE20K does) goes by its first.
    """
    plain = " ".join(name.split(",")[0].replace("_", " ").lower().split())
    return _ALIASES.get(plain, plain)


def check_nouns(prompts: Iterable[Prompt], labels: frozenset[str], detector: str) -> None:
    """Refuse prompts with a noun the detector has no class for, before anything is generated.

    Args:
        prompts: their entities' nouns are looked up.
        labels: the detector's classes, canonical.
        detector: its name, for the message.

    Raises:
        ValueError: names every unknown noun, a prompt that has it, and the closest classes.
    """
    unknown: dict[str, str] = {}
    for prompt in prompts:
        for entity in prompt.entities:
            if canonical_label(entity.noun) not in labels:
                unknown.setdefault(entity.noun, prompt.text)
    if unknown:
        lines = [f"{noun!r} (in {text!r}){_suggestion(noun, labels)}" for noun, text in unknown.items()]
        raise ValueError(f"detector {detector} cannot see {'; '.join(lines)}")


def _suggestion(noun: str, labels: frozenset[str]) -> str:
    plain = canonical_label(noun)
    known = {
        **{alias: label for alias, label in _ALIASES.items() if label in labels},
        **{x: x for x in labels},
    }
    close: Sequence[str] = difflib.get_close_matches(plain, sorted(known), n=3, cutoff=0.6)
    close = list(dict.fromkeys(known[name] for name in close))
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(sorted(labels)[:12])
    return f"; it knows {shown}{', ...' if len(labels) > 12 else ''}"
