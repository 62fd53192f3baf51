"""A digest inside what it covers: a stored file is believed only if all of it is as it was written."""

import hashlib
import json
import re
from typing import Any, NamedTuple

NAME = "sha256"
LINE_DIGITS = 16  # of a line's digest: enough against damage, and short beside a short line
_TAIL = re.compile(rb'(?:,|(?<=\{))\s*"sha256": ?"([0-9a-f]{16,64})"\s*\}\s*\Z')
_LONGEST_TAIL = 120  # bytes


class DamagedFile(UserWarning):
    """Something stored was damaged; it counts as missing, and the work goes on."""


class SealBroken(ValueError):
    """What was sealed is no longer what was written."""


class Opened(NamedTuple):
    """The value of a JSON text without its seal, and whether it had one (what older versions wrote has none)."""

    value: Any
    sealed: bool


def seal(text: str, digits: int = 64) -> str:
    """The text of a JSON object with a last key `sha256`: the digest of all that stands before that key.

    Blanks and line breaks do not count: git or an editor may change how a file's lines end or are indented.

    Args:
        text: with or without line breaks, which stay as they are.
        digits: hex digits of the digest, 16 to 64.
    """
    body = text.rstrip()
    assert body.endswith("}"), "what is sealed is a JSON object"
    body = body[:-1]
    lines = body.endswith("\n")
    body = body.rstrip()
    indent = re.match(r"\{\n( *)", body)
    start = f"\n{indent[1]}" if lines and indent else ""
    comma = "" if body.endswith("{") else ","
    end = "\n}\n" if lines else "}"
    return f'{body}{comma}{start}"{NAME}": "{_digest(body.encode(), digits)}"{end}'


def open_seal(content: bytes) -> Opened:
    """The value of a JSON object that `seal` closed, or that has no seal.

    Raises:
        SealBroken: it is not what was sealed.
        ValueError: it is not a JSON object in UTF-8.
    """
    tail = _TAIL.search(content, max(0, len(content) - _LONGEST_TAIL))
    if tail is not None:
        digest = tail[1].decode()
        if _digest(content[: tail.start()], len(digest)) != digest:
            raise SealBroken("it was changed after it was written: its checksum does not fit")
    try:
        value = json.loads(content.decode())
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    if tail is None and NAME in value:
        raise SealBroken("its checksum is damaged")
    value.pop(NAME, None)
    return Opened(value, tail is not None)


def _digest(content: bytes, digits: int) -> str:
    return hashlib.sha256(b"".join(content.split())).hexdigest()[:digits]
