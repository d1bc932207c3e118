"""What times programs on a card, run on a CPU; how their cost grows, counted by hand."""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from benchmarks import filling, gpu, gpu_timing, scaling
from benchmarks.h100_cases import Case, mesh_of
from benchmarks.h100_programs import programs
from benchmarks.models import SHAPES
from benchmarks.plan import Planned
from nt_jax.models.footprint import layer_parameters
from tests.test_benchmarks import last_line

ROOT = Path(__file__).parent.parent
TINY = ["--shapes", "tiny", "--repeats", "1"]


def made() -> dict[str, Callable[[], Case]]:
    """Every program of the made-up shape on one device."""
    return programs("tiny", lambda: mesh_of(jax.devices()[:1]))


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "benchmarks/gpu.py", "--json", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_programs_are_timed_on_whatever_device_there_is(tmp_path):
    table = tmp_path / "table.md"
    found = last_line("gpu", *TINY, "--only", "slopes,decode 64", "--table", str(table))
    assert [row["name"] for row in found["programs"]] == ["slopes", "decode 64"]
    assert found["left_out"] == [] and found["card"] == "cpu x 1"
    assert "no H100" in found["note"]
    for row in found["programs"]:
        assert row["model"] == "tiny" and row["measured_ms"] > row["floor_ms"] > 0
        assert row["ratio"] is None and row["modelled_ms"] is None
        assert 0 < row["needed_gib"] <= row["bytes_limit_gib"] and row["compile_s"] > 0
    lines = table.read_text().splitlines()
    assert lines[0].startswith(f"cpu x 1, {found['date']}, jax {jax.__version__}; this is no H100")
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| slopes", "| decode 64"]


@pytest.mark.parametrize(("why", "code"), [("error: XlaRuntimeError: no", 1), ("time: none", 0)])
def test_a_program_that_fails_is_a_row_and_the_exit_code(monkeypatch, capsys, why, code):
    left = {"name": "insert", "model": "tiny", "left_out": why}
    monkeypatch.setattr(gpu, "rows", lambda _: iter([left]))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", "--shapes", "tiny"])
    assert gpu.main() == code
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["left_out"] == [left]


def test_without_a_gpu_one_line_says_what_to_do():
    done = ran()
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no GPU" in line and "--shapes tiny" in line and "jax[cuda12]" in line


def test_what_there_is_no_time_for_is_left_out_by_name():
    asked = argparse.Namespace(shapes="tiny", only="", cards=1, repeats=1, seconds=0)
    found = list(gpu.rows(asked))
    assert sorted(row["name"] for row in found) == sorted(made())
    assert all(row["left_out"].startswith("time: ") for row in found)


def attempted(limit: int) -> dict:
    """`insert` on one device that has `limit` bytes."""
    make = made()["insert"]
    return gpu_timing.attempt("insert", "tiny", make, {}, limit, argparse.Namespace(repeats=1))


def test_what_does_not_fit_the_card_is_left_out_by_name():
    found = attempted(1 << 20)
    assert found["left_out"] == f"memory: {found['needed_gib']:.1f} GiB of 0.0"
    assert "measured_ms" not in found


@pytest.mark.parametrize(
    ("layout", "planned"), [((1, 2), "1x2x1"), ((2, 1), "2x1x1"), ((1, 1, 2), "2x1x2")]
)
def test_a_program_is_planned_for_the_mesh_that_it_runs_on(monkeypatch, layout, planned):
    asked = []

    def plan(cell):
        asked.append(cell["mesh"])
        return Planned(0, 0, 0)

    monkeypatch.setattr(gpu_timing, "planned", plan)
    case = programs("tiny", lambda: mesh_of(jax.devices()[:2], layout))["slopes"]()
    assert gpu_timing.needed("slopes", "tiny", case) > 0
    assert asked == [planned]


def test_an_h100_gets_a_ratio(monkeypatch):
    monkeypatch.setattr(gpu_timing, "is_h100", lambda: True)
    found = attempted(1 << 30)
    assert "left_out" not in found, found
    assert found["ratio"] == pytest.approx(found["measured_ms"] / found["floor_ms"], rel=0.2)
    shown = {"card": "NVIDIA H100 x 1", "date": "today", "jax": "1", "note": gpu.note()}
    shown |= {"programs": [found], "left_out": [found | {"left_out": "time: none"}]}
    assert f"| {found['measured_ms']} |" in gpu.table(shown)
    assert gpu.table(shown).endswith("Left out: insert tiny, time: none.\n")


def test_every_argument_of_every_program_has_a_value():
    for make in made().values():
        case = make()
        config = filling.model_of(case).config
        for argument, tree in filling.arguments_of(case).items():
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                filling.value_of(case, config, filling.name_of(path, argument), leaf)


def test_an_argument_that_nothing_knows_is_refused():
    make = made()["decode 64"]
    whole = jax.ShapeDtypeStruct((3,), "int32")
    with pytest.raises(ValueError, match="no value is known for unheard_of"):
        filling.value_of(make(), SHAPES["tiny"], "unheard_of", whole)


def test_the_flops_of_a_prompt_are_those_counted_by_hand():
    """Loops over layers are multiplied out: XLA's own count would have one layer."""
    sizes, config = scaling.Sizes(layers=3), SHAPES["tiny"]
    flops, held = scaling.cost("prefix", "tiny", sizes)
    tokens = sizes.prompt + sizes.answer - 1
    norms = 2 * config.width
    products = 2 * tokens * (layer_parameters(config) - norms)
    attention = 2 * 2 * config.heads * config.head_dim * tokens**2
    assert flops == 3 * (products + attention)
    assert held > 0


def test_exponents_of_known_growth():
    assert scaling.exponents([1, 2, 4], [3, 12, 48]) == pytest.approx((2, 2))
    fit, last = scaling.exponents([1, 2, 4], [10, 11, 22])
    assert fit == pytest.approx(math.log2(2.2) / 2) and last == pytest.approx(1)


def test_a_cell_above_its_bar_is_not_ok():
    square = [(float(n), n * n) for n in (512, 2048, 4096, 8192)]
    found = scaling.cell("prefix", "prompt tokens", [512, 2048, 4096, 8192], square)
    assert found["flops_exponent"] == 1 and found["bytes_exponent"] == 2 and not found["ok"]
    assert scaling.cell("prefix", "layers", [1, 2], [(1.0, 7), (2.0, 7)])["ok"]


def test_the_script_has_a_row_for_every_axis():
    words = ("--shape", "tiny", "--only", "decode", "--axes", "layers,K")
    found = last_line("scaling", *words, settings={})  # what is counted is optimised
    (row,) = found["cells"]  # decoding knows no inner steps
    assert (row["program"], row["axis"], row["points"]) == ("decode", "layers", [4, 8, 16])
    assert row["ok"] and 0.8 < row["flops_last"] <= 1.0
    assert json.dumps(row["bar"]) == json.dumps(scaling.Bar()._asdict())
