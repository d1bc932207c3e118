"""Grids on the command line: what is an axis, which cells it spans, mistakes in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax import cli
from nt_jax.config.grid import MOST_CELLS, STRENGTHS, cells_of, read_axes
from nt_jax.errors import ConfigError

RECIPE = "smollm2-135m"


def test_several_values_are_an_axis_and_one_value_is_a_setting():
    axes, rest = read_axes(
        ["neurons.safety=5, 6", "seed=3", "tune.strengths=[1,2]", "name='a,b'",
         "tune.outer=adam,sgd", "tune.factor_max=null,4"]
    )  # fmt: skip
    assert axes == {
        "neurons.safety": ["5", "6"], "tune.outer": ["adam", "sgd"],
        "tune.factor_max": ["null", "4"],
    }  # fmt: skip
    assert rest == ["seed=3", "tune.strengths=[1,2]", "name='a,b'"]


def test_lists_can_be_the_values_of_an_axis():
    axes, _ = read_axes(["tune.strengths=[1,2],[3],[]"])
    cells = cells_of(RECIPE, axes, [])
    assert [cell.config.tune.strengths for cell in cells] == [(1.0, 2.0), (3.0,), ()]
    assert len({cell.name for cell in cells}) == 3


def test_cells_are_all_combinations_and_everything_else_is_the_same():
    axes, rest = read_axes(["neurons.safety=5,6", "neurons.utility=7,8,9", "seed=4"])
    cells = cells_of(RECIPE, axes, rest)
    found = [(cell.config.neurons.safety, cell.config.neurons.utility) for cell in cells]
    assert found == [(s, u) for s in (5, 6) for u in (7, 8, 9)]
    assert cells[1].name == "safety-5_utility-8" and {cell.config.seed for cell in cells} == {4}
    others = {
        json.dumps(cell.config.model_copy(update={"neurons": None}).model_dump(mode="json"))
        for cell in cells
    }
    assert len(others) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["neurons.safety=5"], "nothing to sweep (command line)"),
        ([], "nothing to sweep (command line)"),
        (["seed=1,2"], "seed cannot differ between cells"),
        (["data.harmful.limit=1,2"], "cannot differ between cells"),
        (["tune.max_over_refusal=0.1,0.2"], "tune.max_over_refusal cannot differ between cells"),
        (["neurons.saftey=1,2"], "unknown key 'neurons.saftey' (command line): did you mean"),
        (["neurons.safety=1,,2"], "a value is missing between two commas"),
        (["neurons.safety=1,x"], "neurons.safety = 'x' (command line)"),
        (["neurons.safety=1,-2"], "neurons.safety = -2 (command line)"),
        (["neurons.safety=5,5"], "neurons.safety=5 is the same cell as neurons.safety=5"),
        (["tune.safety_weight=0.5,0.50"], "is the same cell as tune.safety_weight=0.5"),
        (["neurons.safety=1,2", "neurons.safety=3,4"], "neurons.safety is given twice"),
        (["neurons.safety=1,2", "neurons.safety=7"], "neurons.safety is given twice"),
        (["neurons.safety=7", "neurons.safety=1,2"], "neurons.safety is given twice"),
        (["neurons.safety=1,2", "tune.validation_answers=0"], "cells are compared on validation"),
        (
            [f"neurons.safety={','.join(map(str, range(1, 32)))}",
             f"neurons.utility={','.join(map(str, range(1, 32)))}"],
            f"961 cells (command line): a grid may have {MOST_CELLS}",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_work(words, message, capsys):
    assert cli.main("sweep", ["--config", RECIPE, *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and message in shown.err and shown.out == ""


def test_a_sweep_without_a_recipe_says_so(capsys):
    assert cli.main("sweep", ["neurons.safety=1,2"]) == 2
    assert "--config is missing" in capsys.readouterr().err


def test_a_dry_run_lists_the_cells_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config", RECIPE, "neurons.safety=5,6", "tune.epochs=1,2", "--dry-run"]
    assert cli.main("sweep", words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "neurons.safety=5 tune.epochs=1" and lines[-1].startswith("4 cells")
    assert list(tmp_path.iterdir()) == []


def test_cells_look_at_strengths_unless_something_is_said_of_them():
    axes, _ = read_axes(["neurons.safety=5,6"])
    said = {
        (): STRENGTHS,
        ("tune.strengths=[]",): (),
        ("tune.strengths=[2]",): (2.0,),
        ("tune.algorithm=paper",): (),
    }
    for rest, expected in said.items():
        cells = cells_of("smollm2-135m", axes, rest)
        assert [cell.config.tune.strengths for cell in cells] == [expected] * 2


KEYS = st.sampled_from(["neurons.safety", "tune.epochs", "seed", "tune.strengths", "x", "", "data"])
TEXTS = st.text(st.sampled_from("0123456789,.-[]{}'\"\\ :#=axnul\n\t%é"), max_size=24)


@given(st.lists(st.tuples(KEYS, st.sampled_from(["=", "", "=="]), TEXTS), max_size=3))
def test_whatever_is_typed_gives_cells_or_an_error_of_ours(parts):
    words = ["".join(part) for part in parts]
    try:
        axes, rest = read_axes(words)
        cells = cells_of(RECIPE, axes, rest)
    except ConfigError as error:
        assert str(error).strip()
        return
    assert len(cells) >= 2
    assert all(cell.name and not set(cell.name) & set("/\\ \n\t") for cell in cells)
