"""What a kill leaves of tuning: checkpoints that can be read, metrics cut back to them."""

import json
import shutil

import pytest

from nt_jax.errors import RunError
from nt_jax.run.stages import best_state
from nt_jax.train.state import History, read_history, restore
from tests.run import small


@pytest.mark.xdist_group("run")
def test_a_damaged_checkpoint_says_what_to_delete(finished, tmp_path):
    folder = shutil.copytree(finished.folder / "train" / "orbax", tmp_path / "orbax")
    config = small.settings(finished.recipe, finished.folder)
    like = best_state(config.tune, finished.folder / "select", finished.folder / "train")
    newest = max(folder.iterdir())
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size:
            file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(RunError, match=f"{newest} is damaged .* Delete it, then repeat"):
        restore(folder, like)
    shutil.rmtree(newest)
    state = restore(folder, like)
    assert state is not None and int(state.epoch) == small.EPOCHS - 1
    assert restore(tmp_path / "nowhere", like) is None


def test_metrics_are_cut_back_to_the_epoch_of_the_checkpoint(tmp_path):
    path = tmp_path / "train" / "metrics.jsonl"
    log = History(path, 0)
    assert log.base is None
    for epoch in range(4):
        log.write({"epoch": epoch, "loss": 1.0})
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    log = History(path, 2)
    assert log.base == {"epoch": 0, "loss": 1.0}
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1, 2]
    rows = read_history(path.parent, 1)
    assert [row.get("best") for row in rows] == [None, True, None]
