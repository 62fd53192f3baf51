"""The notebooks: stripped and readable as they stand here, and executed from top to bottom."""

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What the small run has fewer of: two prompts a set prove nothing, so the export is told to go on without proof.
FEWER = {
    "--set prompts.validation=10": (
        "--set prompts.validation=2 --set prompts.held_out=2 --set sampler.num_inference_steps=6 "
        "--set resources.workers=1"
    ),
    '"space.steps=[0, 1, 2, 4, 8]"': '"space.steps=[0, 1, 4]"',
    "keystep export quickstart": "keystep export quickstart --force",
    "STEPS, SEEDS, SHIFTS = [0, 1, 2, 3, 5, 8, 11], list(range(100, 116)), 10": (
        "STEPS, SEEDS, SHIFTS = [1, 11], list(range(100, 104)), 4"
    ),
}
every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == kind]


def make_small(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        for whole, fewer in FEWER.items():
            cell.source = cell.source.replace(whole, fewer)
    nbformat.write(content, notebook)


def imports(notebook: Path) -> Iterator[tuple[str, str | None]]:
    """Every module imported, with the name taken from it, None for the module itself."""
    for source in cells(notebook, "code"):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(source))):
            if isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.module or "", alias.name) for alias in node.names)


def test_there_are_three_in_order() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


def test_what_the_small_run_changes_is_there() -> None:
    code = "\n".join(source for notebook in NOTEBOOKS for source in cells(notebook, "code"))
    assert [whole for whole in FEWER if whole not in code] == []


@every_notebook
def test_outputs_are_stripped(notebook: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", str(notebook)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"run: {Path(sys.executable).parent}/nbstripout {notebook}\n{done.stdout}"


@every_notebook
def test_it_is_valid_and_every_cell_compiles(notebook: Path) -> None:
    nbformat.validate(nbformat.read(notebook, as_version=4))
    for number, source in enumerate(cells(notebook, "code")):
        compile(TransformerManager().transform_cell(source), f"{notebook.name}, code cell {number}", "exec")
        if source.startswith("%%bash"):
            checked = subprocess.run(["bash", "-n"], input=source.partition("\n")[2], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stderr


@every_notebook
def test_it_imports_what_is_public_and_there(notebook: Path) -> None:
    for module, name in imports(notebook):
        loaded = importlib.import_module(module)
        assert not any(part.startswith("_") for part in (*module.split("."), name or "")), f"{module}: {name}"
        if name is not None:
            assert hasattr(loaded, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module} has no {name}"
        if module == "keystep":
            assert name in loaded.__all__


@every_notebook
def test_it_tells_a_story(notebook: Path) -> None:
    """A title first, prose before most code, and figures that name what they show."""
    assert nbformat.read(notebook, as_version=4).cells[0].source.startswith("# ")
    code, prose = cells(notebook, "code"), cells(notebook, "markdown")
    assert len(prose) >= len(code) / 2
    for source in code:
        if "plt.subplots(" in source and "def " not in source:
            assert "set_title(" in source and "label=" in source, source


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("notebooks", "small"),
    [
        pytest.param(NOTEBOOKS[1:2], True, id="without a search"),
        pytest.param(NOTEBOOKS, True, id="small", marks=pytest.mark.slow),
        pytest.param(NOTEBOOKS, False, id="as they are", marks=pytest.mark.slow),
    ],
)
def test_they_run_from_top_to_bottom(notebooks: list[Path], small: bool, tmp_path: Path) -> None:
    """As `make notebooks` does, one after the other: the third reads what the first left."""
    command = tmp_path / "bin" / "keystep"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from keystep.search.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    for notebook in notebooks:
        place = tmp_path / "notebooks" / notebook.name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(notebook.read_bytes())
        if small:
            make_small(place)
    environment = os.environ | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    run = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path / "made")]
    done = subprocess.run(
        [*run, *sorted(map(str, (tmp_path / "notebooks").glob("*.ipynb")))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    made_notebooks = sorted((tmp_path / "made").glob("*.ipynb"))
    assert [made.name for made in made_notebooks] == [notebook.name for notebook in notebooks]
    for made in made_notebooks:
        outputs = [output for cell in nbformat.read(made, as_version=4).cells for output in cell.get("outputs", [])]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3, f"{made.name} lost its figures"
        assert [output for output in outputs if output.output_type == "error"] == []
