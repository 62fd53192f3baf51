"""The public face as its users see it: the examples, and the two lines on stock pipelines of every family."""

import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

import keystep
from keystep import (
    AttentionChoice,
    Entity,
    GSNg,
    IterRef,
    Prompt,
    Refinement,
    SamplerConfig,
    StepConfig,
    StepRefinement,
    generate,
    load_pipeline,
)
from keystep.core.backbones import backbone_for
from keystep.core.sampling import Sampler
from keystep.core.shapes.models import EMBEDDED
from tests.tiny_models import TINY_MODELS

OUT = Path(__file__).parent.parent / "out" / "two_lines"
PROMPT = Prompt("a red circle and a blue star", [Entity("circle", "red"), Entity("star", "blue")])
IN_MEMORY = ["sd", "sdxl", "sd3"]
ON_DISK = [
    name for name in ("keystep/shapes-sd", "keystep/shapes-sd3") if (EMBEDDED[name] / "model_index.json").exists()
]


def pipeline_of(model: str) -> Any:
    pipe = TINY_MODELS[model](seed=0) if model in TINY_MODELS else load_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def config_for(pipe: Any, model: str) -> StepConfig:
    sampler = SamplerConfig(
        scheduler=type(pipe.scheduler).__name__,
        num_inference_steps=12 if model in ON_DISK else 4,  # a picture that people can judge
        guidance_scale=1.5 if model in ON_DISK else 4.0,
        height=64,
        width=64,
    )
    refinement = Refinement(iterref=IterRef(step_index=1, iterations=3), gsng=GSNg(stop=2), attention=AttentionChoice())
    timestep = float(Sampler(backbone_for(pipe), sampler).timesteps[1])
    return StepConfig(model=model, sampler=sampler, refinement=refinement, timestep=timestep)


def difference(left: Image.Image, right: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(left.convert("RGB"), right.convert("RGB")).getextrema())


@pytest.mark.parametrize("model", IN_MEMORY + ON_DISK)
def test_two_lines_refine_a_stock_pipeline(model: str) -> None:
    """The images of before and after are left in OUT, for people."""
    pipe = pipeline_of(model)
    config = config_for(pipe, model)
    before = pipe(
        PROMPT.text,
        num_inference_steps=config.sampler.num_inference_steps,
        guidance_scale=config.sampler.guidance_scale,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(1),
    ).images[0]

    refine = StepRefinement(config, PROMPT)
    after = pipe(**refine.arguments(pipe, seeds=[1])).images[0]

    OUT.mkdir(parents=True, exist_ok=True)
    both = Image.new("RGB", (2 * before.width, before.height))
    for place, image, name in ((0, before, "before"), (before.width, after, "after")):
        image.save(OUT / f"{model.replace('/', '-')}-{name}.png")
        both.paste(image, (place, 0))
    both.save(OUT / f"{model.replace('/', '-')}.png")
    assert difference(before, after) > 2
    made = generate(pipe, PROMPT, config, [1])
    assert difference(made.images[0], after) <= 2
    unrefined = generate(pipe, PROMPT, config, [1], refine=False)
    assert difference(unrefined.images[0], before) <= 1
    assert unrefined.traces == ((),)
    assert [len(trace.losses) for trace in made.traces[0]] == [1, 3, 1]
    assert all(trace.failure is None for trace in made.traces[0])


def test_images_come_prompt_by_prompt_whatever_the_batch_size() -> None:
    pipe = pipeline_of("sd")
    config = config_for(pipe, "sd")
    prompts = [PROMPT, Prompt("a cat", [Entity("cat")])]
    made = generate(pipe, prompts, config, [1, 2], batch_size=3)
    assert made.prompts == (prompts[0], prompts[0], prompts[1], prompts[1])
    assert made.seeds == (1, 2, 1, 2)
    assert [len(traces) for traces in made.traces] == [3] * 4
    alone = generate(pipe, prompts[1], config, [2], batch_size=1)
    assert difference(alone.images[0], made.images[3]) <= 2
    with pytest.raises(ValueError, match="1 prompts, 0 seeds and batch_size 8"):
        generate(pipe, PROMPT, config, [])


def test_the_schedule_is_checked_before_anything_is_made() -> None:
    pipe = pipeline_of("sd")
    config = config_for(pipe, "sd")
    moved = config.model_copy(update={"timestep": 123.0})
    with pytest.raises(ValueError, match="step index 1 was chosen for timestep 123"):
        generate(pipe, PROMPT, moved, [0])


def test_a_config_loads_its_model_with_its_dtype_and_scheduler(tmp_path: Path) -> None:
    pipeline_of("sd").save_pretrained(tmp_path / "model")
    sampler = SamplerConfig(
        scheduler="EulerDiscreteScheduler",
        scheduler_config={"timestep_spacing": "trailing"},
        num_inference_steps=4,
        guidance_scale=4.0,
        height=64,
        width=64,
    )
    model = str(tmp_path / "model")
    config = StepConfig(model=model, dtype="bfloat16", sampler=sampler, refinement=Refinement(gsng=GSNg()))
    pipe = load_pipeline(config)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert pipe.unet.dtype == torch.bfloat16
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipe.scheduler.config["timestep_spacing"] == "trailing"
    assert pipe.scheduler.config["beta_schedule"] == "scaled_linear"
    assert "latents" in StepRefinement(config, PROMPT).arguments(pipe, seeds=[0])
    with pytest.raises(ValueError, match="no embedded model 'keystep/nothing'"):
        load_pipeline("keystep/nothing")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded model where it is, else on a random one of the same kind saved in its place."""
    monkeypatch.chdir(tmp_path)
    if "keystep/shapes-sd" not in ON_DISK:
        pipeline_of("sd").save_pretrained(tmp_path / "model")
        monkeypatch.setitem(EMBEDDED, "keystep/shapes-sd", tmp_path / "model")
    result = doctest.testmod(keystep)
    assert result.attempted > 12 and result.failed == 0


def test_every_public_name_is_documented_and_shown() -> None:
    assert {name for names in keystep._HOMES.values() for name in names} == {*keystep.__all__}
    assert {*keystep.__all__} <= {*dir(keystep)}
    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        keystep.genrate  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    for name in keystep.__all__:
        assert len((getattr(keystep, name).__doc__ or "").split()) >= 5, name
    shown = keystep.__doc__ or ""
    results = {"Generated", "ImageTrace", "Evidence"}  # come back from calls and searches
    assert [name for name in keystep.__all__ if f"{name}(" not in shown and name not in results] == []
