"""Find a search's result by its id, its name or where it lies."""

from pathlib import Path

from keystep.search.choice.result import FILE_NAME, SearchResult
from keystep.search.spec.search_spec import SearchSpec, StorageSpec
from keystep.search.storing.places import SEARCHES, search_folder
from keystep.search.storing.secrets import masked
from keystep.search.storing.storage import Storage

LEAST_PREFIX = 4  # characters of an id


def stored_result(spec: SearchSpec) -> SearchResult | None:
    """What a search of this spec has written last; None if there is nothing that can be read."""
    try:
        return SearchResult.read(search_folder(spec.storage.path, spec.search_id, read_only=True))
    except (OSError, ValueError):
        return None


def load_result(search: str, storage: str | None = None) -> SearchResult:
    """Read what a search found.

    Args:
        search: its id (the first four characters do), its name (of several so called, the one last written), or the
            path or address of its folder or its result.json.
        storage: `storage.path` of the search; None is the default of a spec.

    Raises:
        ValueError: there is none, or several fit; lists the searches there are.
    """
    if search.endswith(".json"):
        folder, _, name = search.rpartition("/")
        return _read(Storage(folder or ".", read_only=True), name)
    if "://" in search or Path(search).is_dir():
        return _read(Storage(search, read_only=True), FILE_NAME)
    root = storage or StorageSpec().path
    names = Storage(root, read_only=True).folders(SEARCHES)
    ids = [name for name in names if name == search or (len(search) >= LEAST_PREFIX and name.startswith(search))]
    if len(ids) > 1:
        raise ValueError(f"{search!r} begins the ids of several searches in {masked(root)}: {', '.join(ids)}")
    if ids:
        return _read(search_folder(root, ids[0], read_only=True), FILE_NAME)
    found = _readable(root, names)
    named = [result for result in found.values() if result.spec.name == search]
    if named:
        return max(named, key=lambda result: result.updated)
    there = "; ".join(f"{name} ({result.spec.name}, {result.status})" for name, result in found.items())
    raise ValueError(
        f"no search called {search!r} in {masked(root)} (there: {there or 'none'}). Give its id, its name, its folder, "
        "or its storage with --storage"
    )


def _readable(root: str, names: list[str]) -> dict[str, SearchResult]:
    """The results there are, by id, without searches still at their baseline or of another version."""
    found = {}
    for name in names:
        try:
            found[name] = _read(search_folder(root, name, read_only=True), FILE_NAME)
        except ValueError:
            continue
    return found


def _read(folder: Storage, name: str) -> SearchResult:
    try:
        return SearchResult.read(folder, name)
    except FileNotFoundError:
        raise ValueError(
            f"{masked(folder.uri).rstrip('/')}/{name} does not exist: no search has got so far there. Run keystep "
            "search, or give the search's own folder, under searches/ in its storage"
        ) from None
