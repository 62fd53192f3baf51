"""Points that a thread writes: there at once for who put them, on disk soon, and no error of the disk is lost."""

import threading
from pathlib import Path

import pytest
import torch

from keystep.core.latents import LatentStore
from keystep.core.points import Point
from keystep.core.write_behind import WriteBehind
from tests.core.test_latents import a_point


class Slow(LatentStore):
    """Writes only once it is let; some names never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.let = threading.Event()

    def put(self, key: str, point: Point) -> None:
        self.let.wait(30.0)
        if key == "bad":
            raise PermissionError(13, "no")
        super().put(key, point)


def test_a_point_is_there_before_it_is_written(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    store, point = WriteBehind(slow), a_point(1)
    store.put("aa", point)
    assert store.get("aa") is point and "aa" in store and "aa" not in slow
    assert store.get("bb") is None and "bb" not in store
    slow.let.set()
    store.flush()
    read = LatentStore(tmp_path).get("aa")
    assert read is not None and torch.equal(read.latents, point.latents)
    again = store.get("aa")
    assert again is not None and again is not point and torch.equal(again.latents, point.latents)


def test_the_last_of_two_with_one_name_stays(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    store, first, second = WriteBehind(slow), a_point(1), a_point(2)
    store.put("aa", first)
    store.put("aa", second)
    slow.let.set()
    store.flush()
    read = store.get("aa")
    assert read is not None and torch.equal(read.latents, second.latents)


def test_an_error_of_the_disk_is_raised_by_the_next_call(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    store = WriteBehind(slow)
    slow.let.set()
    store.put("bad", a_point(1))
    with pytest.raises(PermissionError):
        store.flush()
    store.put("aa", a_point(2))
    store.flush()
    assert "aa" in slow


def test_no_more_wait_than_may(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    size = sum(tensor.nbytes for tensor in a_point(1).to_tensors()[0].values())
    store = WriteBehind(slow, most=2 * size)
    done = threading.Event()

    def put_all() -> None:
        for number in range(6):
            store.put(f"{number:02}", a_point(number))
        done.set()

    threading.Thread(target=put_all, daemon=True).start()
    assert not done.wait(0.3), "it waits for the disk"
    slow.let.set()
    assert done.wait(30.0)
    store.flush()
    assert all(f"{number:02}" in slow for number in range(6))
