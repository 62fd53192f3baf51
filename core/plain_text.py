"""Text files as people's programs write them: read where their meaning is plain, else refused by name."""

import codecs
import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

_MARKS = (  # the longest first: the mark of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CAPITALS = "\u00c0-\u00d6\u00d8-\u00de\u0160\u0152\u017d\u0178"
_SMALL = "\u00df-\u00f6\u00f8-\u00ff\u0161\u0153\u017e"
_SIGNS = (
    "\u2018-\u201a\u201c-\u201e\u2013\u2014\u2026\u20ac"  # quotes, dashes, dots, euro
    "\u00a0\u00a1\u00a3\u00a5\u00a9\u00ab\u00ae\u00b0\u00b4\u00b7\u00bb\u00bf"
)
# What the bytes of another encoding (GBK, Shift-JIS, Mac Roman, ...) become when they are read as Windows-1252.
_NO_WESTERN_TEXT = re.compile(
    rf"[^\x00-\x7f{_CAPITALS}{_SMALL}{_SIGNS}]"  # what no language writes
    rf"|[a-z{_SMALL}][{_CAPITALS}]|[{_CAPITALS}][{_SIGNS}]|[{_CAPITALS}]{{2}}"  # a capital within a word
    r"|[^\x00-\x7f]{3}"  # three in a row
)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, or in Windows-1252.

    Windows-1252 has no mark: it is taken, and a warning says so, if what it gives reads as a Western language.
    Line ends stay as they are.

    Raises:
        ValueError: the file is not text, or in none of these.
    """
    return decoded(path.read_bytes(), str(path))


def decoded(content: bytes, path: str) -> str:
    """The text in a file's bytes; `path` is what errors call it. As `read_text`."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None) or _unmarked(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{path} begins as {encoding} and is not: {error}") from None
        return _western(path, content, error)
    if "\0" in text:
        raise ValueError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a zero byte: not a text file")
    return text


def _unmarked(content: bytes) -> str:
    """UTF-16 if every other byte is zero, as in Latin letters without a mark; else UTF-8, to be tried."""
    head = content[:400]
    if len(head) >= 2 and b"\0" in head:
        if not head[::2].strip(b"\0") and head[1::2].count(0) == 0:
            return "utf-16-be"
        if not head[1::2].strip(b"\0") and head[::2].count(0) == 0:
            return "utf-16-le"
    return "utf-8"


def _western(path: str, content: bytes, error: UnicodeDecodeError) -> str:
    line = content[: error.start].count(b"\n") + 1
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        text = None
    if text is None or _NO_WESTERN_TEXT.search(text):
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is no UTF-8, and the encoding cannot be told: "
            "save the file as UTF-8"
        )
    logger.warning("%s is not UTF-8 (line %d): read as Windows-1252", path, line)
    return text
