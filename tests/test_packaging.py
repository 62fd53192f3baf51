"""What installing keystep puts on a machine, and what it must not collide with."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("core", "evaluation", "search", "cluster", "keystep")


def top_levels(distribution: importlib.metadata.Distribution) -> set[str]:
    """First parts of the module paths that a distribution installs."""
    names = {file.parts[0] for file in distribution.files or [] if file.suffix == ".py" and ".." not in file.parts}
    return {name.removesuffix(".py") for name in names}


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_brings_a_package_of_our_name(name: str) -> None:
    owners = {
        distribution.metadata["Name"]
        for distribution in importlib.metadata.distributions()
        if name in top_levels(distribution)
    }
    assert owners <= {"keystep"}


def test_the_lock_pins_every_requirement_and_names_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(need for group in ("search", "dev") for need in project["optional-dependencies"][group]),
    ]
    names = {need.split(">")[0].split("[")[0].lower().replace("_", "-") for need in wanted}
    assert names <= pinned
    assert "://" not in lock
    assert "--index" not in lock
