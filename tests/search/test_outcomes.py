"""The store of outcomes: whole or not at all, shared, and plain about what is wrong."""

import errno
import json
import multiprocessing
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from keystep.core.config import GSNg, IterRef, LossWeights, Refinement
from keystep.core.prompts import Entity, Prompt
from keystep.core.seals import DamagedFile
from keystep.search.images.outcomes import Outcome, OutcomeStore, setting_id
from keystep.search.storing import storage

SETTING = Refinement(iterref=IterRef(step_index=3))
FORK = multiprocessing.get_context("fork")
CIRCLE = (Entity("circle", "red"),)


def outcome(tiam: float = 1.0, entities: tuple[Entity, ...] = CIRCLE) -> Outcome:
    seen = (bool(tiam),) * len(entities)
    return Outcome(tiam, seen, seen, 17.0, 140.0, 0.25, None, entities)


FILESYSTEMS = ["local", "mock", "subtree", "object store"]


@pytest.fixture(params=FILESYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """Arguments of a store, beside the evaluation id."""
    match request.param:
        case "local":
            yield {"uri": str(tmp_path / "store")}
        case "mock":
            yield {"uri": "bucket/prefix", "filesystem": fs._MockFileSystem()}
        case "subtree":
            yield {"uri": "prefix", "filesystem": fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())}
        case "object store":
            # Written in place, as s3:// is.
            monkeypatch.setattr(storage, "OBJECT_STORES", frozenset({"mock"}))
            bucket = fs._MockFileSystem()
            bucket.create_dir("bucket/prefix/outcomes/e/unrefined", recursive=True)
            bucket.create_dir(f"bucket/prefix/outcomes/e/{setting_id(SETTING)}", recursive=True)
            yield {"uri": "bucket/prefix", "filesystem": bucket}


def test_what_is_written_is_read_by_another(place: dict) -> None:
    store = OutcomeStore(evaluation_id="e", **place)
    assert store.read(SETTING) == {}
    written = {("a red circle", 3): outcome(), ("a red circle", 2**40): outcome(0.0)}
    store.write(SETTING, written)
    other = OutcomeStore(evaluation_id="e", **place)
    assert store.read(SETTING) == other.read(SETTING) == written
    assert other.read(None) == {}
    more = {("a red circle", 5): outcome()}
    other.write(SETTING, more)
    assert store.remembered(SETTING) == written
    assert store.read(SETTING) == written | more
    other.write(None, more)
    assert store.read(Refinement()) == more, "a refinement that does nothing is none"
    assert OutcomeStore(evaluation_id="f", **place).read(SETTING) == {}


def test_many_shards_are_all_read(tmp_path: Path) -> None:
    store = OutcomeStore(str(tmp_path), "e")
    written = {("a red circle", seed): outcome(float(seed % 2)) for seed in range(40)}
    for key, value in written.items():
        store.write(None, {key: value})
    assert len(list(tmp_path.rglob("*.json"))) == 40
    assert OutcomeStore(str(tmp_path), "e").read(None) == written


def test_one_text_with_other_entities_is_another_image(tmp_path: Path) -> None:
    text, both = "a red circle and a star", (Entity("circle", "red"), Entity("star"))
    store = OutcomeStore(str(tmp_path), "e")
    store.write(SETTING, {(text, 0): outcome(1.0, both)})
    store.write(SETTING, {(text, 0): outcome(0.0, CIRCLE)})
    assert store.read(SETTING, [Prompt(text, both)])[text, 0].tiam == 1.0
    assert store.read(SETTING, [Prompt(text, CIRCLE)])[text, 0].tiam == 0.0
    assert store.read(SETTING, [Prompt(text, (Entity("star"),))]) == {}
    assert store.read(SETTING, [Prompt("a star", both)]) == {}


def test_setting_ids_tell_settings_apart() -> None:
    settings = [
        Refinement(iterref=IterRef(step_index=3)),
        Refinement(iterref=IterRef(step_index=4)),
        Refinement(iterref=IterRef(step_index=3, iterations=20)),
        Refinement(iterref=IterRef(step_index=3), gsng=GSNg()),
        Refinement(iterref=IterRef(step_index=3), gsng=GSNg(start=1)),
        Refinement(iterref=IterRef(step_index=3), weights=LossWeights(cn=0.5)),
        Refinement(gsng=GSNg()),
        None,
    ]
    assert len({setting_id(setting) for setting in settings}) == len(settings)
    assert setting_id(Refinement(iterref=IterRef(step_index=3))) == setting_id(SETTING)
    assert setting_id(Refinement(weights=LossWeights(cn=0.5))) == setting_id(None) == "unrefined"


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "outco', b"[]", b'{"format": 2, "outcomes": []}', b"\xff"])
def test_a_damaged_shard_is_named_and_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    store = OutcomeStore(str(tmp_path), "e")
    store.write(None, {("a red circle", 0): outcome()})
    store.write(None, {("a red circle", 1): outcome()})
    shard = next(path for path in tmp_path.rglob("*.json") if json.loads(path.read_text())["outcomes"][0]["seed"] == 0)
    shard.write_bytes(content)
    fresh = OutcomeStore(str(tmp_path), "e")
    with pytest.warns(UserWarning, match=f"{shard.name} are damaged.*computed again"):
        assert fresh.read(None) == {("a red circle", 1): outcome()}
    assert fresh.read(None) == {("a red circle", 1): outcome()}, "said once"


OLD = {
    "format": 1,
    "setting": None,
    "outcomes": [{"prompt": "a red circle", "seed": 0, **outcome().to_json()}],
}


def put(folder: Path, plain: Any) -> None:
    place = folder / "outcomes" / "e" / "unrefined"
    place.mkdir(parents=True)
    (place / "0123.json").write_text(json.dumps(plain))


def test_shards_of_older_versions_are_read(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    assert OutcomeStore(str(tmp_path), "e").read(None) == {("a red circle", 0): outcome()}


@pytest.mark.parametrize(
    "change",
    [
        {"tiam": 1.4},
        {"tiam": -0.1},
        {"tiam": float("nan")},
        {"tiam": "1.0"},
        {"tiam": True},
        {"tiam": None},
        {"found": []},
        {"found": [True, True]},
        {"bound": [1]},
        {"bound": "t"},
        {"evaluations": -1.0},
        {"evaluations": float("inf")},
        {"evaluations": 10**400},
        {"evaluations_alone": float("nan")},
        {"seconds": -0.5},
        {"failure": 3},
        {"entities": [["circle"]]},
        {"entities": [[5, None]]},
        {"entities": 7},
        {"entities": [["", None]]},
        {"seed": 0.5},
        {"seed": -1},
        {"seed": [0]},
        {"prompt": None},
    ],
)
def test_what_no_image_can_have_is_not_believed_of_old_shards(tmp_path: Path, change: dict[str, Any]) -> None:
    put(tmp_path, OLD | {"outcomes": [OLD["outcomes"][0] | change]})
    with pytest.warns(DamagedFile, match=r"0123\.json are damaged.*computed again"):
        assert OutcomeStore(str(tmp_path), "e").read(None) == {}


def test_a_draft_of_a_killed_process_is_no_shard(tmp_path: Path) -> None:
    store = OutcomeStore(str(tmp_path), "e")
    store.write(None, {("a red circle", 0): outcome()})
    (shard,) = tmp_path.rglob("*.json")
    shard.with_name(f".{shard.name}-0123").write_bytes(b'{"form')
    assert OutcomeStore(str(tmp_path), "e").read(None) == {("a red circle", 0): outcome()}


def write_every_other(folder: Path, first: int) -> None:
    store = OutcomeStore(str(folder), "e")
    for seed in range(first, 60, 2):
        store.write(None, {("a cat", seed): outcome()})
        store.read(None)


def test_two_processes_write_to_one_store(tmp_path: Path) -> None:
    processes = [FORK.Process(target=write_every_other, args=(tmp_path, first)) for first in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    known = OutcomeStore(str(tmp_path), "e").read(None)
    assert known == {("a cat", seed): outcome() for seed in range(60)}
    assert len(list(tmp_path.rglob("*"))) == 60 + 3, "three folders, a shard a write, and nothing else"


@pytest.mark.parametrize("uri", ["/proc/keystep", "/dev/null/store"])
def test_a_place_that_cannot_be_written_to_is_refused_at_once(uri: str) -> None:
    with pytest.raises(ValueError, match=f"storage.path: cannot write to {uri} .*name a folder that can be written"):
        OutcomeStore(uri, "e")


@pytest.mark.parametrize("uri", ["ftp://host/folder", "s3:///"])
def test_an_address_of_no_known_kind_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=f"storage.path: {uri} cannot be used .*s3://bucket/prefix"):
        OutcomeStore(uri, "e")


def write_too_much(folder: Path, said: Any) -> None:
    store = OutcomeStore(str(folder), "e")
    store.write(None, {("a cat", 0): outcome()})
    # The kernel refuses to let a file grow, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        store.write(None, {("a cat", seed): outcome() for seed in range(500)})
    except OSError as error:
        said.send((error.errno, error.strerror))


def test_no_room_says_what_to_do_and_leaves_no_draft(tmp_path: Path) -> None:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=write_too_much, args=(tmp_path, theirs))
    process.start()
    process.join()
    assert ours.poll(), "an error was raised"
    code, text = ours.recv()
    assert code == errno.EFBIG
    assert text.startswith(f"no room left in {tmp_path} (")
    assert "run the same command again" in text
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    assert len(OutcomeStore(str(tmp_path), "e").read(None)) == 1


def test_home_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    OutcomeStore("~/runs", "e").write(None, {("a cat", 0): outcome()})
    assert len(list((tmp_path / "runs" / "outcomes" / "e").rglob("*.json"))) == 1
    address = (tmp_path / "runs").as_uri()
    assert len(OutcomeStore(address, "e").read(None)) == 1
    assert storage.local_folder("s3://bucket/runs") is None
