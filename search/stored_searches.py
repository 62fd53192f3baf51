"""Find a search's result by its id, its name or where it lies."""

from pathlib import Path

from search.result import FILE_NAME, SEARCHES, SearchResult, file_of
from search.spec import StorageSpec
from search.storage import Storage

LEAST_PREFIX = 4  # characters of an id


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
    place = Storage(storage or StorageSpec().path, read_only=True)
    names = place.folders(SEARCHES)
    ids = [name for name in names if name == search or (len(search) >= LEAST_PREFIX and name.startswith(search))]
    if len(ids) > 1:
        raise ValueError(f"{search!r} begins the ids of several searches in {place.uri}: {', '.join(ids)}")
    if ids:
        return _read(place, file_of(ids[0]))
    found = _readable(place, names)
    named = [result for result in found.values() if result.spec.name == search]
    if named:
        return max(named, key=lambda result: result.updated)
    there = "; ".join(f"{name} ({result.spec.name}, {result.status})" for name, result in found.items())
    raise ValueError(
        f"no search called {search!r} in {place.uri} (there: {there or 'none'}). Give its id, its name, its folder, or "
        "its storage with --storage"
    )


def _readable(place: Storage, names: list[str]) -> dict[str, SearchResult]:
    """The results there are, by id, without searches still at their baseline or of another version."""
    found = {}
    for name in names:
        try:
            found[name] = _read(place, file_of(name))
        except ValueError:
            continue
    return found


def _read(place: Storage, name: str) -> SearchResult:
    source = f"{place.uri.rstrip('/')}/{name}"
    try:
        contents = place.read(name)
    except FileNotFoundError:
        raise ValueError(
            f"{source} does not exist: no search has got so far there. Run keystep search, or give the search's own "
            "folder, under searches/ in its storage"
        ) from None
    return SearchResult.parse(contents, source)
