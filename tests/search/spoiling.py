"""Good inputs spoilt: in their bytes, in their structure, or with one value in the place of another."""

import copy
import random
import time
from collections.abc import Iterator
from typing import Any

import yaml

from keystep.core.config import IterRef, Refinement, SamplerConfig, StepConfig

SECONDS = 1.0
"""Of this process's own work, so that a busy machine does not fail the test."""

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
EXTREME = [
    *(float("inf"), float("-inf"), float("nan"), 1e308, -1e308, 1e400, -1, 0, 10**30, -(10**30), 2**63, 2**64, 10**400),
    *(800_000, 1e9, 999_999_999, True, None, "", " ", "\0", "\ud800", "x" * 100_000, "1e999", "../../etc", "🦄"),
    *([], {}, [[]], [None], [1] * 20_000, {"": 1}, {"a": {"b": {"c": 1}}}, ["x"] * 20_000, "2001-99-99", "${HOME}"),
]


def deep(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a plain value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*way, key)
            yield from places(inner, (*way, key))


def replaced(value: Any, way: tuple[Any, ...], other: Any) -> Any:
    """A copy with what is at the end of the way replaced."""
    changed = copy.deepcopy(value)
    place = changed
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = other
    return changed


def spoilt(content: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, left out or doubled."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(changed))
        kind = generator.randrange(4)
        if kind == 0:
            changed[at] = generator.randrange(256)
        elif kind == 1:
            del changed[at : at + generator.randint(1, 40)]
        elif kind == 2:
            changed[at:at] = generator.choice(
                [b"{", b"[", b"&a ", b"*a", b"!!", b"\0", b": ", b"9" * 30, b"- ", b"\xff"]
            )
        else:
            changed[at:at] = changed[at : at + 60]
        changed = changed or bytearray(b" ")
    return bytes(changed)


def told(call: Any, *arguments: Any) -> str | None:
    """What a call says against its arguments; None if it takes them. Any other error fails, and so does slowness."""
    began = time.process_time()
    try:
        call(*arguments)
        said = None
    except ValueError as error:
        said = str(error)
    assert time.process_time() - began < SECONDS, arguments
    assert said is None or (said.strip() and len(said) < 20_000), said
    return said


def in_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.SafeDumper)


CONFIG = StepConfig(
    model="keystep/shapes-sd",
    sampler=SamplerConfig(
        scheduler="DDPMScheduler",
        scheduler_config={"steps_offset": 1},
        num_inference_steps=4,
        guidance_scale=1.5,
        height=64,
        width=64,
    ),
    refinement=Refinement(iterref=IterRef(step_index=1, iterations=2)),
    timestep=501.0,
)
