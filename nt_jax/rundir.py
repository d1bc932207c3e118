"""A run directory: one folder per stage, each either finished or absent, whatever kills the run.

A stage is written in a hidden sibling `.NAME.tmp`, brought to disk, marked with `DONE` (which holds
the stage's key and the sha256 of its files, see nt_jax/seal.py) and only then renamed to `NAME`: a
folder without the dot is always whole.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import filelock

from nt_jax.atomic import disk_errors, sweep, sync_tree, write_atomic
from nt_jax.console import clock, say, working
from nt_jax.errors import RunError
from nt_jax.facts import held_by, read_facts
from nt_jax.processes import first, from_first, meet
from nt_jax.runinfo import peak_memory, this_machine
from nt_jax.seal import DONE, RESUME, Seal, check, damaged, read_seal, resume_of, seal_of, take
from nt_jax.swap import check_ours, clear, copied, fresh, partial_of, publish, recover, start_of

FAILED = "FAILED.jsonl"  # in a partial folder: prompts and judge calls to be tried again
_HELD: ContextVar[Path | None] = ContextVar("held", default=None)


def last_held() -> Path | None:
    """The run directory that this command holds, or held last."""
    return _HELD.get()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a run, with a folder of its own.

    What it is made from decides when it is repeated: `reads` are settings, `made_from` names other
    stages or hashes of what lies outside. `work(folder)` writes and says one line about it; a
    resumable stage goes on in the folder that an interruption left. `outcome` names the files that
    later stages rest on, all unless given: where these come out the same again, they are kept.
    `later` names files that are written again once the run is at its end.
    """

    name: str
    reads: tuple[str, ...]
    made_from: tuple[str, ...]
    work: Callable[[Path], str]
    resumable: bool = True
    outcome: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


class _LeftError(Exception):
    """The work of a stage has ended, but not all of it could be done."""


class RunDirectory:
    """One run's folder, held by one process at a time: `with RunDirectory(path) as run: ...`."""

    def __init__(self, path: str | Path, verify: bool = False) -> None:
        """`verify`: finished stages are read in full even where they are only passed by."""
        self.path, self.verify = Path(path), verify
        self.unfinished: set[str] = set()  # stages that this process could not finish
        self._lock = filelock.FileLock(self.path / ".lock")
        self._holder = self.path / ".holder.json"

    def __enter__(self) -> Self:
        """The directory, made if needed, locked, and cleared of what a killed run left behind."""
        from_first(self._hold)
        _HELD.set(self.path)
        return self

    def _hold(self) -> None:
        self._check_folder()
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._acquire()
        try:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            write_atomic(self._holder, json.dumps(holder).encode())
            with disk_errors(self.path):
                recover(self.path)
            self.facts()  # can run.json be read?
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *error: object) -> None:
        if first():
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def folder(self, name: str) -> Path:
        """Where a stage lies, or will lie; a hidden place if this process could not finish it."""
        return partial_of(self.path, name) if name in self.unfinished else self.path / name

    def read(self, name: str) -> Path:
        """Where a finished stage lies, once its files are checked; an unfinished one as it is."""
        folder = self.folder(name)
        if name in self.unfinished:
            return folder
        if (seal := read_seal(folder)) is None:
            raise damaged(folder, "it holds no finished stage")
        check(folder, seal)
        return folder

    def finished(self, name: str, key: str) -> bool:
        """Whether the stage is complete and was made from exactly what `key` stands for."""
        return self._is_of(read_seal(self.folder(name)), key)

    def current(self, name: str, key: str) -> Path | None:
        """Where the stage made from `key` lies, finished or interrupted; None if it was not run."""
        if self.finished(name, key):
            return self.read(name)
        partial = partial_of(self.path, name)
        return partial if self._is_of(resume_of(partial), key) else None

    def carry(self, stage: Stage, key: str, beside: Sequence[Path] = ()) -> Path:
        """Do the work of `stage` unless it is done already, and say which; its folder.

        Work that another run, of those in `beside`, has done from the same things is taken over.
        """
        started = time.monotonic()
        if (known := from_first(lambda: self._known(stage, key, beside))) is not None:
            say(stage.name, known)
        else:
            with working(stage.name):
                said = self._do(stage, key)
                say(stage.name, f"{said}   {clock(time.monotonic() - started)}")
        return self.folder(stage.name)

    def _known(self, stage: Stage, key: str, beside: Sequence[Path]) -> str | None:
        """Where the work of a stage was done before, in words; None if it is still to be done."""
        folder = self.folder(stage.name)
        seal = read_seal(folder)
        if seal is not None and self._is_of(seal, key):
            check(folder, seal, full=self.verify)
            unknown = ", by an older version: its files cannot be checked" * (seal.files is None)
            return f"kept from before{unknown}"
        source = self._take_over(stage, key, beside)
        return None if source is None else f"as in {source}"

    def _do(self, stage: Stage, key: str) -> str:
        said, rest = "", (stage.resumable, stage.made_from, stage.outcome, stage.later)
        self.record(**this_machine())  # not where a folder is only read: chat, export, reports
        try:
            with self.stage(stage.name, key, *rest) as folder:
                said = stage.work(folder)
                rests_on_less = bool(self.unfinished.intersection(stage.made_from))
                if from_first(lambda: rests_on_less or (folder / FAILED).exists()):
                    raise _LeftError
        except _LeftError:
            self.unfinished.add(stage.name)
            said += "   not finished"
        return said

    def done(self, name: str, key: str, beside: Sequence[Path] = ()) -> bool:
        """Whether `carry` would have nothing to do but to take over."""
        return any(self._is_of(read_seal(run / name), key) for run in (self.path, *beside))

    def _take_over(self, stage: Stage, key: str, beside: Sequence[Path]) -> Path | None:
        """The run whose finished stage is now this one's as well, by hard links where possible."""
        name, rest = stage.name, (stage.made_from, stage.outcome, stage.later)
        for other in beside:
            if (seal := read_seal(other / name)) is not None and self._is_of(seal, key):
                with self._writing(name, key, False, *rest) as folder:
                    take(other / name, seal, folder)
                theirs = read_facts(other).get("stages", {}).get(name, {})  # none if deleted
                facts = self.facts()["stages"][name] | theirs | {"taken_from": str(other)}
                self.record(stages={name: facts})
                return other
        return None

    def _is_of(self, seal: Seal | None, key: str) -> bool:
        """Whether that was made from `key`, and from the stages as they are now.

        A stage that was done again, on another machine, may differ in its last bits.
        """
        if seal is None or seal.key != key:
            return False
        now = self.digests([*seal.made_from])
        return all(now.get(name, digest) == digest for name, digest in seal.made_from.items())

    def digests(self, names: Sequence[str]) -> dict[str, str]:
        """The digests of those of these stages that are finished."""
        seals = ((name, read_seal(self.folder(name))) for name in names)
        return {name: seal.digest for name, seal in seals if seal and seal.digest}

    @contextlib.contextmanager
    def stage(
        self,
        name: str,
        key: str,
        resumable: bool = False,
        made_from: Sequence[str] = (),
        outcome: Sequence[str] = (),
        later: Sequence[str] = (),
    ) -> Iterator[Path]:
        """A folder to write the stage into; it takes the stage's place once the block succeeds.

        If the block fails, what it wrote is deleted and an older finished stage stays as it was. A
        resumable stage keeps what it wrote: the next call with the same key and stages `made_from`
        gets that folder back, with everything in it (and the file RESUME, which is ours). Of
        several processes all but the first write into a copy of their own, which is thrown away.
        """
        rest = (name, key, resumable, made_from, outcome, later)
        with contextlib.ExitStack() as opened:
            place = Path(from_first(lambda: str(opened.enter_context(self._writing(*rest)))))
            folder = place if first() else opened.enter_context(copied(place))
            meet()  # nothing is written before all have their copy
            yield folder
            from_first(opened.close)

    @contextlib.contextmanager
    def _writing(
        self, name: str, key: str, resumable: bool, *files: Sequence[str]
    ) -> Iterator[Path]:
        """`stage` in the process that writes."""
        partial, (made_from, outcome, later) = partial_of(self.path, name), files
        with disk_errors(self.path):
            resumed = resumable and self._is_of(resume_of(partial), key)
            inputs = self.digests(made_from)
            check_ours(self.path / name, self.facts().get("stages", ()))
            try:
                (sweep if resumed else fresh)(partial)
                if resumable and not resumed:
                    write_atomic(partial / RESUME, Seal(key, inputs).text().encode())
                start = start_of(partial)
                yield partial
                sync_tree(partial)
                seal = seal_of(partial, key, inputs, outcome, later)
                write_atomic(partial / DONE, seal.text().encode())
            except BaseException as error:
                if not resumable and not isinstance(error, _LeftError):
                    clear(partial)
                raise
            publish(self.path, name)
        facts = {"key": key, "finished": _now(), "wall_seconds": round(time.time() - start, 3)}
        more = {"peak_memory_bytes": peak_memory(), "resumed": resumed}
        self.record(stages={name: facts | more})

    def facts(self) -> dict[str, Any]:
        """What run.json says so far."""
        return read_facts(self.path)

    def seconds(self) -> dict[str, float]:
        """Wall time of the stages that run.json knows of: of all, unless it was deleted."""
        return {n: stage["wall_seconds"] for n, stage in self.facts().get("stages", {}).items()}

    def record(self, **facts: Any) -> None:
        """Put facts into run.json in place of those of their names; `stages` are added to it."""
        if not first():
            return
        known = self.facts()
        if "stages" in facts:
            facts["stages"] = known.get("stages", {}) | facts["stages"]
        text = json.dumps(known | facts, indent=2, ensure_ascii=False)
        write_atomic(self.path / "run.json", f"{text}\n".encode())

    def check_free(self, stages: Sequence[str] = ()) -> None:
        """Raises the RunError that holding this folder, or writing these stages, would."""
        from_first(lambda: self._try_free(stages))

    def _try_free(self, stages: Sequence[str]) -> None:
        self._check_folder()
        with disk_errors(self.path):
            if (self.path / ".lock").exists():
                self._acquire()
                self._lock.release()
        for name in stages:
            check_ours(self.path / name, read_facts(self.path).get("stages", ()))

    def _check_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file. Choose another folder with run_dir=DIR.")

    def _acquire(self) -> None:
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise RunError(held_by(self.path, self._holder)) from None
        except IsADirectoryError:
            raise RunError(f"{self.path / '.lock'} is a folder. Delete it, then repeat.") from None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
