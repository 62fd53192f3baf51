"""JSON on disk by key, for any number of processes: what detections and other measurements are kept in."""

import json
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

KEY_DIGITS = 32


class _Place(NamedTuple):
    shard: Path
    offset: int
    length: int


class LineCache:
    """JSON objects by key, a line each.

    Every cache object appends to a shard of its own, so that any number of processes write to one folder; a
    line that a killed process left unfinished is never read. In memory there is one short entry a key: values
    are read from disk when asked for.

    Args:
        folder: where to keep them; made if missing.
        key_name: what a line calls its key, which comes first in it; keys are 32 hex digits.
    """

    def __init__(self, folder: str | os.PathLike[str], key_name: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key_name = key_name
        self._prefix = len(f'{{"{key_name}": "')
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
            with shard.open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    key = line[self._prefix : self._prefix + KEY_DIGITS].decode()
                    self._places[key] = _Place(shard, offset, len(line))
                    offset += len(line)
            self._read_to[shard] = offset

    def get(self, key: str) -> dict[str, Any] | None:
        """The line of a key with its key, or None if there is none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        with place.shard.open("rb") as lines:
            lines.seek(place.offset)
            return json.loads(lines.read(place.length))

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep the value of a key; a later one replaces an earlier one."""
        line = json.dumps({self._key_name: key, **value}).encode() + b"\n"
        offset = self._read_to.get(self._own, 0)
        # Buffered, since an unbuffered write may write a part of the line, on a full disk, and not say so.
        with self._own.open("ab") as lines:
            lines.write(line)
        self._places[key] = _Place(self._own, offset, len(line))
        self._read_to[self._own] = offset + len(line)
