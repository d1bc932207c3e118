"""Run directories, damaged: refused, or what is exported from them is what the run found."""

import json
import shutil
from pathlib import Path

from hypothesis import strategies as st

from tests.faults import damage, readers
from tests.faults.box import OK, attempt
from tests.faults.target import Draw, Target

PARTS = ("select", "train", "run.json")  # what an export of factors is made from
OLDER = ("config", "keys", "hashes", "stages")  # what run.json of the version before this one has


def run_targets(whole: Path) -> dict[str, Target]:
    """Of a finished run: its files; a run of the version before; run.json as it is sent."""
    first = attempt(lambda: readers.read_run(whole))  # in a child: jax must not begin here
    shutil.rmtree(whole.parent / "out", ignore_errors=True)
    assert first.kind == OK, first.value

    def same(path: Path, found: bytes) -> None:
        assert found == first.value

    def copied(folder: Path) -> Path:
        return Path(shutil.copytree(whole, folder / "run", symlinks=True))

    def sent(folder: Path) -> Path:
        return Path(shutil.copy(whole / "run.json", folder / "run.json"))

    return {
        "run files": Target(copied, _any_file, readers.read_run, same, warm=False),
        "older run": Target(
            lambda folder: older(copied(folder)), _facts, readers.read_run, same, warm=False
        ),
        "sent run.json": Target(
            sent, lambda data, path: _json(data, path), readers.read_sent, warm=False
        ),
    }


def older(folder: Path) -> Path:
    """A run directory as the last version left it: nothing says what its files were."""
    for done in folder.glob("*/DONE"):
        done.write_text(json.loads(done.read_text())["key"])
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({name: facts[name] for name in OLDER}))
    return folder


def _any_file(data: Draw, path: Path) -> None:
    part = path / data.draw(st.sampled_from(PARTS))
    files = sorted(file for file in [part, *part.rglob("*")] if file.is_file())
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans()):
        damage.json_file(data, file)
    else:
        file.write_bytes(damage.bytes_of(data, content))
    if file.read_bytes() == content:
        file.unlink()


def _facts(data: Draw, path: Path) -> None:
    _json(data, path / "run.json")


def _json(data: Draw, file: Path) -> None:
    """Values of any depth: settings lie three levels deep."""
    facts = json.loads(file.read_text())
    if data.draw(st.integers(0, 2)) == 0:
        damage.json_file(data, file)
        return
    name = data.draw(st.sampled_from(sorted(facts)))
    deep = facts[name] and isinstance(facts[name], dict | list)
    facts[name] = damage.json_of(data, facts[name]) if deep else data.draw(damage.VALUES)
    file.write_text(damage.dumps(facts))
