"""Where searches were sent, as this user's machine remembers it: one JSON file a search."""

import os
from datetime import UTC, datetime
from pathlib import Path

from keystep.core.frozen import FrozenModel
from keystep.core.seals import open_seal, seal
from keystep.search.choice.stored_searches import LEAST_PREFIX


class Launch(FrozenModel):
    """A search that was handed to a target.

    Args:
        target: its name.
        search_id: of the search.
        name: of the search's spec.
        storage: `storage.path` of the spec, as the target sees it; passwords left out.
        handle: how the target finds it again.
        launched: when, UTC, ISO 8601.
    """

    target: str
    search_id: str
    name: str
    storage: str
    handle: dict[str, str]
    launched: str

    def save(self) -> None:
        """Remember it, in place of an earlier launch of the same search."""
        path = launch_file(self.search_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(seal(self.model_dump_json(indent=1)), encoding="utf-8")
        partial.replace(path)


def launches_folder() -> Path:
    """`keystep/launches` in the user's state (XDG_STATE_HOME, else ~/.local/state).

    Not in the search's own storage: that of a cluster need not be seen from here.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "keystep" / "launches"


def launch_file(search_id: str) -> Path:
    """Where the last launch of a search is remembered."""
    return launches_folder() / f"{search_id}.json"


def now() -> str:
    """The time of a launch: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def find_launch(search: str) -> Launch:
    """The launch of a search.

    Args:
        search: its id (the first four characters do) or its name; of several so called, the last one launched.

    Raises:
        ValueError: none was launched from here, several fit, or the record is damaged; lists those there are.
    """
    every, damaged = _all()
    exact = [each for each in every if each.search_id == search]
    begun = [each for each in every if len(search) >= LEAST_PREFIX and each.search_id.startswith(search)]
    if exact or len(begun) == 1:
        return (exact or begun)[0]
    if len(begun) > 1:
        raise ValueError(f"{search!r} begins several ids: {', '.join(each.search_id for each in begun)}")
    named = [each for each in every if each.name == search]
    if named:
        return max(named, key=lambda each: each.launched)
    if damaged:
        raise damaged[0]
    there = "; ".join(f"{each.search_id} ({each.name}, {each.target})" for each in every)
    raise ValueError(
        f"no search called {search!r} was launched from here (there: {there or 'none'}). Give its id or its name; "
        "keystep launch says both. A search started with keystep search is seen with keystep report"
    )


def launched(search_id: str) -> Launch | None:
    """The last launch of a search, if there was one from here. Errors as `find_launch`'s."""
    path = launch_file(search_id)
    return _read(path) if path.is_file() else None


def _all() -> tuple[list[Launch], list[ValueError]]:
    """Those that can be read, and what is wrong with the others: one that is damaged hides no other."""
    found: list[Launch] = []
    damaged: list[ValueError] = []
    for path in sorted(launches_folder().glob("*.json")):
        try:
            found.append(_read(path))
        except ValueError as error:
            damaged.append(error)
    return found, damaged


def _read(path: Path) -> Launch:
    try:
        return Launch.from_plain(open_seal(path.read_bytes()).value, str(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and launch the search again") from None
