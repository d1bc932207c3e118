"""A finished run on a disk where nothing may be written: its factors can be read all the same."""

import os
import shutil

import pytest

from nt_jax.errors import RunError
from nt_jax.run.export import export_run
from nt_jax.rundir import RunDirectory

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture
def only_read(finished, tmp_path, monkeypatch):
    """A copy of the finished run; root may write anywhere, so `access` is told, not asked."""
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))

    def refuse(self: RunDirectory) -> None:
        raise RunError(f"cannot write to {self.path}: Read-only file system")

    monkeypatch.setattr(RunDirectory, "_acquire", refuse)
    return folder


def test_it_is_exported_and_nothing_is_written_there(only_read, finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in only_read.rglob("*")}
    export_run(only_read, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in only_read.rglob("*")} == before
    ours, theirs = (
        (folder / "model.safetensors").read_bytes()
        for folder in (tmp_path / "out", finished.folder / "export" / "hf")
    )
    assert ours == theirs


def test_what_writes_there_still_says_so(only_read):
    with pytest.raises(RunError, match="cannot write to"), RunDirectory(only_read):
        pass
