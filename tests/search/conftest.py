"""The one whole search that several modules look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from click.testing import Result

from keystep.search.choice.result import SearchResult
from tests.search.whole_search import Reader, keystep_search


@pytest.fixture(scope="module")
def quick_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else workers starve beside anything else that runs
        yield
    ray.shutdown()


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, list[SearchResult]]:
    """The folder of a search that nothing disturbed, what its command said, and its result at every time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Reader(folder) as reader:
        said = keystep_search(folder, "--sheet", str(folder / "sheet.png"))
    return folder, said, reader.seen


@pytest.fixture(scope="session")
def searched(watched: tuple[Path, Result, list[SearchResult]]) -> tuple[Path, Result]:
    return watched[:2]
