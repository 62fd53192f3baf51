"""A finished search of shapes-sd with outcomes laid down by hand, for the tests of what comes after a search."""

from collections.abc import Callable
from typing import Any

from keystep.core.config import GSNg, IterRef, Refinement, SamplerConfig
from keystep.evaluation.prompt_sets import standard_set
from keystep.search.choice.result import Chosen, PartRecord, SearchResult, setting_row
from keystep.search.choice.selection import Measured, select, verdict
from keystep.search.spec.instances import Instance, Part, make_part
from keystep.search.spec.search_spec import ModelSpec, PromptsSpec, SearchSpec, StorageSpec, TrackingSpec
from keystep.search.storing.places import search_folder

TIMESTEPS = tuple(float(951 - 50 * step) for step in range(20))
WINNER = Refinement(iterref=IterRef(step_index=3, iterations=10))
RUNNER_UP = Refinement(iterref=IterRef(step_index=5, iterations=20), gsng=GSNg())
PRUNED = Refinement(iterref=IterRef(step_index=0, iterations=10))
SETS = ("shapes_two", "shapes_three")


def spec(**changes) -> SearchSpec:
    settings = {
        "name": "tried",
        "model": ModelSpec(id="keystep/shapes-sd"),
        "sampler": SamplerConfig(
            scheduler="DDPMScheduler", num_inference_steps=20, guidance_scale=1.5, height=64, width=64
        ),
        "prompts": PromptsSpec(sets=SETS, validation=12, held_out=12, seeds=(0, 1), held_out_seeds=(7, 8)),
    }
    return SearchSpec(**(settings | changes))


def part(name, num_prompts: int = 12, seeds: tuple[int, ...] = (0, 1), sets: tuple[str, ...] = SETS) -> Part:
    prompts = [standard_set(each, num_prompts, seed=0 if name == "validation" else 1) for each in sets]
    return make_part(name, prompts, seeds, 4, 0)


def outcomes(of: Part, right: Callable[[int, Instance], bool]) -> dict[int, float]:
    """1.0 for every instance for which `right(prompt number, instance)` holds, else 0.0."""
    return {instance.number: float(right(instance.number // len(of.seeds), instance)) for instance in of.instances}


def finished(gain: bool = True, **changes) -> SearchResult:
    """One trial that wins, one with GSNg behind it, one pruned; on held-out prompts a large gain or none at all."""
    validation, held_out = part("validation"), part("held_out", seeds=(7, 8))
    before = outcomes(validation, lambda prompt, _: prompt % 4 == 0)
    won = outcomes(validation, lambda prompt, _: prompt % 4 != 3)
    second = outcomes(validation, lambda prompt, _: prompt % 2 == 0)
    rows = [
        setting_row(validation, WINNER, won, slot=0, evaluations=900, evaluations_alone=60.0 * 48, seconds=4.0),
        setting_row(
            validation, PRUNED, {0: 0.0, 1: 0.0}, slot=1, state="pruned", reason="worse, p = 0.03", evaluations=80
        ),
        setting_row(validation, RUNNER_UP, second, slot=2, evaluations=1500, evaluations_alone=100.0 * 48, seconds=6),
    ]
    choice = select(before, [row.candidate for row in rows], validation)
    unrefined = outcomes(held_out, lambda prompt, _: prompt % 4 == 0)
    refined = outcomes(held_out, lambda prompt, _: prompt % 4 != 3) if gain else unrefined
    settings = {
        "search_id": "0123456789ab",
        "status": "finished",
        "spec": spec(),
        "timesteps": TIMESTEPS,
        "evaluation_id": "e" * 12,
        "detector": "keystep/shapes-segmenter",
        "validation": PartRecord.of(validation),
        "held_out_part": PartRecord.of(held_out),
        "baselines": (setting_row(validation, None, before, evaluations=1920, evaluations_alone=1920, seconds=2.0),),
        "trials": tuple(rows),
        "chosen": Chosen.of(choice),
        "held_out": verdict(
            held_out,
            Measured(None, unrefined, 0.5, 40.0),
            Measured(WINNER, refined, 0.75, 60.0),
            Measured(RUNNER_UP, refined, 1.0, 100.0),
        ),
        "evaluations_spent": 4400.0,
        "evaluations_plain": 22000.0,
        "wall_seconds": 90.0,
        "worker_seconds": 240.0,
        "versions": {"torch": "2.11.0", "diffusers": "0.36.0"},
        "git_commit": "abc1234",
        "updated": "2026-01-02T03:04:05+00:00",
    }
    return SearchResult(**(settings | changes))


def stored(folder, **changes) -> SearchResult:
    """The finished search, saved in the storage `folder`, tracked in a database there."""
    tracked = TrackingSpec(
        uri=f"sqlite:///{folder}/mlflow.db", experiment="tried", artifact_location=str(folder / "artifacts")
    )
    kept: dict[str, Any] = {"spec": spec(storage=StorageSpec(path=str(folder)), tracking=tracked)}
    result = finished(**(kept | changes))
    result.save(search_folder(str(folder), result.search_id))
    return result
