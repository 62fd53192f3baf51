"""What every target does: plan a submission, submit it, and look after what was submitted."""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from keystep.core.frozen import FrozenModel
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.tracking.tracking_uri import VARIABLE

MAX_NODES, MAX_GPUS, MAX_CPUS = 10_000, 1000, 10_000  # of machines, and of each
Handle = dict[str, str]
"""What a target needs to find again what it submitted; kept as JSON. Never a secret."""


class Options(FrozenModel):
    """What a target can be told beside the spec; the command line has an option of each name.

    Args:
        skip_doctor: search at once, without keystep doctor before it.
    """

    skip_doctor: bool = False


@dataclass(frozen=True)
class Submission:
    """What would be submitted.

    Attributes:
        text: exactly what is sent, and all of it: `submit` reads nothing else.
        handle: what is known beforehand of how to find it again.
        through: the program or service that `text` is handed to, for people.
    """

    text: str
    through: str
    handle: Handle = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Where a submission stands.

    Attributes:
        phase: waiting (for machines), running, ended, or gone (the target knows nothing of it any more).
        detail: what the target itself says.
    """

    phase: Literal["waiting", "running", "ended", "gone"]
    detail: str = ""

    @property
    def active(self) -> bool:
        """Whether it still runs or will."""
        return self.phase in ("waiting", "running")


class Target(ABC):
    """A kind of place where a search can run. The command that runs there goes on with a search that it finds begun.

    Attributes:
        options: the class of its options.
        keeps_going: whether `submit` returns while the search runs; else it returns when the search has ended.
    """

    options: type[Options] = Options
    keeps_going: bool = True

    @abstractmethod
    def plan(self, spec: SearchSpec, options: Any) -> Submission:
        """What would be submitted; touches nothing.

        Raises:
            ValueError: a spec or an option that cannot work there; says what to do.
        """

    @abstractmethod
    def submit(self, submission: Submission) -> Handle:
        """Hand a plan over.

        Raises:
            ValueError: the target cannot be reached, or refuses it; says what to do.
        """

    @abstractmethod
    def state(self, handle: Handle) -> State:
        """Where it stands. Errors as `submit`'s."""

    @abstractmethod
    def logs(self, handle: Handle, follow: bool) -> Iterator[str]:
        """What it has printed, in pieces; with `follow` until it ends. Errors as `submit`'s."""

    @abstractmethod
    def stop(self, handle: Handle) -> str:
        """End it and give its machines back; launching again goes on with it. Says what was done."""


def words(pattern: str, what: str, *, secret: bool = False) -> AfterValidator:
    """A check of a text against a pattern, as a whole.

    Args:
        what: is allowed, for the message.
        secret: a wrong text may hold a password, so that the message must not show it.
    """

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {what}" + ("" if secret else f", got {text!r}"))
        return text

    return AfterValidator(check)


def one_line(text: str) -> str:
    """A line of a script: no line break or other control character.

    Raises:
        ValueError: it has one.
    """
    if not text.strip() or any(ord(character) < 32 for character in text):
        raise ValueError(f"must be one line that is not empty, got {text!r}")
    return text


def entrypoint(file: str, options: Options, env: tuple[str, ...] = ()) -> str:
    """The command that runs there: the preflight, then the search, which goes on if it was begun.

    Args:
        file: the spec, there.
        env: variables without which it ends at once.
    """
    checks = [f': "${{{name}:?{_missing(name)}}}"' for name in dict.fromkeys(env)]
    doctor = [] if options.skip_doctor else [f"keystep doctor {shlex.quote(file)}"]
    return " && ".join([*checks, *doctor, f"keystep search {shlex.quote(file)}"])


def _missing(name: str) -> str:
    """What the shell says of a variable that is not set."""
    if name == VARIABLE:
        return "is not set on the cluster and the spec has no tracking.uri; tracking.enabled=false tracks nothing"
    return "is not set on the cluster"


Name = Annotated[str, words(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "letters, digits, '.', '_' and '-'")]
Label = Annotated[str, words(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "lower-case letters, digits and '-', 63 at most")]
Variable = Annotated[
    str, words(r"[A-Z][A-Z0-9_]*", "the name of an environment variable in capitals, without its value", secret=True)
]
Image = Annotated[
    str,
    words(
        r"[a-z0-9][\w./:-]*(:[\w.-]+|@sha256:[0-9a-f]{64})",
        "an image with a tag or digest, such as registry.example/keystep:0.1.0",
    ),
]
Line = Annotated[str, AfterValidator(one_line)]
Folder = Annotated[str, words(r"(/[\w.-]+)+", "an absolute path of letters, digits, '.', '_' and '-'")]
