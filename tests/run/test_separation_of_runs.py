"""benchmarks/separation.py on a finished run: the last epoch again, and what ships beside it."""

import json

from benchmarks import separation
from nt_jax.train.separation import PAIRS


def test_the_last_epoch_is_measured_as_the_run_measured_it(finished, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["separation.py", str(finished.folder)])
    separation.main()
    *table, last = capsys.readouterr().out.splitlines()
    (found,) = json.loads(last).values()
    rows = (finished.folder / "train" / "metrics.jsonl").read_text().splitlines()
    measured = json.loads(rows[-1])
    assert found["last epoch"] == {name: measured[f"separation_{name}"] for name in PAIRS}
    assert found["untuned"] != found["shipped"] and found["shipped"].keys() == {*PAIRS}
    assert any("shipped" in line for line in table)
