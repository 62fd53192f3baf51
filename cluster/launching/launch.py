"""Send a search to a target, and remember where it was sent."""

from collections.abc import Mapping
from typing import Any

from keystep.cluster.sending.launches import Launch, launch_file, launched, now
from keystep.cluster.targets import TARGETS, Options, Submission
from keystep.core.frozen import did_you_mean
from keystep.search.spec.loading import BUILT_IN, load_spec
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked

WORKERS = "resources.workers"


def spec_to_launch(name_or_path: str, overrides: list[str]) -> SearchSpec:
    """The spec, as `keystep.search.spec.loading.load_spec` reads it.

    A built-in spec that names a number of workers, which suits a small machine, gets as many as fit instead.
    """
    spec = load_spec(name_or_path, overrides)
    if name_or_path in BUILT_IN and not any(override.split("=")[0].strip() == WORKERS for override in overrides):
        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"workers": None})})
    return spec


def options_of(target: str, given: Mapping[str, Any]) -> Options:
    """The options of a target, of those that were given.

    Raises:
        ValueError: no such target, an option that it does not have or needs and lacks, or a value it cannot use.
    """
    if target not in TARGETS:
        raise ValueError(
            f"--target {target}: there is none called so{did_you_mean(target, list(TARGETS))} "
            f"(they are {', '.join(TARGETS)})"
        )
    fields = TARGETS[target].options.model_fields
    for name in given:
        if name not in fields:
            takes = ", ".join(flag(field) for field in fields)
            raise ValueError(f"{flag(name)} is no option of --target {target} (it takes {takes})")
    for name, field in fields.items():
        if field.is_required() and name not in given:
            raise ValueError(f"--target {target} needs {flag(name)}: see keystep launch --help")
    return TARGETS[target].options.from_plain(given, f"keystep launch --target {target}")


def launch(spec: SearchSpec, target: str, submission: Submission) -> Launch:
    """Submit what was planned, unless the search is at work there already.

    Returns when it is handed over; from the target `local` when the search has ended.

    Raises:
        ValueError: it is at work already, or the place of its last launch does not say, or the target cannot be reached
            or refuses it; says what to do.
    """
    _refuse_twice(spec.search_id)

    def remembered(handle: dict[str, str]) -> Launch:
        known = Launch(
            target=target,
            search_id=spec.search_id,
            name=spec.name,
            storage=masked(spec.anchored().storage.path if target in ("local", "slurm") else spec.storage.path),
            handle=handle,
            launched=now(),
        )
        known.save()
        return known

    if not TARGETS[target].keeps_going:
        remembered(submission.handle)  # so that another terminal finds it while it runs here
    return remembered(TARGETS[target].submit(submission))


def _refuse_twice(search_id: str) -> None:
    """Refuse a search that may still be at work where it was launched last."""
    before = launched(search_id)
    if before is None:
        return
    when = f"launched to {before.target} on {before.launched}"
    try:
        state = TARGETS[before.target].state(before.handle)
    except ValueError as error:
        raise ValueError(
            f"whether this search, {when}, is still at work cannot be told: {error}\n"
            f"If you know that it is not, remove {launch_file(search_id)} and launch it again"
        ) from None
    if state.active:
        raise ValueError(
            f"this search is {state.phase} already, {when} ({state.detail}): follow it with keystep logs {search_id} "
            f"--follow, or end it with keystep stop {search_id}"
        )


def flag(name: str) -> str:
    """The command line's option for a field."""
    return f"--{name.replace('_', '-')}"
