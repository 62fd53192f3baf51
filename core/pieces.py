"""A batch in as many pieces as memory allows."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Done = TypeVar("Done")


class Pieces:
    """Works through a batch piece by piece.

    When a GPU runs out of memory the piece is halved and tried again; the smaller size stays for later calls,
    since what did not fit once will not fit the next time.

    Args:
        most: rows of a piece, at most; None is all there are.
        noun: what the rows are, for the warning.
    """

    def __init__(self, most: int | None = None, noun: str = "samples"):
        self._most, self._noun = most, noun

    def __call__(self, work: Callable[[slice], Done], count: int) -> Iterator[Done]:
        """What `work` gives for the pieces of `count` rows, in order.

        Args:
            work: of the rows `slice`; it may be called again with fewer of them.

        Raises:
            torch.OutOfMemoryError: a single row does not fit.
        """
        start = 0
        while start < count:
            size = min(self._most or count, count - start)
            try:
                done = work(slice(start, start + size))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            else:
                start += size
                yield done
                continue
            # Outside of the handler, so that the failed attempt's tensors are no longer referenced.
            self._most = (size + 1) // 2
            logger.warning("out of memory with %d %s: going on with %d at a time", size, self._noun, self._most)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
