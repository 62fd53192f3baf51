"""Programs of others that keystep hands its work to: kubectl, sbatch, ray."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence


def run(command: Sequence[str], *, text: str | None = None, install: str) -> str:
    """What a program prints, given `text` on its standard input.

    Args:
        install: what to do where the program is missing.

    Raises:
        ValueError: it is missing, or fails; says what it said.
    """
    require(command[0], install)
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise ValueError(f"{' '.join(command[:3])} failed: {said}")
    return done.stdout


def lines_of(command: Sequence[str], *, install: str) -> Iterator[str]:
    """The lines that a program prints, as it prints them. Errors as `run`'s."""
    require(command[0], install)
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for last in process.stdout:
                yield last
        except GeneratorExit:
            process.terminate()
            raise
    if process.returncode:
        raise ValueError(f"{' '.join(command[:3])} failed: {last.strip() or f'exit code {process.returncode}'}")


def require(program: str, install: str) -> None:
    """Refuse to go on without a program.

    Raises:
        ValueError: it is not on PATH; says `install`.
    """
    if shutil.which(program) is None:
        raise ValueError(f"{program} is not installed here, or not on PATH: {install}")
