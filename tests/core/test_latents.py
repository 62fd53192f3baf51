"""The store: exact round trips, many processes on one folder, damage, eviction, full and unwritable disks."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from keystep.core.latents import LatentStore, content_key
from keystep.core.points import Point


def a_point(seed: int = 0, rows: int = 1, side: int = 8) -> Point:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(rows, 4, side, side, generator=generator)
    return Point(
        latents=latents,
        step_index=3,
        noise_streams=torch.stack([generator.get_state()] * rows),
        schedule="schedule",
        scheduler_state={"ets": (latents * 2, latents.to(torch.bfloat16)), "counter": 3, "cur_sample": None},
    )


def assert_same(left: Point | None, right: Point) -> None:
    assert left is not None
    left_tensors, left_metadata = left.to_tensors()
    right_tensors, right_metadata = right.to_tensors()
    assert left_metadata == right_metadata
    assert left_tensors.keys() == right_tensors.keys()
    for name, tensor in right_tensors.items():
        assert left_tensors[name].dtype == tensor.dtype
        assert torch.equal(left_tensors[name], tensor), name


def age(store: LatentStore, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.path(key), (then, then))


def test_a_point_comes_back_exactly(tmp_path: Path) -> None:
    store = LatentStore(tmp_path / "new" / "folder")
    key = content_key({"seed": 0})
    assert store.get(key) is None and key not in store
    store.put(key, a_point(rows=2))
    assert key in store
    assert_same(store.get(key), a_point(rows=2))
    store.put(key, a_point(seed=5))
    assert_same(store.get(key), a_point(seed=5))


def test_what_is_stored_is_safetensors_and_json_only(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    store.put("ab" * 32, a_point())
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["point"])["step_index"] == 3
    assert header["latents"]["shape"] == [1, 4, 8, 8]


def test_a_key_depends_on_every_part_and_not_on_their_order() -> None:
    parts = {"model": "m", "prompt": {"text": "a cat"}, "seed": 1, "done": [["iterref", 20]]}
    key = content_key(parts)
    assert key == content_key(dict(reversed(parts.items())))
    assert len(key) == 64
    others = [content_key(parts | {name: "other"}) for name in parts]
    assert len({key, *others}) == 5
    for value in (float("nan"), torch.ones(1), {1, 2}):
        with pytest.raises(ValueError, match="JSON values"):
            content_key({"value": value})


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "foreign", "text"])
def test_a_damaged_file_is_a_warning_and_a_miss(tmp_path: Path, damage: str) -> None:
    store = LatentStore(tmp_path)
    key = content_key({"seed": 0})
    store.put(key, a_point())
    path = store.path(key)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flipped":
        content[-1] ^= 1
    elif damage == "text":
        content = bytearray(b"not safetensors at all, but long enough to hold a header")
    elif damage == "foreign":
        from safetensors.torch import save

        content = bytearray(save({"weights": torch.ones(3)}))
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="removed a damaged point"):
        assert store.get(key) is None
    assert not path.exists()
    store.put(key, a_point())
    assert_same(store.get(key), a_point())


def test_points_of_older_versions_are_computed_again(tmp_path: Path) -> None:
    """Their checksum did not cover the header; one warning for all of them."""
    store = LatentStore(tmp_path)
    keys = [content_key({"seed": seed}) for seed in range(3)]
    for key in keys:
        store.put(key, a_point())
        content = store.path(key).read_bytes()
        store.path(key).write_bytes(content.replace(b'"sha256":', b'"checksum":', 1))
    with pytest.warns(UserWarning, match="older version") as given:
        assert [store.get(key) for key in keys] == [None] * 3
    assert len(given) == 1 and not any(store.path(key).exists() for key in keys)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    one_file = len_of_one_file(tmp_path / "probe")
    store = LatentStore(tmp_path / "store", max_bytes=int(4.5 * one_file))
    keys = [content_key({"seed": seed}) for seed in range(5)]
    for position, key in enumerate(keys[:4]):
        store.put(key, a_point(position))
        age(store, key, 100 - position)
    assert store.get(keys[0]) is not None  # the oldest written is now the last used
    store.put(keys[4], a_point(4))
    assert [key in store for key in keys] == [True, False, True, True, True]


def test_the_cap_holds_for_a_folder_that_was_larger(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    keys = [content_key({"seed": seed}) for seed in range(6)]
    for position, key in enumerate(keys):
        store.put(key, a_point(position))
        age(store, key, 100 - position)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    LatentStore(tmp_path, max_bytes=size // 2)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= size // 2
    assert keys[5] in store and keys[0] not in store


def test_leftovers_of_a_killed_writer_are_cleared_after_an_hour(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    store.put("ab" * 32, a_point())
    old, recent = tmp_path / "ab" / ".old", tmp_path / "ab" / ".recent"
    old.write_bytes(b"x"), recent.write_bytes(b"x")
    os.utime(old, (0, 0))
    LatentStore(tmp_path)
    assert not old.exists() and recent.exists()


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to .*file/store: .*choose another folder"):
        LatentStore(tmp_path / "file" / "store")
    with pytest.raises(ValueError, match="max_bytes must be positive"):
        LatentStore(tmp_path, max_bytes=0)


def test_no_room_is_one_warning_and_work_goes_on(tmp_path: Path) -> None:
    """A real limit of the operating system on file size, in a process of its own."""
    script = f"""
import resource, warnings
from keystep.core.latents import LatentStore
from tests.core.test_latents import a_point
store = LatentStore({str(tmp_path)!r})
store.put("aa" * 32, a_point())
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    store.put("ab" * 32, a_point())
    store.put("ac" * 32, a_point())
assert [str(w.message).startswith("no room to store points") for w in caught] == [True], caught
assert store.get("ab" * 32) is None and store.get("aa" * 32) is not None
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{'aa' * 32}.safetensors"]


def len_of_one_file(folder: Path) -> int:
    store = LatentStore(folder)
    store.put("ab" * 32, a_point())
    return store.path("ab" * 32).stat().st_size


def hammer(folder: Path, worker: int, max_bytes: int, results: "multiprocessing.Queue[str]") -> None:
    """Writes, reads and evicts among 12 shared keys; every point read must be the one its key stands for."""
    try:
        store = LatentStore(folder, max_bytes)
        hits = 0
        chance = random.Random(worker)
        for _ in range(150):
            seed = chance.randrange(12)
            key = content_key({"seed": seed})
            found = store.get(key)
            if found is None:
                store.put(key, a_point(seed))
            else:
                assert torch.equal(found.latents, a_point(seed).latents)
                hits += 1
        results.put("ok" if hits else "no hits")
    except BaseException:
        results.put(traceback.format_exc())


def test_four_processes_share_one_folder(tmp_path: Path) -> None:
    max_bytes = int(8.5 * len_of_one_file(tmp_path / "probe"))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    folder = tmp_path / "shared"
    workers = [context.Process(target=hammer, args=(folder, worker, max_bytes, results)) for worker in range(4)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120) for _ in workers] == ["ok"] * 4
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    LatentStore(folder, max_bytes)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert all(path.suffix == ".safetensors" for path in files)
    assert 0 < sum(path.stat().st_size for path in files) <= max_bytes
