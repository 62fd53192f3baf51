"""From a search's result to the step config that production loads, with the evidence for it."""

from keystep.core import evidence
from keystep.core.config import StepConfig
from keystep.core.evidence import Evidence
from keystep.core.families import known_family
from keystep.evaluation.statistics import Estimate
from keystep.search.choice.metric_estimates import UNREFINED, MetricsFound
from keystep.search.choice.result import SearchResult
from keystep.search.choice.selection import Confirmed


def step_config(result: SearchResult, *, runner_up: bool = False, force: bool = False) -> StepConfig:
    """The winner as a step config, with what was measured on held-out prompts.

    Args:
        runner_up: take the runner-up instead.
        force: also without a significant gain.

    Raises:
        ValueError: the search is not finished, found no setting, or the setting is not shown to be better than the
            unrefined model; says what can be done.
    """
    confirmed, which = _confirmed(result, runner_up)  # which: as `HeldOut.settings` calls it
    if not confirmed.significant and not force:
        raise ValueError(_no_gain(result, confirmed, which))
    refinement = confirmed.measured.refinement
    assert refinement is not None
    spec = result.spec
    return StepConfig(
        model=spec.model.id,
        revision=spec.model.revision,
        variant=spec.model.variant,
        family=known_family(spec.model.id, spec.model.revision),
        dtype=spec.model.dtype,
        sampler=spec.sampler,
        refinement=refinement,
        timestep=result.timesteps[refinement.key_step],
        evidence=_evidence(result, confirmed, which),
    )


def evidence_text(config: StepConfig) -> str:
    """What was measured of an exported config, in a sentence."""
    found = config.evidence
    assert found is not None
    before, after = found.tiam_before, found.tiam_after
    return (
        f"TIAM on held-out prompts {before.value:.3f} [{before.low:.3f}, {before.high:.3f}] unrefined, "
        f"{after.value:.3f} [{after.low:.3f}, {after.high:.3f}] refined, p = {found.p_value:.2g} of no gain"
    )


def _confirmed(result: SearchResult, runner_up: bool) -> tuple[Confirmed, str]:
    if result.held_out is None:
        if result.chosen is not None and result.chosen.winner is None:
            raise ValueError(
                f"search {result.search_id} has nothing to export: {result.chosen.reason}. Look at what stopped them "
                f"with keystep report {result.search_id}; then widen space, or raise search.trials"
            )
        raise ValueError(
            f"search {result.search_id} is {result.status} and has not run its held-out prompts yet: call keystep "
            "search with the same spec again, it goes on where it stopped"
        )
    if not runner_up:
        return result.held_out.winner, "winner"
    if result.held_out.runner_up is None:
        raise ValueError(f"search {result.search_id} has no runner-up: only one setting was fully evaluated")
    return result.held_out.runner_up, "runner-up"


def _no_gain(result: SearchResult, confirmed: Confirmed, which: str) -> str:
    held_out, comparison = result.held_out, confirmed.comparison
    assert held_out is not None and comparison is not None
    gain, before = comparison.difference, held_out.baseline.tiam
    lines = [
        f"search {result.search_id} found no significant gain, and nothing was exported. On {gain.num_prompts} "
        f"held-out prompts the {which} has TIAM {confirmed.tiam.mean:.3f}, the unrefined model {before.mean:.3f}: "
        f"difference {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], p = {comparison.p_adjusted:.2g}, where the "
        f"interval has to lie above 0 and p to be at most {held_out.alpha:g}. What could be done:",
    ]
    other = held_out.winner if which == "runner-up" else held_out.runner_up
    if other is not None and other.significant:
        option = "without --runner-up" if which == "runner-up" else "with --runner-up"
        lines.append(f"  - the other one confirmed does have a significant gain: export it {option}")
    if gain.mean > 0:
        lines.append(
            "  - more held-out prompts or seeds (prompts.held_out, prompts.held_out_seeds): the gain may be real but "
            "too small to be seen with these"
        )
    lines += [
        "  - a wider search: more steps, iterations and step sizes (space), more trials (search.trials)",
        "  - export it all the same with --force; its evidence will say what was measured",
    ]
    return "\n".join(lines)


def _evidence(result: SearchResult, confirmed: Confirmed, which: str) -> Evidence:
    held_out, comparison = result.held_out, confirmed.comparison
    assert held_out is not None and comparison is not None
    return Evidence(
        tiam_before=_estimate(held_out.baseline.tiam),
        tiam_after=_estimate(confirmed.tiam),
        p_value=comparison.p_adjusted,
        prompt_sets=result.held_out_part.sets,
        detector=result.detector,
        seeds=result.held_out_part.seeds,
        search_id=result.search_id,
        versions=result.versions,
        seconds_per_image=confirmed.measured.seconds_per_image,
        seconds_per_image_before=held_out.baseline.measured.seconds_per_image,
        metrics=_metrics(result.metrics, which),
    )


def _metrics(found: MetricsFound | None, which: str) -> dict[str, evidence.BeforeAfter]:
    if found is None:
        return {}
    measured = {}
    for name, metric in found.metrics.items():
        model = found.models.get(name, found.models["clip"])["name"]
        before, after = (
            evidence.Measure(value=each.mean, low=each.low, high=each.high, level=each.confidence)
            for each in (metric.settings[UNREFINED], metric.settings[which])
        )
        measured[name] = evidence.BeforeAfter(before=before, after=after, model=model)
    return measured


def _estimate(found: Estimate) -> evidence.Estimate:
    # A bias-corrected bootstrap interval need not hold the mean it is of; this one has to.
    return evidence.Estimate(
        value=found.mean,
        low=max(0.0, min(found.low, found.mean)),
        high=min(1.0, max(found.high, found.mean)),
        level=found.confidence,
    )
