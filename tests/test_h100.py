"""The record of compiled programs, its bars and its table in the docs; choices that are refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import h100, plan, scaling

ROOT = Path(__file__).parent.parent


NAMES = {"shape": h100.EIGHT, "cards": 1}


def row(program: str, ratio: float, **rest) -> h100.Row:
    """A row of 8B on one card, but for what the compiler says."""
    return {"program": program, "ratio": ratio, **NAMES, **rest}


@pytest.mark.parametrize(
    ("tool", "words", "told"),
    [
        (h100, "--record --only decode", "--record keeps the default set"),
        (h100, "--record --recorded", "--record keeps the default set"),
        (h100, "--recorded --only decode", "--recorded prints the default set"),
        (plan, "--shapes llama3.1-70b", "say what to --compile"),
    ],
)
def test_a_part_is_no_record_and_a_record_has_no_part(monkeypatch, capsys, tool, words, told):
    monkeypatch.setattr(sys, "argv", ["a.py", *words.split()])
    with pytest.raises(SystemExit):
        tool.arguments()
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--cards 3", "h100.py: --cards 3: one of 1, 2, 4, 8"),
        ("--shapes llama", "h100.py: --shapes llama: one of tiny, llama3-8b"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(monkeypatch, words, told):
    monkeypatch.setattr(sys, "argv", ["h100.py", *words.split()])
    with pytest.raises(SystemExit, match=re.escape(told)):
        next(h100.chosen(h100.arguments()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--shapes llama", "plan.py: --shapes llama: one of tiny, llama3-8b"),
        ("--programs meta", "plan.py: --programs meta: one of meta-step, "),
        ("--meshes 2x", "plan.py: --meshes 2x: as in 1x1,2x4,1x1x8"),
    ],
)
def test_a_cell_that_is_not_known_is_refused_in_one_line(monkeypatch, words, told):
    monkeypatch.setattr(sys, "argv", ["plan.py", "--compile", *words.split()])
    with pytest.raises(SystemExit, match=re.escape(told)):
        plan.check(plan.arguments())


@pytest.mark.parametrize(("flag", "of"), [("--only", "prefix"), ("--axes", "layers")])
def test_a_growth_that_is_not_known_is_refused_in_one_line(monkeypatch, flag, of):
    monkeypatch.setattr(sys, "argv", ["scaling.py", flag, "nothing"])
    with pytest.raises(SystemExit, match=f"scaling.py: {flag} nothing: .*one of {of}, "):
        next(scaling.cells(scaling.arguments()))


def test_a_bar_is_met_up_to_its_figure():
    assert h100.bars_of(row("prefill", 1.5)) == {"bars": {"ratio": 1.5}, "met": True}
    assert h100.bars_of(row("prefill", 1.51))["met"] is False
    step = row("meta-step 4 beside", 2.0, temporaries_gib=4.01)
    assert h100.bars_of(step)["met"] is False
    assert h100.bars_of(row("score", 9)) == {}
    assert h100.bars_of({**NAMES, "program": "prefill", "error": "no"})["met"] is False


def test_every_bar_is_of_a_program_of_the_default_set():
    assert all(key in h100.DEFAULT or key[1:] == (h100.EIGHT, 1) for key in h100.BARS)


def test_the_table_marks_what_misses_and_what_the_compiler_refused():
    made = {"temporaries_gib": 1, "planned_gib": 1, "modelled_ms": 3, "floor_ms": 1}
    made |= {"kernels": 1000, "collective_gb": 0, "compile_s": 9}
    missed = row("prefill", 3, **made)
    rows = [missed | h100.bars_of(missed), row("score", 3, error="no")]
    lines = h100.table({"programs": rows}).splitlines()[2:]
    cells = "| prefill | llama3-8b | 1 | 1 | 1 | 3 | 1 | **3** | 1,000 | 0 | 9 | ratio 1.5 |"
    assert lines[0] == cells
    assert lines[1] == "| score | llama3-8b | 1 | no |"


def test_the_docs_show_the_record_and_it_is_whole():
    """Every program of the default set, none with an error, each against its bar as it is now."""
    command = [sys.executable, "-W", "ignore", "benchmarks/h100.py", "--recorded", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    shown, _, line = done.stdout.strip().rpartition("\n")
    found = json.loads(line)
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    minutes, seconds = divmod(found["seconds"], 60)
    assert shown in page and f"(commit {found['commit']}, " in page and "-" not in found["commit"]
    assert f"{minutes} min {seconds} s for all" in page
    rows = found["programs"]
    keys = {(r["program"], r["shape"], r["cards"]) for r in rows}
    assert keys >= h100.DEFAULT | set(h100.BARS)
    assert not [r for r in rows if "error" in r]
    for r in rows:
        assert {key: r[key] for key in ("bars", "met") if key in r} == h100.bars_of(r)
        if (r["program"], r["cards"]) != ("insert", 8):
            held = r["arguments_gib"] + r["temporaries_gib"]
            assert abs(r["planned_gib"] - r["temporaries_gib"]) <= 0.2 * held, r
