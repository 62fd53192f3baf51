"""What is to be told to the user of damage that was met: nobody hears a worker of Ray, so it travels with its answers.

A worker collects (`evaluator.notices`); whoever gets its answer tells the user (`Teller`).
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from keystep.core.seals import DamagedFile


@contextmanager
def damage_noted() -> Iterator[list[str]]:
    """The texts of `DamagedFile` warnings given while it is open, instead of the warnings; all others go on."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DamagedFile)
        try:
            yield texts
        finally:
            texts += [str(warning.message) for warning in caught if issubclass(warning.category, DamagedFile)]
    for warning in caught:
        if not issubclass(warning.category, DamagedFile):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class Teller:
    """Tells each text once, whichever workers it comes from.

    Args:
        tell: what shows a line to the user.
        most: so many lines; a last one says that there are more.
    """

    def __init__(self, tell: Callable[[str], None], most: int = 20):
        self._tell, self._most = tell, most
        self._told: set[str] = set()

    def __call__(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text in self._told or len(self._told) > self._most:
                continue
            self._told.add(text)
            self._tell(text if len(self._told) <= self._most else "more damaged files were found; see to the disk")
