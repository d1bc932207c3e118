"""What the processes of a run tell each other, with threads in place of processes."""

import concurrent.futures
import threading
import time

import pytest

from nt_jax import errors, processes
from nt_jax.errors import DataError, RunError


class Store:
    """The key-value store of jax.distributed, as far as it is used."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED: not there")
            return self.values[key]


class Seat(threading.local):
    """A group of its own in every thread."""

    def __init__(self) -> None:
        self.group = processes.Group()

    def __getattr__(self, name: str):
        return getattr(self.group, name)

    def __setattr__(self, name: str, value) -> None:
        if name == "group":
            super().__setattr__(name, value)
        else:
            setattr(self.group, name, value)


@pytest.fixture
def together(monkeypatch):
    """`together(work, 3)`: what `work(index)` gives, or raises, in each of three."""
    monkeypatch.setattr(processes, "_GROUP", Seat())
    monkeypatch.setattr(processes, "LOOK", 20)

    def run(work, count: int) -> list:
        store = Store()

        def one(index: int):
            processes.join(index, count, store)
            try:
                return work(index)
            except Exception as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return [*pool.map(one, range(count))]

    return run


def test_a_process_alone_asks_nobody():
    assert processes.first() and not processes.several()
    assert processes.from_first(lambda: {1: 2}) == {1: 2}
    assert processes.every(object) == [object]


def test_all_hear_what_process_0_has_found(together):
    done = []

    def work(index: int):
        first = processes.from_first(lambda: done.append(index) or ["a", None])
        return first, processes.from_first(lambda: index)

    assert together(work, 3) == [(["a", None], 0)] * 3
    assert done == [0]


@pytest.mark.parametrize("kind", [RunError, DataError])
def test_an_error_of_process_0_is_raised_in_all(together, kind):
    def work(index: int):
        return processes.from_first(lambda: (_ for _ in ()).throw(kind("no disk")))

    found = together(work, 3)
    assert [type(error) for error in found] == [kind] * 3
    assert {str(error) for error in found} == {"no disk"}


def test_an_error_that_only_process_0_knows_is_told_as_a_run_error(together):
    class Own(errors.NtError):
        pass

    def work(index: int):
        return processes.from_first(lambda: (_ for _ in ()).throw(Own("x")))

    assert [type(error) for error in together(work, 2)] == [Own, RunError]


def test_every_process_gets_the_values_of_all_in_order(together):
    assert together(lambda index: processes.every(10 * index), 3) == [[0, 10, 20]] * 3


def test_inputs_that_differ_are_refused_by_all(together):
    found = together(lambda index: processes.check_same("ab"[index == 2], "files"), 3)
    assert {str(error) for error in found} == {
        "process 2 reads other files than process 0. Give every process the same files and "
        "settings, then repeat."
    }
    assert together(lambda index: processes.check_same("a", "files"), 3) == [None] * 3


def test_a_process_without_a_cache_keeps_step_with_the_others(together, tmp_path, monkeypatch):
    import numpy as np

    from nt_jax import cache

    seat = threading.local()
    monkeypatch.setattr(cache, "folder", lambda: tmp_path if seat.index else None)

    def work(index: int) -> tuple[int, list[int]]:
        seat.index = index
        (one,) = cache.kept({"of": 1}, lambda: {"x": np.arange(3)}).values()
        return one.tolist(), processes.every(index)

    for _ in range(2):  # the second finds what the first has kept
        assert together(work, 2) == [([0, 1, 2], [0, 1])] * 2


def test_none_leaves_before_process_0_has_ended_its_work(together, monkeypatch):
    from nt_jax import exits, peers

    order: list[str] = []
    monkeypatch.setattr("jax.distributed.shutdown", lambda: order.append("shutdown"))
    monkeypatch.setattr(peers, "_WATCH", threading.Thread(target=int))
    peers._WATCH.start()

    def work(index: int) -> None:
        if index == 0:
            time.sleep(0.2)  # an upload
            order.append("done")
        peers.leave("", exits.DONE)

    together(work, 3)
    assert order == ["done", *["shutdown"] * 3]


def test_arrays_count_as_kept_only_where_all_keep_the_same(together, tmp_path):
    import numpy as np

    from nt_jax.cache import same_in_all

    one, other = {"a": np.arange(3)}, {"a": np.arange(3) + 1}
    for mine, wanted in [((one, one), True), ((one, other), False), ((one, None), False),
                         ((None, None), False)]:  # fmt: skip
        assert together(lambda index, mine=mine: same_in_all(mine[index]), 2) == [wanted] * 2
