"""What can be said against a search before its trials begin: too few prompts, nothing to repair, a grid cut short."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from keystep.evaluation.statistics import smallest_p
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Part
from keystep.search.spec.search_spec import SearchSpec

NAMED = 4  # groups of settings that are named
MOST_PROMPTS = 64  # more do not make p smaller


def forewarnings(
    spec: SearchSpec, timesteps: Sequence[float], held_out: Part, unrefined: Mapping[int, float] | None = None
) -> list[str]:
    """What whoever waits for the search has to mind, a sentence or two each; empty where all is well.

    Args:
        timesteps: of the schedule.
        unrefined: outcomes of the unrefined model on the validation part, once it has been run.
    """
    space = Space(spec, timesteps)
    found = (_too_few_prompts(spec, space, held_out), _cut_grid(spec, space), _nothing_to_tell(unrefined))
    return [text for text in found if text]


def _too_few_prompts(spec: SearchSpec, space: Space, held_out: Part) -> str:
    """That no gain can be significant, were every single held-out prompt better."""
    alpha, num_prompts = spec.search.alpha, sum(map(len, held_out.sets))
    tried = min(spec.search.trials, space.size or spec.search.trials) + len(space.guidance_alone())
    confirmed = min(2, tried)  # the winner, and its runner-up where there is one
    least = smallest_p(num_prompts, confirmed)
    if least <= alpha:
        return ""
    enough = next((n for n in range(num_prompts, MOST_PROMPTS) if smallest_p(n, confirmed) <= alpha), None)
    if enough is None:
        remedy = f"raise search.alpha to {smallest_p(MOST_PROMPTS, confirmed):.2g} or more"
    else:
        remedy = f"set prompts.held_out to {-(-enough // len(held_out.sets))} or more"
    surely = "never" if smallest_p(num_prompts) > alpha else "hardly"
    return (
        f"{num_prompts} held-out prompt{'s' * (num_prompts > 1)} can {surely} show a gain: better on all of them would "
        f"be p = {least:.2g}, above search.alpha {alpha:g}, and without a significant gain no config is exported: "
        f"{remedy}."
    )


def _cut_grid(spec: SearchSpec, space: Space) -> str:
    """Which settings of a grid are not tried, since there are fewer trials."""
    trials, size = spec.search.trials, space.size
    if spec.search.sampler != "grid" or size is None or size <= trials:
        return ""
    groups: dict[str, list[int]] = {}  # the other params in words, to the steps left out
    for params in islice(space.grid(), trials, None):
        others = ", ".join(f"{name} {_plain(value)}" for name, value in params.items() if name != "step_index")
        groups.setdefault(others, []).extend([params["step_index"]] if "step_index" in params else [])
    named = [_group(others, steps, space) for others, steps in islice(groups.items(), NAMED)]
    more = f"; and {len(groups) - NAMED} more such" if len(groups) > NAMED else ""
    return (
        f"search.trials {trials} cuts the grid of {size} settings short: {size - trials} are left out, the last in its "
        f"order: {'; '.join(named)}{more}."
    )


def _group(others: str, steps: Sequence[int], space: Space) -> str:
    if not steps:
        return others
    every = len(steps) == len(space.steps)
    at = "every step" if every else f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"
    return f"{others} at {at}" if others else at


def _nothing_to_tell(unrefined: Mapping[int, float] | None) -> str:
    """That the unrefined model is always wrong, or always right."""
    if not unrefined:
        return ""
    right, total = sum(unrefined.values()), len(unrefined)
    if right == 0:
        return (
            f"The unrefined model shows what was asked on none of the {total} validation images. Look at some (keystep "
            "generate): if they are no pictures, the model's dtype or sampler is at fault; if they show what was "
            "asked, the detector does not see it; if the prompts are too hard, take easier ones."
        )
    if right == total:
        return (
            f"The unrefined model shows what was asked on all of the {total} validation images: there is nothing to "
            "repair, and no setting can be better. Take harder prompts, such as more entities or colours."
        )
    return ""


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
