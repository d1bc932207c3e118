"""How a command ends: exit codes, one line for an error, a file for a bug."""

import errno
import io
import os
import sys
from contextvars import ContextVar

import pytest

from nt_jax import cli, exits, rundir
from nt_jax.console import Screen, say, shown_on
from nt_jax.errors import RunError
from nt_jax.version import __version__
from tests.commands import ROOT


@pytest.mark.parametrize(
    "number", [errno.ENAMETOOLONG, errno.EACCES, errno.EROFS, errno.ELOOP, errno.EISDIR]
)
def test_what_the_system_says_of_a_path_is_one_line(failing, number, capsys):
    assert failing(OSError(number, os.strerror(number), "/some/where")) == exits.MISTAKE
    said = f"nt_jax: {os.strerror(number)} (/some/where). Name another path, or change that one.\n"
    assert capsys.readouterr().err == said


def test_what_a_command_says_is_shown(calls, monkeypatch, capsys):
    monkeypatch.setattr(
        sys.modules["nt_jax.run.export"], "export_run", lambda *_: say("export", "done")
    )
    assert cli.main("export", ["--run", "a", "--out", "b"]) == 0
    assert capsys.readouterr().out == "export     done\n"


def test_an_error_of_the_run_has_no_traceback(calls, monkeypatch, capsys):
    def fail(config, until, verify):
        raise RunError("first line\nsecond line")

    monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", fail)
    assert cli.main("train", ["--config", "smollm2-135m"]) == 2
    assert capsys.readouterr().err == "nt_jax: first line\nnt_jax: second line\n"


def test_an_interrupt_says_how_to_continue(calls, monkeypatch, capsys):
    def interrupt(config, until, verify):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", interrupt)
    assert cli.main("train", ["--config", "smollm2-135m", "run_dir=my runs"]) == 130
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "continue: python -m nt_jax.train --config smollm2-135m 'run_dir=my runs'" in shown


@pytest.fixture
def failing(calls, monkeypatch, tmp_path):
    """Let `train` raise an error, within its run directory if `held`."""
    monkeypatch.setenv("NT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rundir, "_HELD", ContextVar("held", default=None))

    def fail_with(error: BaseException, held: bool = False) -> int:
        def fail(config, **_):
            if not held:
                raise error
            with rundir.RunDirectory(tmp_path / "run"):
                raise error

        monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", fail)
        return cli.main("train", ["--config", "smollm2-135m", "seed=3"])

    return fail_with


@pytest.mark.parametrize("held", [True, False])
def test_a_bug_is_one_line_and_a_file_with_the_traceback(failing, held, tmp_path, capsys):
    assert failing(ZeroDivisionError("two\nlines"), held) == exits.BUG == 70
    shown = capsys.readouterr().err
    (file,) = (tmp_path / ("run" if held else "cache")).glob("bug-*.txt")
    assert shown == (
        f"nt_jax: this is a bug, please report it with {file}: ZeroDivisionError: two lines\n"
    )
    text = file.read_text()
    assert "Traceback (most recent call last)" in text and "ZeroDivisionError: two" in text
    assert "python -m nt_jax.train --config smollm2-135m seed=3" in text and __version__ in text


def test_a_panic_of_a_library_is_a_bug_and_an_exit_is_none(failing, tmp_path, capsys):
    panic = type("PanicException", (BaseException,), {})  # as pyo3 names it
    assert failing(panic("index out of bounds")) == exits.BUG
    (file,) = (tmp_path / "cache").glob("bug-*.txt")
    shown = capsys.readouterr().err
    assert shown.startswith(f"nt_jax: this is a bug, please report it with {file}: PanicException")
    assert shown.count("\n") == 1 and "Traceback (most recent call last)" in file.read_text()
    for other in (SystemExit(5), type("PanicExceptionToo", (BaseException,), {})()):
        with pytest.raises(type(other)):
            failing(other)


def test_a_bug_is_shown_where_no_file_can_be_written(failing, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NT_JAX_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert failing(KeyError("x")) == exits.BUG
    shown = capsys.readouterr().err
    assert shown.startswith("nt_jax: this is a bug, please report it: KeyError: 'x'\n")
    assert "Traceback (most recent call last)" in shown


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory. --dry-run says"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), "out of memory"),
        (RuntimeError("Could not determine home directory."), "begins with ~"),
        (FileNotFoundError(2, "No such file or directory"), "the working directory is gone"),
    ],
)
def test_what_is_no_bug_of_ours_is_no_bug(failing, error, words, capsys):
    assert failing(error) == exits.MISTAKE
    assert words in capsys.readouterr().err


def test_where_memory_ends_the_dry_run_and_the_settings_that_are_advised_help(
    calls, monkeypatch, capsys
):
    def run(config, **_):
        if config.eval.batch_size > 2 or not config.tune.sequence_tokens:
            raise MemoryError

    monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", run)
    words = ["--config", "smollm2-135m"]
    assert cli.main("train", words) == exits.MISTAKE
    said = capsys.readouterr().err
    assert "lower eval.batch_size, set tune.sequence_tokens=512, or" in said
    assert said.count("\n") == 1
    assert cli.main("train", [*words, "--dry-run"]) == 0
    assert cli.main("train", [*words, "eval.batch_size=2", "tune.sequence_tokens=512"]) == 0


def test_a_path_with_a_nul_is_written_without_as_advised(calls, monkeypatch, capsys, tmp_path):
    def export(run, out, *_):
        (out / "x").stat()

    monkeypatch.setattr(sys.modules["nt_jax.run.export"], "export_run", export)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    words = ["--run", "x", "--out"]
    assert cli.main("export", [*words, f"{tmp_path}/o\0ut"]) == exits.MISTAKE
    assert capsys.readouterr().err == "nt_jax: a path holds a NUL character. Leave it out.\n"
    assert cli.main("export", [*words, f"{tmp_path}/out"]) == 0


def test_a_broken_pipe_is_quiet_and_has_a_code_of_its_own(failing, capsys):
    assert failing(BrokenPipeError(32, "Broken pipe")) == exits.READER_GONE
    assert capsys.readouterr().err == ""


def test_so_is_one_under_what_is_said_on_the_screen(failing, capsys, monkeypatch):
    """Which rich would turn into exit code 1."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError), shown_on(Screen(file=Gone())):
        say("export", "done")


def test_every_exit_code_stands_in_the_docs():
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert sorted(exits.EXITS) == [0, 2, 3, 70, 75, 129, 130, 141, 143]
    for code, meaning in exits.EXITS.items():
        assert f"| {code} | {meaning} |" in text
