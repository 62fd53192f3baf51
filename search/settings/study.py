"""A search's Optuna study for whoever looks at it: plots, reports, a curious user."""

from optuna import Study, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from keystep.search.settings.journal import LOG, STUDY, ObjectJournal
from keystep.search.settings.journal_logs import check_lines, understood
from keystep.search.storing.places import folder_on_disk, path_within
from keystep.search.storing.secrets import masked
from keystep.search.storing.storage import Storage


def study_name(search_id: str) -> str:
    """Of a search's study in Optuna."""
    return f"keystep-{search_id}"


def read_study(path: str, search_id: str) -> Study:
    """The study of a search that runs or has ended; not to be written to.

    Args:
        path: `storage.path` of the spec.

    Raises:
        ValueError: there is none, or its log is damaged.
    """
    folder = folder_on_disk(path, search_id)
    if folder is None:
        backend: BaseJournalBackend = ObjectJournal(Storage(path, read_only=True), f"{path_within(search_id)}/{STUDY}")
        place = f"the study in {masked(path)}"
    else:
        log = folder / LOG
        if not log.exists():
            raise ValueError(f"search {search_id} has no trials yet in {masked(path)}")
        place = str(log)
        check_lines(log.read_bytes(), place)
        backend = JournalFileBackend(str(log))
    with understood(place):
        storage = JournalStorage(backend)
    try:
        return load_study(study_name=study_name(search_id), storage=storage)
    except KeyError:
        raise ValueError(f"search {search_id} has no trials yet in {masked(path)}") from None
