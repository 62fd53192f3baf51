"""A small search of the embedded model, as plain data, and with keys changed."""

import copy
from typing import Any

from keystep.search.spec.search_spec import SearchSpec

PLAIN: dict[str, Any] = {
    "name": "small",
    "model": {"id": "keystep/shapes-sd"},
    "sampler": {
        "scheduler": "DDPMScheduler",
        "num_inference_steps": 20,
        "guidance_scale": 1.5,
        "height": 64,
        "width": 64,
    },
    "prompts": {
        "sets": ["shapes_two", "shapes_three"],
        "validation": 6,
        "held_out": 8,
        "seeds": [0, 1],
        "held_out_seeds": [7, 8, 9],
    },
    "detector": {"id": "keystep/shapes-segmenter"},
    "search": {"block_prompts": 4, "min_prompts": 4},
}


def plain(**changes: Any) -> dict[str, Any]:
    """`PLAIN` with keys changed: `search__trials=3`."""
    data = copy.deepcopy(PLAIN)
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return data


def small_spec(**changes: Any) -> SearchSpec:
    return SearchSpec.from_plain(plain(**changes), "small.yaml")
