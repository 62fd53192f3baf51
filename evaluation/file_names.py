"""The one rule by which a prompt names files: what `keystep generate` writes, and `keystep score` finds back."""

import hashlib
import re
import unicodedata

MAX_BYTES = 180  # of UTF-8; with a number and an ending it stays below the 255 that file systems take
FORBIDDEN = frozenset('/\\<>:"|?*')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)  # devices on Windows


def file_stem(text: str) -> str:
    """A prompt as the beginning of its files' names.

    Blanks are underscores. Where that would be no safe name on every system, what is unsafe is replaced and a
    hash of the prompt makes the name its own: separators and other signs that Windows forbids, control
    characters, a leading dot, names of devices, more than `MAX_BYTES`.
    """
    plain = plain_stem(text)
    safe = "".join("-" if _unsafe(letter) else letter for letter in plain)
    if safe.startswith("."):
        safe = f"-{safe[1:]}"
    if RESERVED.match(safe):
        safe = f"-{safe}"
    if safe and safe == plain and len(plain.encode()) <= MAX_BYTES:
        return plain
    digest = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{within_bytes(safe, MAX_BYTES - len(digest) - 1)}-{digest}"


def plain_stem(text: str) -> str:
    """A prompt with blanks as underscores and nothing else changed, as other generators name their images."""
    return "_".join(unicodedata.normalize("NFC", text).split())


def same_name(stem: str) -> str:
    """What two beginnings of names have in common if they count as one: blanks, capitals, composed letters aside."""
    return unicodedata.normalize("NFC", plain_stem(stem.replace("_", " ")).casefold())


def _unsafe(letter: str) -> bool:
    return letter in FORBIDDEN or unicodedata.category(letter).startswith("C")


def within_bytes(text: str, most: int) -> str:
    """The beginning of the text that has at most so many bytes, in whole letters."""
    return text.encode()[:most].decode(errors="ignore")
