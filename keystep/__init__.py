"""The public face of keystep: everything a user imports, and nothing else.

A prompt names the entities that have to be in the picture, each with its attribute if it has one:

>>> from keystep import *
>>> prompt = Prompt("a red circle and a blue star", [Entity("circle", "red"), Entity("star", "blue")])
>>> [str(entity) for entity in prompt.entities]
['red circle', 'blue star']

A config says how to sample and what to do to the latents on the way. A search exports one; this one is by hand:

>>> config = StepConfig(
...     model="keystep/shapes-sd",
...     sampler=SamplerConfig(
...         scheduler="DDPMScheduler", num_inference_steps=4, guidance_scale=5.0, height=64, width=64
...     ),
...     refinement=Refinement(
...         weights=LossWeights(cn=1.0, iou=0.5),
...         iterref=IterRef(step_index=1, iterations=3, step_size=20.0),
...         gsng=GSNg(start=0, stop=2, step_size=20.0),
...         attention=AttentionChoice(),  # the layers that the model's family has the best maps in
...     ),
...     timestep=501,  # what the scheduler gives at step index 1
... )
>>> config.save("step.json").name
'step.json'
>>> StepConfig.load("step.json") == config
True

The pipeline is a stock diffusers one, with the scheduler that the config was made for:

>>> pipe = load_pipeline(config)

Two lines refine it. The first holds what to do, the second is the pipeline's own call:

>>> refine = StepRefinement(config, prompt)
>>> images = pipe(**refine.arguments(pipe, seeds=[0])).images
>>> images[0].size
(64, 64)
>>> [(trace.step_index, trace.kind) for trace in refine.traces]
[(0, 'gsng'), (1, 'iterref'), (1, 'gsng')]

The same in one call, for any number of prompts and seeds, with a trace for each image:

>>> made = generate(pipe, [prompt, Prompt("a moon", [Entity("moon")])], config, seeds=[0, 1])
>>> len(made.images), made.prompts[2].text, made.seeds
(4, 'a moon', (0, 1, 0, 1))
>>> made.traces[0][1].iterations
3
>>> before = generate(pipe, prompt, config, seeds=[0], refine=False).images[0]
>>> before.tobytes() == made.images[0].tobytes()
False
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keystep.core.callback import StepRefinement
    from keystep.core.config import (
        AttentionChoice,
        GSNg,
        IterRef,
        LossWeights,
        Refinement,
        SamplerConfig,
        StepConfig,
    )
    from keystep.core.evidence import Evidence
    from keystep.core.generation import Generated, ImageTrace, generate, load_pipeline
    from keystep.core.prompts import Entity, Prompt

__all__ = [
    "AttentionChoice",
    "Entity",
    "Evidence",
    "GSNg",
    "Generated",
    "ImageTrace",
    "IterRef",
    "LossWeights",
    "Prompt",
    "Refinement",
    "SamplerConfig",
    "StepConfig",
    "StepRefinement",
    "generate",
    "load_pipeline",
]

_HOMES = {
    "callback": ("StepRefinement",),
    "config": ("AttentionChoice", "GSNg", "IterRef", "LossWeights", "Refinement", "SamplerConfig", "StepConfig"),
    "evidence": ("Evidence",),
    "generation": ("Generated", "ImageTrace", "generate", "load_pipeline"),
    "prompts": ("Entity", "Prompt"),
}


def __getattr__(name: str) -> Any:
    """A public name, from its module in `keystep.core` when it is first asked for.

    Every module of every room imports this package first: `keystep --help` must not wait for torch.
    """
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = getattr(import_module(f"keystep.core.{home}"), name)
            return globals()[name]
    raise AttributeError(f"module 'keystep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
