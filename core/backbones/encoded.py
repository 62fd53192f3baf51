"""The tokens that a pipeline's text encoders are really given: it may change a text before it encodes it."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn


class TokenRows:
    """Watches text encoders inside ``with``, and gives the token ids that each was called with.

    Pipelines expand textual inversions of several vectors, put instructions around a prompt or clean it; what stands in
    which column of the embeddings is decided by these ids alone.

    Args:
        encoders: modules called with ``input_ids``.
    """

    def __init__(self, *encoders: nn.Module):
        self._encoders = encoders
        self._calls: list[list[Tensor]] = [[] for _ in encoders]
        self._handles: list[Any] = []
        self._thread = 0

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        for number, encoder in enumerate(self._encoders):

            def look(
                _: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                calls: list[Tensor] = self._calls[number],
            ) -> None:
                ids = kwargs.get("input_ids", args[0] if args else None)
                if isinstance(ids, Tensor) and threading.get_ident() == self._thread:
                    calls.append(ids)

            self._handles.append(encoder.register_forward_pre_hook(look, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def of(self, number: int, texts: Sequence[str]) -> dict[str, list[int]]:
        """The rows of the first call of an encoder: pipelines encode the prompts before the negative ones.

        Args:
            number: of the encoder, in the order given.
            texts: of the prompts, in their order.

        Raises:
            ValueError: the encoder was not called with a row for each.
        """
        rows = self._calls[number][0].tolist() if self._calls[number] else []
        if len(rows) != len(texts):
            raise ValueError(
                f"the pipeline encoded {len(texts)} prompts with {len(rows)} rows of tokens for "
                f"{type(self._encoders[number]).__name__}, so that nobody can tell which column is which word: "
                "use the stock encode_prompt"
            )
        return dict(zip(texts, rows, strict=True))
