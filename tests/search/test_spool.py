"""The journal of tracking and what keeps secrets out of it."""

import json

import pytest

from keystep.search.storing.secrets import masked
from keystep.search.tracking.spool import Spool, event


def names(spool: Spool) -> list[str]:
    """What is still to be sent, in order; sends it."""
    found = []
    while (happened := spool.next(0)) is not None:
        found.append(happened.id)
        spool.sent()
    return found


def test_events_come_back_in_order_and_once(tmp_path):
    spool = Spool(tmp_path, "store")
    told = [event("a", "opened"), *(event(name, "block") for name in ("b", "a", "c"))]
    assert [spool.append(each) for each in told] == [True, True, False, True]
    assert spool.next(0).id == "a"
    spool.sent()
    again = Spool(tmp_path, "store")
    assert [e.id for e in again.sent_events] == ["a"] and again.first.id == "a"
    assert not again.append(event("c", "block")) and again.append(event("d", "block"))
    assert names(again) == ["b", "c", "d"]
    assert names(Spool(tmp_path, "store")) == []


def test_another_store_gets_everything(tmp_path):
    spool = Spool(tmp_path, "one")
    for name in "abc":
        spool.append(event(name, "block"))
    names(spool)
    assert names(Spool(tmp_path, "two")) == ["a", "b", "c"]


def test_events_keep_time_and_data(tmp_path):
    told = event("a", "block", {"values": {"0": 1.0}})
    Spool(tmp_path, "store").append(told)
    assert Spool(tmp_path, "store").next(0) == told


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, cut):
    spool = Spool(tmp_path, "store")
    for name in "abc":
        spool.append(event(name, "block", {"text": "x" * 50}))
    spool.path.write_bytes(spool.path.read_bytes()[:-cut])
    again = Spool(tmp_path, "store")
    again.append(event("d", "block"))
    assert names(Spool(tmp_path, "store")) == ["a", "b", "d"]


def test_a_damaged_line_is_left_out_and_said(tmp_path, caplog):
    spool = Spool(tmp_path, "store")
    for name in "abc":
        spool.append(event(name, "block"))
    lines = spool.path.read_text().splitlines()
    spool.path.write_text("\n".join([lines[0], "{nonsense", lines[2]]) + "\n")
    assert names(Spool(tmp_path, "store")) == ["a", "c"]
    assert "line 2" in caplog.text


def test_fresh_forgets(tmp_path):
    spool = Spool(tmp_path, "store")
    spool.append(event("a", "block"))
    names(spool)
    fresh = Spool(tmp_path, "store", fresh=True)
    assert fresh.first is None and fresh.append(event("a", "block"))
    assert names(fresh) == ["a"]


def test_rewind_sends_all_again(tmp_path):
    spool = Spool(tmp_path, "store")
    for name in "abc":
        spool.append(event(name, "block"))
    spool.sent()
    again = Spool(tmp_path, "store")
    again.rewind()
    assert names(again) == ["a", "b", "c"]
    assert names(Spool(tmp_path, "store")) == []


def test_an_unwritable_folder_keeps_events_in_memory(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    spool = Spool(blocked / "folder", "store")
    for name in "abc":
        assert spool.append(event(name, "block"))
    assert names(spool) == ["a", "b", "c"]
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:pa/ss@w@host:5432/db", "postgresql://***@host:5432/db"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("neither http://u:p@h/x, nor s3://key:seed@bucket/y", "neither http://***@h/x, nor s3://***@bucket/y"),
        ("https://host/a?token=abc&x=1", "https://host/a?token=***&x=1"),
        ("AWS_SECRET_ACCESS_KEY=abc/def next", "AWS_SECRET_ACCESS_KEY=*** next"),
        ("password: 'two words', user: me", "password: ***, user: me"),
        ("max_sequence_length: 77, num_tokens=5", "max_sequence_length: 77, num_tokens=5"),
    ],
)
def test_secrets_are_masked(text, expected):
    assert masked(text) == expected


def test_secrets_are_masked_at_any_depth():
    plain = {"storage": [{"uri": "s3://k:s@b", "api_key": "abc"}], "seeds": (1, 2), "token": None}
    assert masked(plain) == {"storage": [{"uri": "s3://***@b", "api_key": "***"}], "seeds": [1, 2], "token": None}


def test_a_journal_holds_no_secret(tmp_path):
    spool = Spool(tmp_path, "store")
    spool.append(event("a", "opened", {"uri": "postgresql://me:hunter2@host/db", "error": "at http://me:hunter2@h"}))
    assert "hunter2" not in spool.path.read_text()
    assert json.loads(spool.path.read_text())["data"]["uri"] == "postgresql://***@host/db"
