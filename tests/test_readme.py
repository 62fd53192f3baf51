"""Every command of the README: the quick ones are run as they stand, the others at least understood.

A search of the embedded model, laid down by hand, stands in for the minutes that `keystep search` takes; the slow test
runs that too, on a few prompts.
"""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import keystep.cluster.cli
import keystep.search.cli
from keystep.search.spec.loading import load_spec
from keystep.search.spec.search_spec import StorageSpec, TrackingSpec
from tests.search.found_search import spec, stored

APP = keystep.search.cli.build_app({**keystep.search.cli.commands(), **keystep.cluster.cli.commands()})
ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
TINY = """
    --set sampler.num_inference_steps=6 --set prompts.sets=[shapes_two] --set prompts.validation=2
    --set prompts.held_out=2 --set prompts.seeds=[0] --set prompts.held_out_seeds=[1] --set search.trials=2
    --set search.block_prompts=2 --set space.steps=[1,2] --set space.iterations=[2] --set resources.workers=1
"""


@dataclass(frozen=True)
class Command:
    """A command of a bash block, continued lines joined, without its comment; `into` is the file after `>`."""

    words: tuple[str, ...]
    into: str | None = None

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def is_cheap(self) -> bool:
        """Whether it can be run here: keystep's own, in seconds, without a hub, a cluster or a server."""
        program, *rest = self.words
        command = rest[0] if rest else ""
        cheap = command in ("report", "prompts", "generate", "estimate") or (
            command == "export" and "--register" not in rest
        )
        return program == "keystep" and (cheap or "--print-spec" in rest)


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return [text for name, text in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8")) if name == language]


def commands() -> Iterator[Command]:
    for text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if ">" in words:
                at = words.index(">")
                yield Command(tuple(words[:at]), words[at + 1])
            elif words:
                yield Command(tuple(words))


COMMANDS = list(commands())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def run(command: Command, *more: str) -> Any:
    result = CliRunner().invoke(APP, [*command.words[1:], *more], env={"COLUMNS": "140"})
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    if command.into is not None:
        Path(command.into).write_text(result.stdout)
    return result


def test_the_readme_has_what_it_promises() -> None:
    programs = {command.words[:2] for command in COMMANDS}
    assert {("make", "demo"), ("make", "test"), ("keystep", "search"), ("keystep", "export")} <= programs
    assert blocks("python"), "the two lines on a stock pipeline"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_is_one_that_there_is(command: Command) -> None:
    program, *rest = command.words
    while "=" in program:  # NAME=value in front
        program, *rest = rest
    if program == "keystep":
        name, *arguments = rest
        known = get_command(APP)
        known.commands[name].make_context(name, arguments)  # pyright: ignore[reportAttributeAccessIssue]
        for number, word in enumerate(arguments[:-1]):
            if word == "--set":  # the key, too, must be one of a spec
                load_spec("sd14", [arguments[number + 1]])
    elif program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets
    elif program in ("python", "python3") and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None
    else:
        assert program in ("git", "cd", "pip", "mlflow", "curl", "export", "source"), f"nothing checks {command}"


def test_what_is_quick_runs_as_it_stands(place: Path) -> None:
    runs = place / "keystep-runs"
    tracked = TrackingSpec(uri=f"sqlite:///{place}/mlflow.db")
    stored(runs, spec=spec(name="shapes-sd", storage=StorageSpec(path=str(runs)), tracking=tracked))
    Path("color_val.txt").write_text("a red car and a dog\nthe sea\n")  # as T2I-CompBench has it: prompts alone
    for command in COMMANDS:
        if command.is_cheap:
            run(command)
            for word in [*command.words, command.into or ""]:
                if Path(word).suffix in (".csv", ".json", ".html", ".yaml", ".png"):
                    assert Path(word).stat().st_size > 0, f"{command} did not write {word}"
        elif command.words[:2] == ("keystep", "launch"):
            assert run(command, "--dry-run").stdout.strip(), f"{command} would submit nothing"
    made: dict[str, Any] = {}
    for text in blocks("python"):
        exec(compile(text, "README.md", "exec"), made)
    assert isinstance(made["image"], Image.Image) and made["image"].size == (64, 64)


@pytest.mark.slow
def test_what_takes_minutes_runs_on_a_few_prompts(place: Path) -> None:
    searches = [c for c in COMMANDS if c.words[:2] == ("keystep", "search") and len(c.words) == 2]
    assert searches, "the README no longer begins with a plain keystep search"
    said = run(searches[0], *TINY.split())
    assert "the best refinement step of keystep/shapes-sd" in said.stdout
    for command in COMMANDS:
        if command.words[:2] == ("keystep", "export"):
            run(command, "--force")  # four prompts prove nothing
    assert Path("step_config.json").exists()
