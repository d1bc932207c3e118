"""Which methods and tables can be asked for, in which words, and what a typo is answered."""

import pytest

from nt_jax import cli
from nt_jax.config.evaluation import CompareConfig
from nt_jax.config.load import load_config
from nt_jax.config.registry import METHODS, TABLES
from tests.commands import HEAVY, python


def chosen(*words: str) -> CompareConfig:
    return load_config("smollm2-135m", words).compare


def test_without_a_choice_the_usual_methods_and_the_main_table():
    asked_for = {"paper", "random", "ia3_full", "dpo"}
    usual = [n for n in METHODS if not n.endswith("_published") and n not in asked_for]
    assert len(usual) == 10 and chosen().methods == CompareConfig().methods == tuple(usual)
    assert chosen().tables == CompareConfig().tables == ("2",)


@pytest.mark.parametrize("text", ["scans, neurontune,scans", "[scans, neurontune, scans]"])
def test_methods_are_a_text_or_a_list_in_the_order_given_each_once(text):
    assert chosen(f"compare.methods={text}").methods == ("scans", "neurontune")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5,1", ("1", "5")),
        ("' 5 , 1,5,'", ("1", "5")),
        ("[5, 1, 5]", ("1", "5")),
        ("['5', 1]", ("1", "5")),
        ("5", ("5",)),
    ],
)
def test_tables_are_texts_or_numbers_sorted_each_once(text, expected):
    assert chosen(f"compare.tables={text}").tables == expected


@pytest.mark.parametrize("text", ["all", "[all]"])
def test_all_is_every_one(text):
    assert chosen(f"compare.methods={text}").methods == tuple(METHODS)
    assert chosen(f"compare.tables={text}").tables == tuple(TABLES)


def test_a_count_given_twice_is_one_row():
    """Two stages of one name would lay the same answers into the row twice."""
    config = CompareConfig(safety_counts=(9, 9, 3), utility_counts=(5, 5))
    assert (config.safety_counts, config.utility_counts) == ((9, 3), (5,))


KNOWN = ", ".join(METHODS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "neurontune,scnas"], "compare.methods[1] = 'scnas' (command line): did you"),
        (["--methods", "scnas"], "did you mean 'scans'?"),
        (["compare.methods=[scans, dnim]"], "did you mean 'dinm'?"),
        (["--methods", "zzz"], f"compare.methods[0] = 'zzz' (command line): known are {KNOWN}"),
        (["--methods", ","], "compare.methods = ',' (command line): known are neurontune, dinm"),
        (["compare.tables=[]"], "compare.tables = [] (command line): known are 1, "),
        (
            ["--tables", "1,9"],
            "compare.tables[1] = '9' (command line): known are 1, 2, 3, 4, 5, 6, 7",
        ),
        (["--tables", "2,all"], "'all' stands alone"),
        (["--tables", "al"], "compare.tables[0] = 'al' (command line): did you mean 'all'?"),
        (["compare.tables=2.5"], "compare.tables = 2.5 (command line): "),
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
