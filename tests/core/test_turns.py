"""Threads that share a pipeline: pictures are those of one call alone, and nobody waits for ever."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image, ImageChops

from keystep.core.callback import StepRefinement
from keystep.core.config import GSNg, IterRef, Refinement, StepConfig
from keystep.core.generation import generate, load_pipeline
from keystep.core.prompts import Entity, Prompt
from keystep.core.turns import Busy, Queue, alone_with
from tests.core.sampling_cases import sampler_config
from tests.tiny_models import tiny_sd

PROMPT = Prompt("a red circle and a blue star", [Entity("circle", "red"), Entity("star", "blue")])
STEPS = 6
CONFIG = StepConfig(
    model="keystep/shapes-sd",
    sampler=sampler_config("ddpm", num_inference_steps=STEPS, guidance_scale=1.5, height=64, width=64),
    refinement=Refinement(iterref=IterRef(step_index=1, iterations=4), gsng=GSNg(start=0, stop=STEPS)),
    timestep=665.0,  # 4 * (1000 // 6) + 1
)


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = load_pipeline(CONFIG)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls give when all start at once."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=300) for future in [pool.submit(run, call) for call in calls]]


def drawn(pipe: Any, seed: int, refine: bool = True) -> bytes:
    return generate(pipe, PROMPT, CONFIG, [seed], refine=refine).images[0].tobytes()


def by_callback(pipe: Any, seed: int) -> bytes:
    refine = StepRefinement(CONFIG, PROMPT)
    image = pipe(**refine.arguments(pipe, [seed])).images[0]
    assert len(refine.traces) == STEPS + 1
    return image.tobytes()


def plain(pipe: Any, seed: int) -> bytes:
    call = StepRefinement(CONFIG, PROMPT).arguments(pipe, [seed])
    del call["callback_on_step_end"], call["latents"]
    return pipe(**call).images[0].tobytes()


def furthest(image: Image.Image, other: Image.Image) -> int:
    """The largest difference of a channel of a pixel, 0..255."""
    return max(high for _, high in ImageChops.difference(image, other).getextrema())


@pytest.mark.parametrize("refined", [(True, True), (True, False), (True, True, False, True)])
def test_calls_of_generate_take_turns(pipe: Any, refined: tuple[bool, ...]) -> None:
    alone = [drawn(pipe, seed, refine) for seed, refine in enumerate(refined)]
    made = together(
        *(lambda seed=seed, refine=refine: drawn(pipe, seed, refine) for seed, refine in enumerate(refined))
    )
    assert made == alone
    assert len(set(alone)) == len(alone)


def test_stock_calls_of_several_threads_refine_in_turn(pipe: Any) -> None:
    """DDPM keeps nothing between steps, so that stock calls may share it; refined and plain ones, and `generate`."""
    calls = [
        lambda: by_callback(pipe, 0),
        lambda: by_callback(pipe, 1),
        lambda: plain(pipe, 0),
        lambda: drawn(pipe, 1),
    ]
    alone = [call() for call in calls]
    assert alone[1] == alone[3] and alone[0] != alone[2]
    assert together(*calls) == alone


def test_pipelines_that_share_a_denoiser_share_its_turns(pipe: Any) -> None:
    other = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    expected = [drawn(pipe, 0), drawn(pipe, 1)]
    assert together(lambda: drawn(pipe, 0), lambda: drawn(other, 1)) == expected


def test_one_refinement_in_two_calls_at_once_is_refused(pipe: Any) -> None:
    refine = StepRefinement(CONFIG, PROMPT)
    call = refine.arguments(pipe, [0])
    ours = call["callback_on_step_end"]

    def at_step(pipeline: Any, step_index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step_index == 1:
            with ThreadPoolExecutor(1) as pool:  # as another thread's call would have it
                pool.submit(ours, pipeline, step_index, timestep, dict(tensors)).result()
        return ours(pipeline, step_index, timestep, tensors)

    call |= {"callback_on_step_end": at_step, "callback_on_step_end_tensor_inputs": refine.tensor_inputs}
    with pytest.raises(ValueError, match="used by two calls at once: make one for each"):
        pipe(**call)


def test_a_thread_that_has_its_turn_may_ask_again_and_leaves_it_after_an_error() -> None:
    denoiser = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError), alone_with(denoiser), alone_with(denoiser):
        raise RuntimeError
    order: list[str] = []
    entered = threading.Event()

    def first() -> None:
        with alone_with(denoiser):
            entered.set()
            time.sleep(0.2)
            order.append("first")

    def second() -> None:
        entered.wait()
        with alone_with(denoiser):
            order.append("second")

    together(first, second)
    assert order == ["first", "second"]
    with alone_with(denoiser), alone_with(torch.nn.Linear(1, 1)):
        pass  # others have turns of their own


def test_a_queue_takes_so_many_and_says_busy_to_the_rest() -> None:
    queue = Queue(waiting=2, patience=60)
    release, done = threading.Event(), []

    def work(number: int) -> None:
        with queue.turn():
            release.wait(60)
            done.append(number)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, number) for number in range(3)]
        deadline = time.monotonic() + 60
        while queue._places._value and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Busy, match="3 requests are being drawn or wait already"), queue.turn():
            pass
        release.set()
        for future in futures:
            future.result()
    assert sorted(done) == [0, 1, 2]
    with queue.turn():
        pass


def test_a_turn_that_does_not_come_in_time_is_given_up() -> None:
    queue = Queue(waiting=1, patience=0.05)
    with queue.turn(), ThreadPoolExecutor(1) as pool:

        def late() -> None:
            with queue.turn():
                pass

        with pytest.raises(Busy, match=r"took longer than 0\.05 s"):
            pool.submit(late).result()
    with queue.turn():
        pass


def test_a_prompt_without_entities_costs_no_iterations(pipe: Any) -> None:
    """Beside prompts that have some, in one batch, at every step that is refined."""
    bare = Prompt(PROMPT.text, [])
    made = generate(pipe, [bare, PROMPT, bare], CONFIG, [3])
    calls: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    try:
        alone = generate(pipe, bare, CONFIG, [3])
    finally:
        handle.remove()
    assert calls == [2] * STEPS  # both branches of guidance, once a step
    unrefined = generate(pipe, bare, CONFIG, [3], refine=False).images[0]
    assert alone.images[0].tobytes() == unrefined.tobytes()
    refined = generate(pipe, PROMPT, CONFIG, [3]).images[0]
    # In a batch of another size the last bits differ.
    for image, expected in zip(made.images, (unrefined, refined, unrefined), strict=True):
        assert furthest(image, expected) <= 2
    assert furthest(refined, unrefined) > 20
    for traces in (made.traces[0], alone.traces[0]):
        assert [(trace.kind, trace.iterations, trace.losses) for trace in traces][:3] == [
            ("gsng", 0, ()),
            ("iterref", 0, ()),
            ("gsng", 0, ()),
        ]
        assert {trace.failure for trace in traces} == {
            "the prompt names no entities, so that there is nothing to refine"
        }
    assert [trace.iterations for trace in made.traces[1]][:3] == [1, 4, 1]
    refine = StepRefinement(CONFIG, bare)
    assert pipe(**refine.arguments(pipe, [3])).images[0].tobytes() == unrefined.tobytes()


def test_a_random_model_without_entities_too() -> None:
    pipe = tiny_sd()
    pipe.set_progress_bar_config(disable=True)
    bare = Prompt("a cat", [])
    config = CONFIG.model_copy(update={"model": "in/memory"})
    made = [generate(pipe, bare, config, [0], refine=refine).images[0].tobytes() for refine in (True, False)]
    assert made[0] == made[1]
