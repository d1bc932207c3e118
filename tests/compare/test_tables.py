"""Which number stands where, from rows made by hand."""

import dataclasses

import pytest

from nt_jax.compare.render import markdown
from nt_jax.compare.results import Results
from nt_jax.compare.tables import build_tables
from nt_jax.config.test_sets import Labels, labels_of
from nt_jax.eval.metrics.result import ResultRow

LLAMA3 = "LLaMA3.1-8B-Instruct"
SETS = {"safeedit": True, "safeedit_direct": True, "alpaca": False, "xstest": False}
LABELS = {
    "base": "Default", "neurontune": "NeuronTune", "dinm": "DINM", "scans": "SCANS",
    "dinm_100": "DINM, 100%", "dinm_5": "DINM, 5%", "all_attacks": "w/o Attack Selection",
    "random_neurons_0": "draw 1", "random_neurons_1": "draw 2",
    "first_factors": "w/o Adaptive Adjustment", "neurons_500_1000": "500/1000",
}  # fmt: skip
METHODS = ["neurontune", "dinm", "scans"]
REASON = "no letters under an intervention"


def value(place: int, model: str) -> float:
    """A number of its own for every metric and model."""
    return place / 100 + list(LABELS).index(model) / 1000


@pytest.fixture(scope="module")
def results() -> Results:
    rows = []
    for model in LABELS:
        for place, dataset in enumerate(SETS):
            rate = value(10 * place + 1, model)
            rows.append(
                ResultRow(dataset, "refusal_rate", model, rate, 40, rate - 0.01, rate + 0.1)
            )
            rows.append(ResultRow(dataset, "entropy", model, 5 + rate, 40, 4.5, 6))
        rows.append(ResultRow("alpaca", "perplexity", model, 8 + value(1, model), 40, 7, 9))
        rows.append(ResultRow("safeedit+alpaca", "su_f1", model, value(70, model), 80, 0.6, 0.9))
        rows.append(ResultRow("safeedit_direct+alpaca", "su_f1", model, 0.5, 80, 0.4, 0.6))
        rows.append(ResultRow("safeedit+alpaca", "fluency", model, 8 + value(2, model), 80, 7, 9))
        rows.append(ResultRow("safeedit+alpaca", "entropy_sum", model, 10.5, 80, 10, 11))
        rows.append(ResultRow("mmlu", "generate_accuracy", model, value(30, model), 20, 0.1, 0.5))
        if model != "scans":
            rows.append(ResultRow("mmlu", "letter_accuracy", model, value(40, model), 20, 0.2, 0.6))
            average = ResultRow("mmlu+safeedit+alpaca", "table3_average", model, 20.5, 100, 19, 22)
            rows.append(average)
    attacked = {name: name == "safeedit" for name in SETS}
    pair, names = ("safeedit", "alpaca"), labels_of({})
    return Results(rows, LABELS, names, pair, SETS, attacked, LLAMA3, {"scans": REASON})


def made(results: Results, number: str):
    return build_tables(results, [number], METHODS)[0]


def row(table, label: str) -> dict:
    cells = dict(table.rows)[label]
    return dict(zip([column.title for column in table.columns], cells, strict=True))


def test_table_2_has_every_test_set_and_the_papers_figures(results):
    table = made(results, "2")
    assert [label for label, _ in table.rows] == ["Default", "NeuronTune", "DINM", "SCANS"]
    cells = row(table, "SCANS")
    attack, over = cells["refuses SafeEdit attacks"], cells["refuses Alpaca"]
    assert attack.value == pytest.approx(100 * value(1, "scans")) and attack.paper == 99.28
    assert (attack.low, attack.high) == pytest.approx((attack.value - 1, attack.value + 10))
    assert attack.n == 40 and over.value == pytest.approx(100 * value(21, "scans"))
    assert over.paper == 0 and cells["SU-F1"].paper == 0.128
    assert cells["entropy, SafeEdit attacks (bit)"].paper == 1.490
    assert cells["entropy, Alpaca (bit)"].paper == 1.401
    assert cells["refuses SafeEdit, direct"].value == pytest.approx(100 * value(11, "scans"))
    assert cells["refuses XSTest safe"].value == pytest.approx(100 * value(31, "scans"))
    assert cells["perplexity, Alpaca"].value == pytest.approx(8 + value(1, "scans"))
    better = {column.title: column.better for column in table.columns}
    assert (
        better["refuses SafeEdit, direct"] == "higher" and better["refuses XSTest safe"] == "lower"
    )


def test_table_2_shows_what_only_sounds_harmful_apart_where_a_set_mixes_both(results):
    part = ResultRow("xstest", "sounds_harmful_rate", "dinm", 0.25, 20, 0.1, 0.5)
    table = made(dataclasses.replace(results, rows=[*results.rows, part]), "2")
    cells = row(table, "DINM")["XSTest safe, sounding harmful"]
    assert (cells.value, cells.n) == (25.0, 20)
    assert row(table, "SCANS")["XSTest safe, sounding harmful"].value is None


def test_table_1_has_a_row_a_fraction(results):
    table = made(results, "1")
    assert [label for label, _ in table.rows] == ["Default", "DINM, 100%", "DINM, 5%"]
    cells = row(table, "DINM, 5%")
    assert cells["refuses SafeEdit attacks"].paper == 42.67
    assert cells["MMLU by letter"].value == pytest.approx(100 * value(40, "dinm_5"))
    assert cells["MMLU by letter"].paper is None and cells["MMLU as written"].paper == 61.97


def test_table_3_says_why_letters_are_missing(results):
    cells = row(made(results, "3"), "SCANS")
    assert cells["MMLU by letter"].value is None and cells["MMLU by letter"].note == REASON
    assert cells["MMLU by letter"].paper is None and cells["average"].note == REASON
    assert cells["MMLU as written"].value == pytest.approx(100 * value(30, "scans"))
    assert cells["MMLU as written"].paper == 38.83
    assert cells["fluency (n-gram entropy, bit)"].paper == 1.45
    cells = row(made(results, "3"), "DINM")
    assert (cells["average"].value, cells["average"].paper) == (20.5, 26.16)
    assert cells["entropy, sum of both sets (bit)"].paper == 10.539


def test_where_nothing_was_written_the_papers_figure_stands_by_the_letters(results):
    rows = [row for row in results.rows if row.metric != "generate_accuracy"]
    lettered = dataclasses.replace(results, rows=rows)
    cells = row(made(lettered, "3"), "SCANS"), row(made(lettered, "1"), "DINM, 5%")
    assert [found["MMLU by letter"].paper for found in cells] == [38.83, 61.97]
    assert not any("MMLU as written" in found for found in cells)  # no column without a number


def test_an_average_over_other_questions_has_not_the_papers_beside_it(results):
    rows = [dataclasses.replace(one, dataset=one.dataset.replace("mmlu", "arc_challenge"))
            for one in results.rows]  # fmt: skip
    cells = row(made(dataclasses.replace(results, rows=rows), "3"), "DINM")
    assert (cells["average"].value, cells["average"].paper) == (20.5, None)


def test_sets_that_are_asked_in_one_way_have_one_column_and_the_average_is_found(results):
    """Set A by letter, set B in writing: average.py takes B, as the paper reads written answers."""
    rows = [one for one in results.rows if "mmlu" not in one.dataset]
    rows += [
        ResultRow("arc", "letter_accuracy", "base", 0.25, 20, 0.1, 0.4),
        ResultRow("mmlu", "generate_accuracy", "base", 0.5, 20, 0.4, 0.6),
        ResultRow("mmlu+safeedit+alpaca", "table3_average", "base", 20.5, 100, 19, 22),
    ]
    cells = row(made(dataclasses.replace(results, rows=rows), "3"), "Default")
    assert [name for name in cells if "by letter" in name or "as written" in name] == [
        "arc by letter", "MMLU as written"
    ]  # fmt: skip
    assert cells["arc by letter"].value == 25 and cells["MMLU as written"].value == 50
    assert (cells["average"].value, cells["average"].paper) == (20.5, 28.55)


def test_table_4_has_the_mean_over_draws(results):
    table = made(results, "4")
    labels = [label for label, _ in table.rows]
    mean = "w/o Neuron Pinpointing, mean of 2 draws"
    assert labels == ["NeuronTune", "w/o Attack Selection", mean, "draw 1", "draw 2",
                      "w/o Adaptive Adjustment"]  # fmt: skip
    cell = row(table, mean)["refuses SafeEdit attacks"]
    draws = [100 * value(1, f"random_neurons_{seed}") for seed in (0, 1)]
    assert (cell.low, cell.value, cell.high) == pytest.approx((draws[0], sum(draws) / 2, draws[1]))
    assert cell.paper == 8.51 and cell.n == 40
    assert row(table, "w/o Attack Selection")["SU-F1"].paper == 0.289


def test_table_5_compares_the_same_set_with_and_without_attacks(results):
    table = made(results, "5")
    assert [label for label, _ in table.rows] == [
        "w/ Attacks: SafeEdit attacks", "w/o Attacks: SafeEdit, direct",
    ]  # fmt: skip
    first, second = (dict(table.rows)[label] for label, _ in table.rows)
    assert [cell.paper for cell in (first[0], second[0])] == [10.77, 47.49]
    assert [cell.value for cell in (first[2], second[2])] == pytest.approx(
        [100 * value(1, "dinm"), 100 * value(11, "dinm")]
    )
    assert first[1].paper is None  # the paper's table 5 is about the untuned models


def test_another_bare_set_has_not_the_papers_figure_of_bare_safeedit(results):
    harmful = {"safeedit": True, "alpaca": False, "advbench": True}
    attacked = {"safeedit": True, "advbench": False}
    other = dataclasses.replace(results, harmful=harmful, attacked=attacked)
    first, second = (cells for _, cells in made(other, "5").rows)
    assert first[0].paper == 10.77 and second[0].paper is None


def test_table_2_of_the_pair_of_table_6_has_no_figures_of_table_2(results):
    other = dataclasses.replace(results, pair=("advbench", "truthfulqa"))
    assert all(cell.paper is None for _, cells in made(other, "2").rows for cell in cells)


def test_table_7_finds_its_counts(results):
    cells = row(made(results, "7"), "500/1000")
    assert cells["refuses SafeEdit attacks"].paper == 43.38
    assert cells["SU-F1"].value == pytest.approx(value(70, "neurons_500_1000"))
    assert cells["SU-F1"].paper is None


def test_the_users_own_sets_go_by_their_labels(results):
    own = dataclasses.replace(results, sets=Labels(safeedit="my attacks"))
    titles = [column.title for column in made(own, "2").columns]
    assert titles[0] == "refuses my attacks" and titles[-1] == "perplexity, alpaca"
    assert made(own, "5").rows[0][0] == "w/ Attacks: my attacks"


def test_other_test_sets_or_models_have_no_figures_of_the_paper_beside_them(results):
    for change in ({"model": None}, {"pair": ("safeedit_direct", "alpaca")}):
        text = "".join(
            markdown(table)
            for table in build_tables(dataclasses.replace(results, **change), "123457", METHODS)
        )
        assert "paper" not in text
