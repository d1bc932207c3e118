"""Which methods and tables can be asked for, and what a typo is answered."""

import pytest

from nt_jax import cli
from nt_jax.compare.names import METHODS, TABLES, chosen_methods, chosen_tables
from tests.test_cli import HEAVY, python


def test_without_a_choice_all_methods_and_the_main_table():
    assert chosen_methods(None) == tuple(METHODS)
    assert chosen_tables(None) == ("2",)


def test_choices_are_read_with_blanks_and_repeats():
    assert chosen_methods("scans, neurontune,scans") == ("scans", "neurontune")
    assert chosen_tables("5,1") == ("1", "5")
    assert chosen_tables("all") == tuple(TABLES) and chosen_methods("all") == tuple(METHODS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--methods", "neurontune,scnas"],
            "no method is called 'scnas' (--methods): did you mean",
        ),
        (["--methods", "scnas"], "'scans'?"),
        (["--methods", "zzz"], "choose of neurontune, dinm, scans, cavgan, system_prompt, descent"),
        (["--methods", ","], "--methods is empty (command line): name one of neurontune, dinm"),
        (
            ["--tables", "1,9"],
            "no table is called '9' (--tables): choose of 1, 2, 3, 4, 5, 6, 7",
        ),
        (["--tables", "2,all"], "--tables: 'all' stands alone, not as in '2,all'"),
        (["--tables", "al"], "no table is called 'al' (--tables): did you mean 'all'?"),
        (
            ["--method", "dinm"],
            "unknown option '--method' (command line): did you mean '--methods'?",
        ),
        (["compare.serch=3"], "unknown key 'compare.serch' (command line): did you mean"),
        (["compare.search=0"], "compare.search = 0 (command line): must be greater than or equal"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert cli.main("compare", ["--config", "smollm2-135m", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("nt_jax: ") and message in shown.err


def test_a_wrong_method_is_told_before_anything_heavy_is_imported():
    code = (
        "import sys\nfrom nt_jax.cli import main\n"
        "main('compare', ['--config', 'smollm2-135m', '--methods', 'scnas'])\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "heavy: []"
