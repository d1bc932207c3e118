"""One point a method: the lesser rightful rate against the largest wrongful rise."""

import dataclasses

import numpy as np
import pytest

from nt_jax.compare.method import SECONDS, TRIED, learned_numbers
from nt_jax.compare.results import Results
from nt_jax.compare.tables import build_tables
from nt_jax.compare.trade_off import explained, points, trade_off_png
from nt_jax.config.test_sets import labels_of
from nt_jax.eval.metrics.result import ResultRow
from nt_jax.models.neurons import Factors
from nt_jax.train.slopes import every_neuron

SETS = {"demo_prefilled": True, "demo_attack": True, "demo_direct": True, "alpaca": False,
        "xstest": False}  # fmt: skip
LABELS = {"base": "Default", "lora": "LoRA", "scans": "SCANS"}


@pytest.fixture
def results() -> Results:
    rates = {"base": (0.5, 0.1, 0.2), "lora": (0.9, 0.8, 0.6), "scans": (0.9, 0.3, 0.9)}
    rows = [
        ResultRow(name, "refusal_rate", model, rate, 40, rate - 0.05, rate + 0.1)
        for model, mine in rates.items()
        for name, rate in zip(SETS, mine, strict=False)
    ]
    rises = {"lora": (0.02, 0.12), "scans": (0.05, -0.1)}
    rows += [
        ResultRow(name, "refusal_change", model, rise, 40, rise - 0.02, rise + 0.03)
        for model, mine in rises.items()
        for name, rise in zip(("alpaca", "xstest"), mine, strict=True)
    ]
    attacked = {name: name == "demo_attack" for name in SETS}
    costs = {"lora": (1234, 56.0)}
    return Results(
        rows,
        LABELS,
        labels_of({}),
        ("demo_attack", "alpaca"),
        SETS,
        attacked,
        begun={"demo_prefilled"},
        costs=costs,
    )  # fmt: skip


def test_the_weaker_rate_and_the_worse_rise_make_the_point(results):
    base, lora, scans = points(results, [*LABELS])
    # begun answers stand first among the bare sets, and are no bare requests
    assert results.harmful_pair == ("demo_attack", "demo_direct")
    assert base.rise == (0, 0, 0) and base.refused == pytest.approx((10, 5, 20))
    assert lora.refused == pytest.approx((60, 55, 70))
    assert lora.rise == pytest.approx((12, 10, 15))
    assert scans.refused == pytest.approx((30, 25, 40))
    assert scans.rise == pytest.approx((5, 3, 8))
    assert trade_off_png([base, lora, scans]).startswith(b"\x89PNG")
    assert "unseen attacks and direct harmful requests" in explained(results)


def test_without_bare_harmful_sets_or_harmless_ones_there_is_no_point(results):
    attacks = {"demo_attack": True, "alpaca": False}
    assert points(dataclasses.replace(results, harmful=attacks), [*LABELS]) == []
    harmful = {name: True for name in ("demo_attack", "demo_direct")}
    assert points(dataclasses.replace(results, harmful=harmful), [*LABELS]) == []


def test_table_2_says_what_learning_cost(results):
    (table,) = build_tables(results, ["2"], ["lora", "scans"])
    titles = [column.title for column in table.columns]
    assert titles[-2:] == ["numbers learned", "seconds to learn"]
    cells = {label: [cell.value for cell in row[-2:]] for label, row in table.rows}
    assert cells == {"Default": [None] * 2, "LoRA": [1234, 56.0], "SCANS": [None] * 2}
    assert "refuses direct, answer begun" in titles
    (without,) = build_tables(dataclasses.replace(results, costs={}), ["2"], ["lora"])
    assert len(without.columns) == len(titles) - 2


def test_places_of_neurons_are_not_learned_numbers():
    factors = Factors(every_neuron(2, 3, 1), np.ones(3, np.float32))
    more = {TRIED: np.asarray(3), SECONDS: np.asarray(1.5)}
    assert learned_numbers(factors.arrays() | more) == 3
