"""Files as Notepad, Excel and old programs write them: the same text, or refused with the line."""

import codecs
import logging
from pathlib import Path

import pytest

from keystep.core.bounded_json import parse_json
from keystep.core.config import StepConfig
from keystep.core.plain_text import read_text

TEXT = "a café,\r\nl\u2019été \u2013 a cat\r\n"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
def test_unicode_with_and_without_a_mark(tmp_path: Path, encoding: str, mark: bytes) -> None:
    (tmp_path / "x").write_bytes(mark + TEXT.encode(encoding))
    assert read_text(tmp_path / "x") == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x").write_bytes("prompt,entity1\na cat,cat\n".encode(encoding))
    assert read_text(tmp_path / "x") == "prompt,entity1\na cat,cat\n"


def test_windows_1252_is_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x").write_bytes(TEXT.encode("cp1252"))
    with caplog.at_level(logging.WARNING):
        assert read_text(tmp_path / "x") == TEXT
    assert f"{tmp_path / 'x'} is not UTF-8 (line 1): read as Windows-1252" in caplog.text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("一只猫和一只狗", "gbk"),
        ("a 狗, b", "gbk"),
        ("a 星, b", "gbk"),
        ("猫と犬", "shift_jis"),
        ("a café", "mac_roman"),
        ("кот и собака", "cp1251"),
        ("고양이", "euc-kr"),
        ("żółty kot", "cp1250"),
    ],
)
def test_other_encodings_are_not_taken_for_it(tmp_path: Path, text: str, encoding: str) -> None:
    """Read as Windows-1252 they would be other words, entities and prompts alike, and nobody would notice."""
    (tmp_path / "x").write_bytes(b"a dog\n" + text.encode(encoding))
    with pytest.raises(ValueError, match=r"x, line 2: byte 0x\w\w is no UTF-8, .* save the file as UTF-8"):
        read_text(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a cat\n\0\n", "line 2: a zero byte: not a text file"),
        (codecs.BOM_UTF8 + b"\xff", "begins as utf-8-sig and is not"),
        (codecs.BOM_UTF16_LE + b"a", "begins as utf-16 and is not"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_text(tmp_path / "x")


def test_a_key_that_stands_twice() -> None:
    with pytest.raises(ValueError, match="x: the key 'b' stands twice in one object"):
        parse_json('{"a": [{"b": 1, "c": 2, "b": 1}]}', "x")
    assert parse_json('{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}', "x") == {"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "x is not JSON: .*line 1"), ("[" * 200_000, "x: nested deeper than")]
)
def test_no_json(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text, "x")


def test_a_config_with_a_step_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text('{"model": "a", "timestep": 1, "timestep": 501}')
    with pytest.raises(ValueError, match=r"step\.json: the key 'timestep' stands twice"):
        StepConfig.load(tmp_path / "step.json")
