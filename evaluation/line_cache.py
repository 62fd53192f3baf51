"""JSON on disk by key, for any number of processes: what detections and other measurements are kept in."""

import json
import os
import re
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from keystep.core.seals import LINE_DIGITS, DamagedFile, open_seal, seal

KEY_DIGITS = 32
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")


class _Place(NamedTuple):
    shard: Path
    offset: int
    length: int


class LineCache:
    """JSON objects by key, a line each.

    Every cache object appends to a shard of its own, so that any number of processes write to one folder; a
    line that a killed process left unfinished is never read. Lines are sealed with a checksum: one that is damaged
    counts as missing, with a warning. In memory there is one short entry a key: values are read from disk when asked
    for.

    Args:
        folder: where to keep them; made if missing.
        key_name: what a line calls its key; keys are 32 hex digits.
        check: raises AttributeError, KeyError, TypeError or ValueError for a value that is none, of a line without a
            checksum, as older versions wrote.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        key_name: str,
        check: Callable[[dict[str, Any]], object] = lambda value: None,
    ) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key_name = key_name
        self._check = check
        self._own = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._places: dict[str, _Place] = {}
        self._read_to: dict[Path, int] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Take note of what other processes have added since."""
        for shard in sorted(self._folder.glob("*.jsonl")):
            offset = self._read_to.get(shard, 0)
            if shard.stat().st_size <= offset:
                continue
            damaged = 0
            with shard.open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    key = self._key(line)
                    if key is None:
                        damaged += 1
                    else:
                        self._places[key] = _Place(shard, offset, len(line))
                    offset += len(line)
            self._read_to[shard] = offset
            if damaged:
                text = f"{shard} has {damaged} damaged lines: what they held is measured again"
                warnings.warn(text, DamagedFile, stacklevel=2)

    def _key(self, line: bytes) -> str | None:
        """The key of a line; None if it is damaged."""
        try:
            value, sealed = open_seal(line)
            key = value[self._key_name]
            if _KEY.fullmatch(key) is None:
                return None
            if not sealed:
                self._check(value)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        return key

    def get(self, key: str) -> dict[str, Any] | None:
        """The line of a key with its key, or None if there is none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        with place.shard.open("rb") as lines:
            lines.seek(place.offset)
            return open_seal(lines.read(place.length)).value

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep the value of a key; a later one replaces an earlier one."""
        line = seal(json.dumps({self._key_name: key, **value}), LINE_DIGITS).encode() + b"\n"
        offset = self._read_to.get(self._own, 0)
        # Buffered, since an unbuffered write may write a part of the line, on a full disk, and not say so.
        try:
            with self._own.open("ab") as lines:
                lines.write(line)
        except OSError:
            os.truncate(self._own, offset)  # the next line begins where this one would have
            raise
        self._places[key] = _Place(self._own, offset, len(line))
        self._read_to[self._own] = offset + len(line)
