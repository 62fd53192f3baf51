"""Damage to every kind of stored file: it counts as missing, or is named with what to do. It is never believed."""

import random
import re
import warnings
from pathlib import Path

import pytest

from tests.stored_kinds import KINDS, Stored

FLIPS = 200
CUTS = 20


def damages(content: bytes) -> list[bytes]:
    """The file emptied, cut at 20 places, with a page of zeros, and with one bit flipped at 200 places."""
    chance = random.Random(0)
    cuts = [content[: chance.randrange(1, len(content))] for _ in range(CUTS)]
    middle = len(content) // 2
    found = [b"", content[:-1], *cuts, content[:middle] + bytes(len(content) - middle), b"\0" * len(content)]
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        found.append(bytes(flipped))
    return found


def believed(kind: Stored, folder: Path, path: Path) -> dict | None:
    """What is believed of the file; None if the user is told what to do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return kind.read(folder)
        except ValueError as error:
            text = str(error)
    assert path.name in text or path.parent.name in text, text
    assert kind.remedy and re.search(kind.remedy, text), text
    return None


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_healed_or_named_and_never_believed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kind = KINDS[name]
    path = kind.write(tmp_path)
    beside = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    whole = kind.read(tmp_path)
    assert whole, "undamaged, all of it is there"
    healed = 0
    for number, damaged in enumerate(damages(beside[path])):
        for file, content in beside.items():  # reading heals: everything is as it was before the next one
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        path.write_bytes(damaged)
        found = believed(kind, tmp_path, path)
        if found is not None:
            healed += 1
            strange = {key: value for key, value in found.items() if whole.get(key) != value}
            assert not strange, f"believed of a damaged file: {strange}"
        elif kind.fresh is not None and number % 10 == 0:
            kind.fresh(tmp_path)
            assert kind.read(tmp_path)
    assert healed or kind.remedy
    assert not re.search("Traceback", caplog.text)
