"""Where in a storage a search keeps what is its own, and where this machine keeps what is no storage's."""

from pathlib import Path

from keystep.search.storing.storage import Storage, cache_folder, local_folder

SEARCHES = "searches"


def path_within(search_id: str) -> str:
    """A search's folder, as a path within its storage."""
    return f"{SEARCHES}/{search_id}"


def folder_on_disk(storage: str, search_id: str) -> Path | None:
    """A search's folder in a storage that is a folder itself; None in an object store."""
    folder = local_folder(storage)
    return None if folder is None else folder / path_within(search_id)


def search_folder(storage: str, search_id: str, *, read_only: bool = False) -> Storage:
    """A search's folder in a storage at a path or address. Errors as `keystep.search.storing.storage.Storage`'s."""
    address, mark, options = storage.partition("?") if "://" in storage else (storage, "", "")
    return Storage(f"{address.rstrip('/')}/{path_within(search_id)}{mark}{options}", read_only=read_only)


def kept_here(storage: str) -> Path:
    """Where this machine keeps what can be made or sent again: the storage if a folder, else one of the user's."""
    return local_folder(storage) or cache_folder()
