"""A run directory: one folder per stage, each either finished or absent, whatever kills the run.

A stage is written in a hidden sibling `.NAME.tmp`, brought to disk, marked with `DONE` (which holds
the stage's key) and only then renamed to `NAME`: a folder without the dot is always whole.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import filelock

from nt_jax.atomic import disk_errors, read_text, remove, sync, sync_tree, write_atomic
from nt_jax.console import clock, say, working
from nt_jax.errors import RunError
from nt_jax.runinfo import peak_memory, this_machine

DONE = "DONE"
RESUME = "RESUME"  # in a partial folder: the key of the stage that may carry it on


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a run, with a folder of its own.

    What it is made from decides when it is repeated: `reads` are settings, `made_from` names other
    stages or hashes of what lies outside. `work(folder)` writes and says one line about it; a
    resumable stage goes on in the folder that an interruption left.
    """

    name: str
    reads: tuple[str, ...]
    made_from: tuple[str, ...]
    work: Callable[[Path], str]
    resumable: bool = True


class RunDirectory:
    """One run's folder, held by one process at a time: `with RunDirectory(path) as run: ...`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = filelock.FileLock(self.path / ".lock")
        self._holder = self.path / ".holder.json"

    def __enter__(self) -> Self:
        """The directory, made if needed, locked, and cleared of what a killed run left behind."""
        self._check_folder()
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._acquire()
        try:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            write_atomic(self._holder, json.dumps(holder).encode())
            with disk_errors(self.path):
                self._recover()
            self.record(**this_machine())
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    def folder(self, name: str) -> Path:
        """Where a finished stage lies."""
        return self.path / name

    def finished(self, name: str, key: str) -> bool:
        """Whether the stage is complete and was made from exactly what `key` stands for."""
        return read_text(self.folder(name) / DONE) == key

    def current(self, name: str, key: str) -> Path | None:
        """Where the stage made from `key` lies, finished or interrupted; None if it was not run."""
        if self.finished(name, key):
            return self.folder(name)
        partial = self._partial(name)
        return partial if read_text(partial / RESUME) == key else None

    def carry(self, stage: Stage, key: str, beside: Sequence[Path] = ()) -> Path:
        """Do the work of `stage` unless it is done already, and say which; its folder.

        Work that another run, of those in `beside`, has done from the same things is taken over.
        """
        started = time.monotonic()
        if self.finished(stage.name, key):
            say(stage.name, "kept from before")
        elif source := self._take_over(stage.name, key, beside):
            say(stage.name, f"as in {source}")
        else:
            with working(stage.name):
                with self.stage(stage.name, key, stage.resumable) as folder:
                    said = stage.work(folder)
                say(stage.name, f"{said}   {clock(time.monotonic() - started)}")
        return self.folder(stage.name)

    @contextlib.contextmanager
    def stage(self, name: str, key: str, resumable: bool = False) -> Iterator[Path]:
        """A folder to write the stage into; it takes the stage's place once the block succeeds.

        If the block fails, what it wrote is deleted and an older finished stage stays as it was. A
        resumable stage keeps what it wrote: the next call with the same key gets that folder back,
        with everything in it (and the file RESUME, which is ours).
        """
        partial = self._partial(name)
        started = time.monotonic()
        with disk_errors(self.path):
            resumed = resumable and read_text(partial / RESUME) == key
            try:
                if resumed:
                    _sweep(partial)
                else:
                    remove(partial)
                    partial.mkdir()
                if resumable and not resumed:
                    write_atomic(partial / RESUME, key.encode())
                yield partial
                sync_tree(partial)
                write_atomic(partial / DONE, key.encode())
            except BaseException:
                if not resumable:
                    remove(partial)
                raise
            self._publish(name)
        facts = {
            "key": key,
            "finished": _now(),
            "wall_seconds": round(time.monotonic() - started, 3),
            "peak_memory_bytes": peak_memory(),
            "resumed": resumed,
        }
        self.record(stages={name: facts})

    def done(self, name: str, key: str, beside: Sequence[Path] = ()) -> bool:
        """Whether `carry` would have nothing to do but to take over."""
        return any(read_text(run / name / DONE) == key for run in (self.path, *beside))

    def _take_over(self, name: str, key: str, beside: Sequence[Path]) -> Path | None:
        """The run whose finished stage is now this one's as well, by hard links where possible."""
        for other in beside:
            if read_text(other / name / DONE) == key:
                with self.stage(name, key) as folder:
                    shutil.copytree(
                        other / name, folder, dirs_exist_ok=True, copy_function=_link_or_copy,
                        ignore=shutil.ignore_patterns(DONE),
                    )  # fmt: skip
                stages = json.loads(read_text(other / "run.json") or "{}").get("stages", {})
                facts = self.facts()["stages"][name] | stages.get(name, {})
                self.record(stages={name: facts | {"taken_from": str(other)}})
                return other
        return None

    def facts(self) -> dict[str, Any]:
        """What run.json says so far."""
        file = self.path / "run.json"
        try:
            return dict(json.loads(read_text(file) or "{}"))
        except ValueError as error:
            raise RunError(
                f"{file} is damaged ({error}). Delete it, then repeat this command: finished "
                "stages are kept."
            ) from error

    def seconds(self) -> dict[str, float]:
        """Wall time of the stages that run.json knows of: of all, unless it was deleted."""
        stages = self.facts().get("stages", {})
        return {name: stage["wall_seconds"] for name, stage in stages.items()}

    def record(self, **facts: Any) -> None:
        """Add facts to run.json; a dict adds to what is there, key by key, the rest replaces."""
        known = self.facts()
        for name, value in facts.items():
            adds = isinstance(value, dict) and isinstance(known.get(name), dict)
            known[name] = known[name] | value if adds else value
        text = json.dumps(known, indent=2, ensure_ascii=False)
        write_atomic(self.path / "run.json", f"{text}\n".encode())

    def _partial(self, name: str) -> Path:
        return self.path / f".{name}.tmp"

    def _publish(self, name: str) -> None:
        """Put a complete partial folder in the stage's place.

        A folder cannot be renamed over a full one, so the old one steps aside first; `_recover`
        ends the swap if the process dies between the two renames.
        """
        partial, final, old = self._partial(name), self.folder(name), self.path / f".{name}.old"
        (partial / RESUME).unlink(missing_ok=True)
        remove(old)
        if final.exists():
            final.rename(old)
        partial.rename(final)
        sync(self.path)
        remove(old)

    def _recover(self) -> None:
        """End interrupted swaps; delete partial folders that nothing can carry on."""
        _sweep(self.path)
        for partial in self.path.glob(".*.tmp"):
            if (partial / DONE).exists():
                self._publish(partial.name[1 : -len(".tmp")])
            elif not (partial / RESUME).exists():
                remove(partial)
        for old in self.path.glob(".*.old"):
            remove(old)  # a swap that got past its second rename

    def check_free(self) -> None:
        """Raises the RunError that holding this folder would; makes and changes nothing."""
        self._check_folder()
        if (self.path / ".lock").exists():
            self._acquire()
            self._lock.release()

    def _check_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file. Choose another folder with run_dir=DIR.")

    def _acquire(self) -> None:
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise RunError(self._held_by()) from None

    def _held_by(self) -> str:
        """The message for a second run in the same directory."""
        try:
            holder = json.loads(read_text(self._holder) or "{}")
            who = "process {pid} on {host}, since {since}".format(**holder)
        except (ValueError, KeyError):  # the other run is just starting
            who = "another process"
        return (
            f"{self.path} is in use by {who}. Wait until it ends, or choose another folder with "
            "run_dir=DIR; nothing was changed."
        )


def exported_model(run_dir: Path) -> Path:
    """The Hugging Face folder that a run has exported from the factors it holds now.

    Raises a RunError if there is none, or only that of older settings.
    """
    key = json.loads(read_text(run_dir / "run.json") or "{}").get("keys", {}).get("export")
    if key is None or read_text(run_dir / "export" / DONE) != key:
        raise RunError(
            f"{run_dir} has no exported model in export/hf yet. Carry the run on first: "
            f"python -m nt_jax.train --config ... --run-dir {run_dir}"
        )
    return run_dir / "export" / "hf"


def _link_or_copy(source: str, to: str) -> None:
    """The same bytes under another name: files of a finished stage are never written again."""
    try:
        os.link(source, to)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, to)


def _sweep(folder: Path) -> None:
    """Delete the files directly in `folder` that a killed write_atomic had no time to rename."""
    for file in folder.glob(".*.tmp"):
        if file.is_file():
            file.unlink()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
