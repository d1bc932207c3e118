"""SIGTERM, SIGHUP and SIGINT end a command alike: state kept, one line, the holder file gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nt_jax.rundir import RunDirectory
from nt_jax.signals import Stopped, stopping, words_of

ROOT = Path(__file__).parents[1]
# A run that holds its directory until something ends it; SCREEN says what happens on the way out.
CODE = """
import signal, sys, time, types
from pathlib import Path
folder, ignored, screen = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if ignored:
    signal.signal(getattr(signal, ignored), signal.SIG_IGN)
from nt_jax import cli
from nt_jax.rundir import RunDirectory
def run(config, until=None, **more):
    with RunDirectory(folder) as held, held.stage("train", "key", resumable=True) as partial:
        (partial / "epoch-1").touch()
        print("held", flush=True)
        try:
            time.sleep(60 if screen != "short" else 1)
        finally:
            if screen == "gone":
                raise OSError(5, "the screen is gone")
module = types.ModuleType("nt_jax.run.pipeline")
module.run = run
sys.modules["nt_jax.run.pipeline"] = module
cli._enter = lambda: None
sys.exit(cli.main("train", ["--config", "smollm2-135m", f"run_dir={folder}"]))
"""
ENDS = [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "hung up")]


@pytest.fixture(autouse=True)
def heard():
    """A suite under nohup or in the background ignores signals, and so would its children."""
    usual = {signal.SIGINT: signal.default_int_handler}
    usual |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end(folder: Path, name: str, ignored: str = "", screen: str = "", times: int = 1):
    """(exit code, what was printed as error) of a run that a signal met."""
    child = subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder), ignored, screen],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert (folder / ".holder.json").exists()
        for _ in range(times):
            child.send_signal(getattr(signal, name))
        error = child.communicate(timeout=60)[1]
    return child.returncode, error


@pytest.mark.parametrize(("name", "code", "word"), ENDS)
def test_a_signal_ends_a_command_with_one_line(tmp_path, name, code, word):
    found, error = end(tmp_path, name)
    assert found == code
    assert error == (
        f"nt_jax: {word}. What is finished is kept; continue: python -m nt_jax.train "
        f"--config smollm2-135m run_dir={tmp_path}\n"
    )
    assert not (tmp_path / ".holder.json").exists()
    with RunDirectory(tmp_path) as run, run.stage("train", "key", resumable=True) as partial:
        assert (partial / "epoch-1").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_second_signal_does_not_cut_off_the_first(tmp_path, name):
    assert end(tmp_path, name, times=3)[0] == 128 + getattr(signal, name)
    assert not (tmp_path / ".holder.json").exists()


def test_a_screen_that_is_gone_changes_nothing(tmp_path):
    code, error = end(tmp_path, "SIGHUP", screen="gone")
    assert code == 129 and error.startswith("nt_jax: hung up") and "Traceback" not in error


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_an_ignored_signal_stays_ignored(tmp_path, name):
    code, _ = end(tmp_path, name, ignored=name, screen="short")
    assert code == 0


def test_handlers_are_put_back_and_other_threads_have_none():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Stopped) as caught, stopping():
        os.kill(os.getpid(), signal.SIGTERM)
    assert words_of(caught.value) == ("terminated", 143)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
    ran = []

    def elsewhere():
        with stopping():
            ran.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert ran == before[:1]


def test_an_own_handler_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_arrives_while_something_is_cleaned_up_is_not_lost(number):
    """jax cleans up at every garbage collection, and Python ignores what is raised there."""
    gone = []

    class Cleaned:
        def __del__(self):
            signal.raise_signal(number)
            gone.append(sum(range(100)))  # not reached: the handler has raised by then

    with pytest.raises(KeyboardInterrupt) as stopped, stopping():
        Cleaned()
        for _ in range(200):
            time.sleep(0.05)
    assert not gone and words_of(stopped.value)[1] == 128 + number
