"""What installing keystep puts on a machine, and what it must not collide with."""

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("core", "evaluation", "search", "cluster")
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"


def top_levels(distribution: importlib.metadata.Distribution) -> set[str]:
    """First parts of the module paths that a distribution installs."""
    names = {file.parts[0] for file in distribution.files or [] if file.suffix == ".py" and ".." not in file.parts}
    return {name.removesuffix(".py") for name in names}


def test_no_other_distribution_brings_a_package_of_our_name() -> None:
    owners = {
        distribution.metadata["Name"]
        for distribution in importlib.metadata.distributions()
        if "keystep" in top_levels(distribution)
    }
    assert owners <= {"keystep"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_name(room: str) -> None:
    """This folder is on the path when tests run, and its rooms with it: by another name they would be other modules."""
    assert importlib.import_module(f"keystep.{room}").__name__ == f"keystep.{room}"
    with pytest.raises(ImportError, match=f"imported as keystep.{room}"):
        importlib.import_module(room)


def files_of_the_package(root: Path) -> set[str]:
    """Paths below keystep/ of all that is installed: the public page, and whatever lies in a room."""
    rooms = [path for room in ROOMS for path in (root / room).rglob("*") if path.is_file()]
    own = [path.relative_to(root) for path in rooms if "__pycache__" not in path.parts]
    return {"keystep/__init__.py"} | {f"keystep/{path.as_posix()}" for path in own}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and a source distribution of this checkout, built in a copy of it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*ROOMS, "keystep", "tests"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return copy / "dist"


def test_a_wheel_and_a_source_distribution_hold_keystep_and_no_other_package(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == files_of_the_package(ROOT)
    with tarfile.open(source) as files:
        paths = [Path(*Path(member.name).parts[1:]) for member in files if member.isfile()]
        assert not [member.name for member in files if member.issym()]  # it is whole wherever it is unpacked
    assert {path.as_posix() for path in paths if path.parts[0] == "keystep"} == packaged
    folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    assert folders == {"keystep", "keystep.egg-info"}


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an empty environment with the wheel, and what it needs from the environment of the tests."""
    place = tmp_path_factory.mktemp("environment")
    uv = Path(sys.executable).with_name("uv")
    (wheel,) = built.glob("*.whl")
    python = place / "bin" / "python"
    for command in (
        ["venv", "--python", sys.executable, str(place)],
        ["pip", "install", "--offline", "--no-deps", "--python", str(python), str(wheel)],
    ):
        done = subprocess.run([uv, "--quiet", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (libraries,) = place.glob("lib/python*/site-packages")
    (libraries / "needed.pth").write_text(sysconfig.get_path("purelib"))  # an editable keystep in there is not seen
    return place / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_install_leaves_a_project_its_own_packages(installed: Path, tmp_path: Path) -> None:
    """A project with its own `core`, `search`, `evaluation` and `cluster`, which imports keystep beside them."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("from keystep import Entity\n\nOWNER = 'the project'\n")
    (tmp_path / "program.py").write_text(
        f"""
import {", ".join(ROOMS)}
import keystep
import keystep
from keystep import *

assert all(room.OWNER == "the project" for room in ({", ".join(ROOMS)}))
assert generate and StepRefinement, "brought by the star"
print(keystep.__file__)
print(Prompt("a red circle", [Entity("circle", "red")]).entities[0])
"""
    )
    where, entity = run(installed / "python", "program.py", cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(installed.parent) and entity == "red circle"
    assert run(installed / "keystep", "prompts", "two_colored", "--sample", "2", cwd=tmp_path).count("\n") > 2


def test_an_install_has_no_package_of_another_name(installed: Path, tmp_path: Path) -> None:
    program = f"import importlib.util; print([name for name in {ROOMS} if importlib.util.find_spec(name)])"
    assert run(installed / "python", "-c", program, cwd=tmp_path) == "[]\n"


def test_importing_keystep_does_not_wait_for_torch() -> None:
    """Every module of every room imports it first, those of `keystep --help` too."""
    program = "import sys, keystep.cluster.cli; print(*{'torch', 'diffusers', 'transformers', 'ray'} & {*sys.modules})"
    assert run(Path(sys.executable), "-c", program, cwd=ROOT) == "\n"


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
