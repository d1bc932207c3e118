"""The record of compiled programs, its bars and its table in the docs."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import h100

ROOT = Path(__file__).parent.parent


def row(program: str, ratio: float, **rest) -> h100.Row:
    """A row of 8B on one card, but for what the compiler says."""
    return {"program": program, "shape": h100.EIGHT, "cards": 1, "ratio": ratio, **rest}


def test_a_bar_is_met_up_to_its_figure():
    assert h100.bars_of(row("prefill", 1.5)) == {"bars": {"ratio": 1.5}, "met": True}
    assert h100.bars_of(row("prefill", 1.51))["met"] is False
    step = row("meta-step 4 beside", 2.0, temporaries_gib=4.01)
    assert h100.bars_of(step)["met"] is False
    assert h100.bars_of(row("score", 9)) == {}


def test_every_bar_is_of_a_program_of_the_default_set():
    assert all(key in h100.DEFAULT or key[1:] == (h100.EIGHT, 1) for key in h100.BARS)


def test_the_table_marks_what_misses_and_what_the_compiler_refused():
    made = {"temporaries_gib": 1, "planned_gib": 1, "modelled_ms": 3, "floor_ms": 1}
    made |= {"kernels": 1000, "collective_gb": 0, "compile_s": 9}
    missed = row("prefill", 3, **made)
    rows = [missed | h100.bars_of(missed), row("score", 3, error="no")]
    lines = h100.table({"programs": rows}).splitlines()[2:]
    assert (
        lines[0]
        == "| prefill | llama3-8b | 1 | 1 | 1 | 3 | 1 | **3** | 1,000 | 0 | 9 | ratio 1.5 |"
    )
    assert lines[1] == "| score | llama3-8b | 1 | no |"


def test_the_docs_show_the_record_and_it_is_whole():
    """Every program of the default set, none with an error, each against its bar as it is now."""
    command = [sys.executable, "-W", "ignore", "benchmarks/h100.py", "--recorded", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    shown, _, line = done.stdout.strip().rpartition("\n")
    found = json.loads(line)
    assert shown in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = found["programs"]
    keys = {(r["program"], r["shape"], r["cards"]) for r in rows}
    assert keys >= h100.DEFAULT | set(h100.BARS)
    assert not [r for r in rows if "error" in r]
    for r in rows:
        assert r.get("met") == h100.bars_of(r).get("met")
        if r["program"] != "insert":
            held = r["arguments_gib"] + r["temporaries_gib"]
            assert abs(r["planned_gib"] - r["temporaries_gib"]) <= 0.2 * held, r
