"""`--ray`: mistakes are one line before any work, whether or not the package is there."""

import contextlib
import importlib.util
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from nt_jax import cli, exits
from nt_jax.errors import ConfigError, DataError, RunError
from nt_jax.peers import LostError
from nt_jax.run import by_ray

GRID = ["--config", "smollm2-135m", "neurons.safety=9,14"]
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # the frame with which a server of HTTP/2 begins


@contextlib.contextmanager
def listener(said: bytes) -> Iterator[str]:
    """The address of something that says this to the first who connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                line, _ = server.accept()
                with line:
                    line.recv(100)
                    line.sendall(said)
                    line.recv(100)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def node(alive: bool = True, **resources: float) -> dict:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "devices", "wanted"),
    [
        ([node(CPU=2.0)], 1, (0, 2)),
        ([node(CPU=2.0)], 8, (0, 2)),  # devices of a CPU are no matter of Ray's
        ([node(CPU=16.0, GPU=4.0), node(CPU=16.0, GPU=4.0)], 2, (2, 4)),
        ([node(CPU=1.0, GPU=4.0)], 1, (1, 1)),
        ([node(CPU=16.0, GPU=3.0), node(CPU=8.0)], 2, (2, 1)),
        ([node(CPU=4.0), node(False, CPU=64.0, GPU=8.0)], 1, (0, 4)),
    ],
)
def test_a_task_has_the_gpus_of_the_mesh_on_one_node(nodes, devices, wanted):
    assert by_ray.room(nodes, devices) == wanted


@pytest.mark.parametrize("nodes", [[], [node()], [node(GPU=8.0)], [node(CPU=9.0, GPU=1.0)]])
def test_a_cluster_without_room_is_refused(nodes):
    with pytest.raises(ConfigError, match="no node of the cluster has a CPU"):
        by_ray.room(nodes, 2)


def test_only_what_speaks_as_ray_does_answers(monkeypatch):
    monkeypatch.setattr(by_ray, "WAIT", 0.3)
    with listener(SETTINGS) as address:
        by_ray.check_answers(address)
    for said in (b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01"):
        with listener(said) as address, pytest.raises(ConfigError, match="something else"):
            by_ray.check_answers(address)
    with listener(b"") as address, pytest.raises(ConfigError, match="timed out"):
        by_ray.check_answers(address)


@pytest.mark.parametrize(
    ("joins", "said"),
    [
        ("import time; time.sleep(60)", "something answers, but no cluster could be joined in 1 s"),
        ("raise RuntimeError('two versions of Ray')", "127.0.0.1:1: RuntimeError: two versions"),
    ],
)
def test_a_process_of_its_own_joins_first(monkeypatch, joins, said):
    monkeypatch.setattr(by_ray, "JOINS", joins)
    monkeypatch.setattr(by_ray, "JOIN", 1.0)
    with pytest.raises(ConfigError, match=said):
        by_ray.check_joins("127.0.0.1:1")
    monkeypatch.setattr(by_ray, "JOINS", "")
    by_ray.check_joins("127.0.0.1:1")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("sweep", [*GRID, "--ray", "127.0.0.1:1"], "no Ray cluster answers"),
        ("sweep", [*GRID, "--ray", "127.0.0.1:1", "--warm-start"], "--warm-start begins"),
        ("sweep", [*GRID, "--ray", "head"], "must be HOST:PORT, not 'head'"),
        ("compare", ["--config", "smollm2-135m", "--ray", ""], "must be HOST:PORT"),
        ("compare", ["--config", "smollm2-135m", "--ray", f"[{'a' * 300}]:1"], "no Ray cluster"),
        ("train", ["--config", "smollm2-135m", "--ray", "a:1"], "unknown option '--ray'"),
    ],
)
def test_mistakes_are_one_line(command, words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("nt_jax.run.pipeline.read_inputs", lambda config: pytest.fail("work"))
    folder = tmp_path / "run"
    assert cli.main(command, [*words, "--run-dir", str(folder)]) == exits.MISTAKE
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1 and shown.startswith("nt_jax: ")
    assert not folder.exists()


def test_the_missing_package_is_named_before_any_work(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = [*GRID, "--ray", "127.0.0.1:1", "--run-dir", str(tmp_path / "run")]
    assert cli.main("sweep", words) == exits.MISTAKE
    wanted = "nt_jax: --ray needs the package ray: pip install 'nt_jax[ray]'\n"
    assert capsys.readouterr().err == wanted and not (tmp_path / "run").exists()


class Errors:
    """The errors of Ray that are looked at."""

    class RayError(Exception):
        """Any."""

    class RayTaskError(RayError):
        """Raised by a task: `cause` is the error there."""

        def __init__(self, cause: Exception) -> None:
            super().__init__("a long traceback")
            self.cause = cause


class FakeRay:
    """Ray whose only task ends with an error."""

    exceptions = Errors

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get(self, one: object) -> None:
        raise self.error


def test_errors_of_tasks_are_ours_with_the_name_of_the_piece():
    with pytest.raises(DataError, match=r"^safety-9: no rows$"):
        by_ray._result(FakeRay(Errors.RayTaskError(DataError("no rows"))), None, "safety-9")
    with pytest.raises(Errors.RayTaskError):  # a bug: its traceback is reported
        by_ray._result(FakeRay(Errors.RayTaskError(KeyError("x"))), None, "safety-9")
    with pytest.raises(LostError, match="safety-9: its process was lost, and 3 after it"):
        by_ray._result(FakeRay(Errors.RayError("worker died")), None, "safety-9")
    assert LostError.exit_code == exits.LOST


def test_a_folder_that_a_node_does_not_have_is_named():
    with pytest.raises(RunError, match=r"cannot enter /nowhere/x \(No such file"):
        by_ray.work_at("/nowhere/x", {}, "a:b", ())


def test_sigterm_stays_with_the_command():
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, mine)
    try:
        with by_ray._signals_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does with its own
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
