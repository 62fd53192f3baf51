"""Slurm: one batch job in which `ray symmetric-run` starts Ray on every node, and the first node runs the search."""

import shlex
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Self

from pydantic import Field, model_validator

from keystep.cluster.sending.portable import refuse_secrets, spec_text
from keystep.cluster.sending.programs import run
from keystep.cluster.targets.base import (
    MAX_CPUS,
    MAX_GPUS,
    MAX_NODES,
    Handle,
    Line,
    Options,
    State,
    Submission,
    Target,
    Variable,
    entrypoint,
    words,
)
from keystep.cluster.targets.slurm_directives import Account, Constraint, Directive, GpuType, Partitions, gpus_of
from keystep.core.frozen import FromList
from keystep.search.spec.search_spec import SearchSpec

INSTALL = "run this on a login node of the cluster"
Time = Annotated[str, words(r"(\d+-)?\d{1,2}(:\d{2}){1,2}|\d+", "a time such as 08:00:00 or 2-00:00:00")]
Memory = Annotated[str, words(r"\d+[KMGT]?", "a size such as 64G")]
WAITING = frozenset(
    {
        "PENDING",
        "CONFIGURING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
        "STOPPED",
        "SUSPENDED",
    }
)
RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"})
WARNING_SECONDS = 120  # before the time is up
PAUSE = 10.0  # seconds between two looks at a job that is followed: squeue burdens the controller of everybody
SPEC_MARK = "keystep-spec"


class SlurmOptions(Options):
    """What the batch job asks for.

    Args:
        nodes: how many.
        gpus: of each node.
        cpus: of each node; None leaves it to Slurm and Ray.
        memory: of each node; None is the partition's default.
        time: after which the job goes back into the queue.
        partition, account: None is the user's default. Several partitions are separated by commas.
        qos, constraint, reservation: as sbatch takes them.
        gpu_type: of the GPUs, as in "a100"; None takes any.
        directive: more of sbatch's options, KEY=VALUE or KEY; `gres=gpu:TYPE:NUMBER` stands in for what gpus asks.
        setup: lines that run first on the first node, such as "source ~/venv/bin/activate".
        env: variables that must be set where the job is submitted; Slurm hands them on.
    """

    nodes: int = Field(default=1, ge=1, le=MAX_NODES)
    gpus: int = Field(default=1, ge=0, le=MAX_GPUS)
    cpus: int | None = Field(default=None, ge=1, le=MAX_CPUS)
    memory: Memory | None = None
    time: Time = "08:00:00"
    partition: Partitions | None = None
    account: Account | None = None
    qos: Account | None = None
    constraint: Constraint | None = None
    reservation: Partitions | None = None
    gpu_type: GpuType | None = None
    directive: Annotated[tuple[Directive, ...], FromList] = ()
    setup: Annotated[tuple[Line, ...], FromList] = ()
    env: Annotated[tuple[Variable, ...], FromList] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.gpu_type is not None and not self.gpus:
            raise ValueError("gpu_type names a kind of GPU, and gpus is 0: leave one of them out")
        named = gpus_of(self.directive)
        if named is not None and (named != self.gpus or self.gpu_type is not None):
            raise ValueError(
                f"directive: gres names {named} GPUs a node, and gpus is {self.gpus}: give both the same number, and "
                "no gpu_type beside it"
            )
        return self


class Slurm(Target):
    """The text is the batch script, with the spec in it. Paths are those of a disk that all nodes see."""

    options = SlurmOptions

    def plan(self, spec: SearchSpec, options: SlurmOptions) -> Submission:
        refuse_secrets(spec)
        sent = spec.anchored()
        search_id = spec.search_id
        folder = Path.cwd()
        log = folder / f"keystep-{search_id}.out"
        file = folder / f"keystep-{search_id}.yaml"
        for path in (log, file):
            _plain_path(path)
        text = script(search_id, file, log, spec_text(sent), options)
        return Submission(text, "sbatch", {"log": str(log)})

    def submit(self, submission: Submission) -> Handle:
        printed = run(["sbatch", "--parsable"], text=submission.text, install=INSTALL)
        return submission.handle | {"job": printed.strip().partition(";")[0]}

    def state(self, handle: Handle) -> State:
        command = ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs", handle["job"]]
        try:
            word = run(command, install=INSTALL).strip()
        except ValueError as error:
            if "invalid job id" not in str(error).lower():
                raise
            word = ""  # Slurm forgets jobs minutes after they have ended
        if not word:
            return State("gone", f"Slurm lists no job {handle['job']} any more")
        phase = "waiting" if word in WAITING else "running" if word in RUNNING else "ended"
        return State(phase, f"Slurm job {handle['job']} {word}")

    def logs(self, handle: Handle, follow: bool) -> Iterator[str]:
        log = Path(handle["log"])
        if not log.exists():
            raise ValueError(f"there is no {log} yet: {self.state(handle).detail}")
        return self._pieces(log, handle, follow)

    def _pieces(self, log: Path, handle: Handle, follow: bool) -> Iterator[str]:
        with log.open(encoding="utf-8", errors="replace") as file:
            while True:
                ended = not follow or not self.state(handle).active
                yield file.read()
                if ended:
                    return
                time.sleep(PAUSE)

    def stop(self, handle: Handle) -> str:
        run(["scancel", handle["job"]], install=INSTALL)
        return f"cancelled Slurm job {handle['job']}"


def script(search_id: str, spec_file: Path, log: Path, spec: str, options: SlurmOptions) -> str:
    """The batch script."""
    asked = {
        "job-name": f"keystep-{search_id}",
        "nodes": options.nodes,
        "ntasks-per-node": 1,
        "exclusive": None if options.cpus else "",
        "cpus-per-task": options.cpus,
        "gpus-per-node": _gpus(options),
        "mem": options.memory,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "reservation": options.reservation,
        "output": log,
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR1@{WARNING_SECONDS}",
        **{key: value for key, _, value in (each.partition("=") for each in options.directive)},
    }
    given = {key: value for key, value in asked.items() if value is not None}
    directives = [f"#SBATCH --{key}" + (f"={value}" if value != "" else "") for key, value in given.items()]
    assert SPEC_MARK not in spec.splitlines()
    lines = [f': "${{{name}:?is not set where the job was submitted}}"' for name in options.env]
    lines.append(f"cat > {shlex.quote(str(spec_file))} << '{SPEC_MARK}'\n{spec.rstrip()}\n{SPEC_MARK}")
    template = (resources.files("keystep.cluster") / "templates" / "search.sbatch").read_text(encoding="utf-8")
    return Template(template).substitute(
        directives="\n".join(directives),
        checks="".join(f"{line}\n" for line in lines),
        setup="".join(f"{line}\n" for line in options.setup),
        nodes=options.nodes,
        cpus=options.cpus or '"$SLURM_CPUS_ON_NODE"',
        gpus=options.gpus,
        search=shlex.quote(entrypoint(str(spec_file), options)),
    )


def _gpus(options: SlurmOptions) -> str | int | None:
    """What --gpus-per-node says; None where there are none, or --gres says it."""
    if not options.gpus or gpus_of(options.directive) is not None:
        return None
    return f"{options.gpu_type}:{options.gpus}" if options.gpu_type else options.gpus


def _plain_path(path: Path) -> None:
    """Slurm reads %, \\ and blanks in the path of a log in ways of its own."""
    if any(character in "%\\ \t\n\"'" for character in str(path)):
        raise ValueError(f"Slurm takes no log in {path.parent}: launch from a folder without blanks, quotes, % and \\")
