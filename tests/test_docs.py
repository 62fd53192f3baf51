"""The documents do not rot: their links lead somewhere, and the code they name is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keystep

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("core/**/*.md"),
        *ROOT.glob("tests/**/*.md"),
    ]
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`(\w[\w/.-]*/[\w.-]+\.(?:py|md|yaml|ipynb|csv|png))`")


def prose(document: Path) -> str:
    """A document's text without its fenced code."""
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """What a link may name behind `#`: headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+\s+(.+)$", prose(document), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"[`*_]|\]\([^)]*\)", "", heading)).strip().lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def broken(document: Path) -> list[str]:
    found = []
    for link in LINK.findall(prose(document)):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists():
            found.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            found.append(f"{link}: no such heading")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(ROOT / document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, `code`\n[a](b.md) [c](#a-heading-code) [d](#other)\n```\n[e](f.md)\n```\n")
    assert broken(page) == ["b.md: no such file", "#other: no such heading"]
    assert broken(ROOT / "README.md") == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_that_are_named_are_there(document: Path) -> None:
    """Paths in backticks, unless they are what a command writes."""
    written = ("out/", "site/", "runs/", "keystep-runs/")
    named = [path for path in NAMED.findall(prose(ROOT / document)) if not path.startswith(written)]
    places = (ROOT, (ROOT / document).parent)
    assert [path for path in named if not any((place / path).exists() for place in places)] == []


def test_contributing_names_what_the_code_has() -> None:
    """Every name in backticks that a recipe tells to change is in the file that the recipe links for it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipes = {
        "core/losses.py": ["LOSSES"],
        "core/config.py": ["LossWeights"],
        "tests/core/test_losses.py": ["BY_LOOPS"],
        "core/backbones/base.py": ["Backbone"],
        "core/backbones/registry.py": ["BACKBONES"],
        "tests/tiny_models.py": ["TINY_MODELS"],
        "search/settings/pruning.py": ["PRUNERS", "PruningTask"],
        "search/spec/sections.py": ["OWN_PRUNERS"],
        "tests/search/test_suggest.py": ["PRUNERS"],
    }
    for file, names in recipes.items():
        assert f"]({file})" in text
        assert [name for name in names if name not in (ROOT / file).read_text() or f"`{name}`" not in text] == []
    for file in (
        "search/spec/spaces.py",
        "search/settings/space.py",
        "search/images/prefixes.py",
        "search/tracking/run_fields.py",
        "search/settings/settings_text.py",
    ):
        assert f"]({file})" in text
        assert re.search(r"\biou\b", (ROOT / file).read_text())
    assert len(text.split()) < 400, "half a page"


@pytest.mark.slow
def test_docstrings_render(tmp_path: Path) -> None:
    """`make docs`: a page for every module of every room, and nothing to complain about."""
    rooms = ["core", "evaluation", "search", "cluster"]
    names = ["keystep", *(f"keystep.{room}" for room in rooms)]
    command = [sys.executable, "-W", "error::UserWarning:pdoc", "-m", "pdoc", "--docformat", "google", *names]
    environment = os.environ | {"PDOC_ALLOW_EXEC": "1"}
    made = subprocess.run(
        [*command, "--output-directory", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0 and "Warn" not in made.stderr, made.stderr[-3000:]
    modules = [path.relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("*.py")]
    pages = [path.parent if path.name == "__init__.py" else path.with_suffix("") for path in modules]
    wanted = [page for page in pages if not any(part.startswith("_") for part in page.parts)]
    assert [str(page) for page in wanted if not (tmp_path / "keystep" / f"{page}.html").exists()] == []
    public = (tmp_path / "keystep.html").read_text()
    assert [name for name in keystep.__all__ if f'id="{name}"' not in public] == []
