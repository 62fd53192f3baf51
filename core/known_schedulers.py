"""The schedulers that keystep can stop and resume, and what they take, known without importing diffusers.

A scheduler is known here by the attributes that its `step` changes. A new one is one line in `MEMORY`, if it
satisfies the tests that run over all of them.
"""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

MEMORY: dict[str, tuple[str, ...]] = {
    "DDPMScheduler": (),
    "DDIMScheduler": (),
    "PNDMScheduler": ("ets", "counter", "cur_sample", "cur_model_output"),
    "EulerDiscreteScheduler": (),
    "EulerAncestralDiscreteScheduler": (),
    "LMSDiscreteScheduler": ("derivatives",),
    "DPMSolverMultistepScheduler": ("model_outputs", "lower_order_nums"),
    "FlowMatchEulerDiscreteScheduler": (),
}
"""What each scheduler remembers from step to step, beside its position."""

MORE_STEPS = frozenset({"PNDMScheduler"})
"""Those that take more steps than the number asked for; how many is known once they are set."""


@cache
def scheduler_names() -> frozenset[str]:
    """The scheduler classes that the diffusers at hand exports, also those that keystep cannot resume."""
    return frozenset(re.findall(r'"(\w+Scheduler)"', (_diffusers() / "__init__.py").read_text(encoding="utf-8")))


@cache
def scheduler_arguments(name: str) -> tuple[str, ...]:
    """What the class of a scheduler takes, in order: read from its source, for importing diffusers takes seconds.

    Args:
        name: one of `scheduler_names()`.
    """
    for file in sorted((_diffusers() / "schedulers").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if not re.search(rf"^class {name}\b", source, re.M):
            continue
        defined = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in defined.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return tuple(argument.arg for argument in (*node.args.args[1:], *node.args.kwonlyargs))
    return ()


def _diffusers() -> Path:
    spec = find_spec("diffusers")
    assert spec is not None and spec.origin is not None, "diffusers is a requirement of keystep"
    return Path(spec.origin).parent
