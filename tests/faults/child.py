"""One tiny run, or sweep, that ends itself at a point, or meets a full disk.

Points: `none`; `STAGE:MOMENT` with MOMENT in wrote (its work is done), marked (DONE is written),
renamed (it took its place); `append:N` after the Nth batch of answers; `epoch:N` after tuning
saved epoch N; `look:N` with the Nth look at lifts made and not written; `dropping:N` while it
deletes older states after epoch N; `full` a disk that is full at each stage in turn. It ends by a
signal, SIGKILL unless given; the word `nobody` gives up the rights of root instead. A run steps by
Adam, one of the command `default` as runs do unless told otherwise.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from nt_jax import rundir
from nt_jax.cli import main as command_line
from nt_jax.errors import RunError
from nt_jax.eval.answer_file import RecordFile
from nt_jax.rundir import RunDirectory
from nt_jax.train import level, state, tune
from tests.run import small

NOBODY = 65534
# A sweep of two cells, as short as it can be.
GRID = (
    "neurons.safety=9,14", "tune.epochs=2", "tune.validate_every=0", "tune.validation_answers=80",
)  # fmt: skip

LOOKS = ("tune.epochs=3", "tune.lifts=[0.25,0.5,0.75]")


def ending(number: int) -> Callable[[], None]:
    """What ends the process; a signal that is handled lets it go on to its end."""
    return lambda: os.kill(os.getpid(), number)


@contextlib.contextmanager
def at(point: str, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at a point of the run."""
    where, _, when = point.partition(":")
    with contextlib.ExitStack() as patches:

        def after(owner: object, name: str, reached: Callable[..., bool]) -> None:
            real = getattr(owner, name)

            def wrapped(*words, **more):
                found = real(*words, **more)
                if reached(*words):
                    end()
                return found

            patches.enter_context(mock.patch.object(owner, name, wrapped))

        appended, looked = iter(range(10**9)), iter(range(1, 10**9))
        match where, when:
            case "none", _:
                pass
            case "append", count:
                after(RecordFile, "append", lambda *_: next(appended) == int(count))
            case "epoch", count:
                after(tune, "save", lambda _, state: int(state.epoch) == int(count))
            case "look", count:
                after(level, "scored", lambda *_: next(looked) == int(count))
            case "dropping", count:
                name = f"{int(count) - state.KEPT:06d}"
                after(state.shutil, "rmtree", lambda path, *_: Path(path).name == name)
            case stage, "wrote":
                after(rundir, "sync_tree", lambda path: path.name == f".{stage}.tmp")
            case stage, "marked":
                after(
                    rundir,
                    "write_atomic",
                    lambda path, _: path.parts[-2:] == (f".{stage}.tmp", "DONE"),
                )
            case stage, "renamed":
                after(rundir, "publish", lambda _, name: name == stage)
            case _:
                raise ValueError(point)
        yield


def fill(folder: Path) -> Path:
    """A file that takes all room that is left on the disk."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"0" * 512)
    return path


def on_full_disks(recipe: Path, run_dir: Path) -> list[str]:
    """The run with a disk that fills up as each stage begins: what was said each time."""
    said = []
    for stage in small.STAGES:
        real, filled = RunDirectory.stage, []

        @contextlib.contextmanager
        def begin(self, name, *rest, stage=stage, real=real, filled=filled, **more):
            with real(self, name, *rest, **more) as folder:
                if name == stage:
                    filled.append(fill(run_dir.parent))
                yield folder

        with mock.patch.object(RunDirectory, "stage", begin):
            try:
                small.carry_on(small.settings(recipe, run_dir))
                said.append(f"{stage}: no error")
            except RunError as error:
                said.append(f"{stage}: {error}")
            finally:
                for path in filled:
                    path.unlink()
    small.carry_on(small.settings(recipe, run_dir))
    return said


def settings(command: str) -> tuple[str, ...]:
    """Those of a small run, of one by regression, or of a sweep, which takes an axis once."""
    if command == "default":
        return (*small.SETTINGS, *small.DECISION, *LOOKS)
    if command != "sweep":
        return small.SETTINGS
    taken = {word.partition("=")[0] for word in GRID}
    return (*(word for word in small.SETTINGS if word.partition("=")[0] not in taken), *GRID)


def main(
    recipe: Path, run_dir: Path, point: str, word: str = "SIGKILL", command: str = "train"
) -> int:
    """Exit code of the command line, if it gets that far."""
    if word == "nobody":
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if point == "full":
        print("\n".join(on_full_disks(recipe, run_dir)))
        return 0
    words = ["--config", str(recipe), *settings(command), "--run-dir", str(run_dir)]
    with at(point, ending(getattr(signal, word, signal.SIGKILL))), small.small_programs():
        return command_line("train" if command == "default" else command, words)
