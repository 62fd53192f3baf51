"""What a user may add to the directives of a batch job: checked, so that no value becomes another directive."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from keystep.cluster.targets.base import words
from keystep.search.storing.secrets import masked

OPTIONS = {
    "account": "--account",
    "constraint": "--constraint",
    "cpus-per-task": "--cpus",
    "gpus": "--gpus",
    "gpus-per-node": "--gpus",
    "mem": "--memory",
    "nodes": "--nodes",
    "partition": "--partition",
    "qos": "--qos",
    "reservation": "--reservation",
    "time": "--time",
}
"""Directives that `keystep launch` has an option for."""

OWN = frozenset(
    {
        "array",
        "gpus-per-task",
        "job-name",
        "no-requeue",
        "ntasks",
        "ntasks-per-core",
        "ntasks-per-gpu",
        "ntasks-per-node",
        "ntasks-per-socket",
        "open-mode",
        "output",
        "parsable",
        "requeue",
        "signal",
        "test-only",
        "wait",
        "wrap",
    }
)
"""Directives that the job depends on being as they are: one task a node, one log, back into the queue."""

# sbatch splits a line at blanks, reads quotes and backslashes, and begins a comment at #.
_DIRECTIVE = re.compile(r"[a-z][a-z0-9-]{0,63}(=[^\s\"'\\`#\x00-\x1f\x7f]{1,1000})?")
_GPUS = re.compile(r"gpu(?::[A-Za-z0-9_.-]*[A-Za-z_][A-Za-z0-9_.-]*)?(?::(\d{1,4}))?")


def directive(text: str) -> str:
    """The text, if it is KEY=VALUE or KEY of sbatch, and none that keystep sets itself.

    Raises:
        ValueError: it is not; says what to use instead. A value that looks like a secret is not shown.
    """
    if masked(text) != text:
        raise ValueError("holds a secret, and would be in the job's script: name it with --env instead")
    if not _DIRECTIVE.fullmatch(text):
        raise ValueError(
            "must be KEY=VALUE or KEY of sbatch, without dashes before it and without blanks, quotes, backslashes and "
            f"#, such as mail-type=END, got {text[:80]!r}"
        )
    key = text.partition("=")[0]
    if key in OPTIONS:
        raise ValueError(f"{key} has an option of its own: use {OPTIONS[key]}")
    if key in OWN:
        raise ValueError(f"{key} is set by keystep, which depends on it")
    return text


def gpus_of(directives: Sequence[str]) -> int | None:
    """How many GPUs a node `gres` asks for among the directives; None if it asks for none."""
    for key, _, value in (each.partition("=") for each in directives):
        counts = [match[1] for part in value.split(",") if (match := _GPUS.fullmatch(part))]
        if key == "gres" and counts:
            return sum(int(count or 1) for count in counts)
    return None


_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.@+:-]{0,127}"
Account = Annotated[str, words(_PLAIN, "letters, digits and . _ - @ + :")]
Partitions = Annotated[
    str, words(rf"{_PLAIN}(,{_PLAIN}){{0,31}}", "letters, digits and . _ - @ + :, or several with commas between")
]
Constraint = Annotated[
    str, words(r"[A-Za-z0-9_.,&|*()\[\]:+-]{1,255}", "features with & , | * ( ) [ ] between them, and no blanks")
]
GpuType = Annotated[str, words(r"[A-Za-z0-9_.-]*[A-Za-z_][A-Za-z0-9_.-]{0,63}", "a kind of GPU, such as a100")]
Directive = Annotated[str, AfterValidator(directive)]
