"""What `--help` says: every command has examples, and they are right."""

import shlex

from typer.main import get_command
from typer.testing import CliRunner

import keystep.cluster.cli
import keystep.search.cli

APP = keystep.search.cli.build_app({**keystep.search.cli.commands(), **keystep.cluster.cli.commands()})


def test_every_help_has_an_example_that_its_command_understands() -> None:
    for name, command in get_command(APP).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        lines = (command.help or "").replace("\\\n", " ").splitlines()
        examples = [line for line in map(str.strip, lines) if line.startswith(f"keystep {name}")]
        assert examples, f"keystep {name} --help has no example"
        for example in examples:
            words = shlex.split(example, comments=True)
            arguments = words[: words.index(">")] if ">" in words else words
            command.make_context(name, arguments[2:])


def test_examples_can_be_copied_from_a_terminal_of_80_columns() -> None:
    commands = get_command(APP).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name, text in {
        "": keystep.search.cli.HELP,
        **{name: command.help for name, command in commands.items()},
    }.items():
        arguments = [name, "--help"] if name else ["--help"]
        said = CliRunner().invoke(APP, arguments, env={"COLUMNS": "80"}).stdout
        shown = [line.strip() for line in said.splitlines()]
        examples = [line for fenced in text.split("```")[1::2] for line in fenced.strip().splitlines()]
        assert examples
        for line in examples:
            assert line.strip() in shown, f"keystep {name} --help breaks {line!r} at 80 columns:\n{said}"


def test_the_first_help_shows_a_first_visit() -> None:
    said = CliRunner().invoke(APP, ["--help"], env={"COLUMNS": "120"}).stdout
    for line in ("keystep search --out step_config.json", "keystep report shapes-sd", "keystep ui"):
        assert line in said
