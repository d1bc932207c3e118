"""A direction is pulled back through the inner steps as a meta-gradient is."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.data.training import evenly
from nt_jax.generate.chat import open_model
from nt_jax.train import outer
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    BEGINNINGS,
    CELLS,
    HARMFUL,
    HARMLESS,
    NESTED_HARMFUL,
    NESTED_HARMLESS,
    OWN,
)
from nt_jax.train.outer import (
    CHECKED,
    FIRST,
    RAISED,
    SHARES,
    Regression,
    adapted,
    bounded,
    measured_cells,
    pulled,
    rows_of,
    share_that_holds,
)
from nt_jax.train.slopes import DECISION, every_neuron, measured_slopes
from nt_jax.train.tuned_layers import TunedLayers
from tests import tiny
from tests.train.test_maml import (
    NEURONS,
    THETA,
    central_differences,
    meta_batch,
    model,
    options,
    relative,
)

WAY = np.random.default_rng(5).standard_normal(len(THETA))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_pulled_direction_is_the_slope_of_its_product_with_the_adapted_factors(x64, steps):
    lm, batch, exact = model(jnp.float64), meta_batch(), options(inner_steps=steps)

    def product(theta_P: np.ndarray) -> float:
        return float(WAY @ adapted(theta_P, lm, NEURONS, batch, exact))

    found_P = pulled(jnp.asarray(THETA), jnp.asarray(WAY), lm, NEURONS, batch, exact)
    assert relative(np.asarray(found_P), central_differences(product, THETA)) < 1e-6
    assert relative(np.asarray(found_P), WAY) > 1e-4  # the inner steps do count


@pytest.mark.parametrize("changes", [{"order": 1}, {"inner_steps": 0}])
def test_at_first_order_or_without_inner_steps_it_is_itself(x64, changes):
    lm, batch = model(jnp.float64), meta_batch()
    found_P = pulled(jnp.asarray(THETA), jnp.asarray(WAY), lm, NEURONS, batch, options(**changes))
    np.testing.assert_allclose(found_P, WAY, rtol=1e-12)


def test_the_pull_adds_a_quarter_of_a_step_at_most():
    first_P = jnp.array([3.0, 4.0])  # 5 long
    near_P, far_P = first_P + jnp.array([0.0, 1.2]), first_P + jnp.array([-30.0, 40.0])
    np.testing.assert_allclose(bounded(first_P, near_P), near_P, rtol=1e-6)
    np.testing.assert_allclose(bounded(first_P, far_P), [3 - 0.75, 4 + 1], rtol=1e-6)
    np.testing.assert_array_equal(bounded(first_P, first_P), first_P)


def test_a_harmless_request_is_measured_by_how_a_refusal_begins():
    model = open_model(str(tiny.checkpoint("smollm2")))
    texts = {
        ATTACKED_HARMFUL: "I'm sorry, but I can't", HARMFUL: "No",
        ATTACKED_HARMLESS: "I'm sorry, but I can't, so", HARMLESS: "I won't",
        NESTED_HARMFUL: "I'm sorry, but I can't", NESTED_HARMLESS: "I'm sorry, but I can't",
    }  # fmt: skip
    ids = {name: model.answer_ids(text)[:-1] for name, text in texts.items()}
    asked = {name: [("Why?", ids[name])] for name in texts}
    seen = []

    def measure(rows):
        seen.extend(model.text(row.answer) for row in rows)
        return np.arange(6.0), np.zeros((6, 2), np.float32)

    found = measured_cells(model, asked, TuneConfig(answer_tokens=64), measure)
    cut = [
        texts[ATTACKED_HARMFUL],
        "No",
        "I'm sorry",
        "I won't",
        texts[NESTED_HARMFUL],
        "I'm sorry",
    ]
    assert seen == cut
    assert [float(found.values[name][0]) for name in texts] == [0, 1, 2, 3, 4, 5]


def test_good_answers_to_bare_requests_count_from_where_the_untuned_model_begins_them():
    model = open_model(str(tiny.checkpoint("smollm2")))
    refusal = model.answer_ids("No, I can't")[:-1]
    good = [model.answer_ids(text)[:-1] for text in ("Once upon a time", "It rains when clouds")]
    cells = {name: [("Why?", refusal)] for name in CELLS} | {OWN: [("Why?", ids) for ids in good]}
    seen = []

    def measure(rows):
        return np.arange(float(len(rows))), np.ones((len(rows), 2), np.float32)

    def untuned(rows):
        seen.extend(list(row.answer) for row in rows)
        return np.full(len(rows), 1.5)

    found = measured_cells(model, cells, TuneConfig(answer_tokens=64), measure, untuned)
    assert seen == [list(good[1][:FIRST])] and len(good[1]) > FIRST  # one row an attack
    assert found.decided == (*CELLS, BEGINNINGS)
    assert found.values[BEGINNINGS] == [4 - 1.5] and found.values[HARMLESS] == [3.0]
    assert found.cells[BEGINNINGS].shape == (1, 2)


@pytest.mark.parametrize(("epoch", "prompts"), [(0, 3), (1, 4), (2, 8), (5, 8)])
def test_an_epoch_asks_for_as_many_prompts_of_each_cell_as_the_settings_say(
    monkeypatch, epoch, prompts
):
    class AskedError(Exception):
        pass

    def cell_rows(pools, count, turn):
        raise AskedError(count, turn)

    monkeypatch.setattr(outer, "cell_rows", cell_rows)
    config = TuneConfig(metric_requests=16, step_prompts=(0.75, 1, 2))
    lm, rest = model(), options(inner_steps=0)
    step = Regression(None, TunedLayers.of(lm, NEURONS), None, config, None).step
    with pytest.raises(AskedError) as asked:
        step(jnp.asarray(THETA, jnp.float32), meta_batch(), epoch, rest)
    assert asked.value.args == (prompts, epoch)


@pytest.mark.parametrize(
    ("good_up_to", "share", "looks"), [(1.0, 1.0, 1), (0.6, 0.5, 2), (0.3, 0.25, 3), (0.1, 0.0, 3)]
)
def test_a_step_that_raises_its_own_loss_is_taken_in_part(good_up_to, share, looks):
    """Harmful decisions rise with the step; past `good_up_to` all fall by five nats."""
    before, tried = {name: np.linspace(-3, -2, 12) for name in CELLS}, []

    def after(part):
        tried.append(part)
        fall = 5.0 * (part > good_up_to)
        harmful = (HARMFUL, ATTACKED_HARMFUL)
        return {name: value + part * (name in harmful) - fall for name, value in before.items()}

    assert share_that_holds(before, -2.0, TuneConfig(), after) == share
    assert tried == list(SHARES[:looks])


@pytest.mark.parametrize(("raised", "share"), [(0.9, 1.0), (1.1, 0.0)])
def test_a_tenth_of_a_nat_is_no_failure(raised, share):
    """Decisions far below b: there the loss of a cell grows as its decisions fall."""
    before = {name: np.full(3, -40.0) for name in (HARMFUL, ATTACKED_HARMFUL)}
    after = {name: value - raised * RAISED for name, value in before.items()}
    found = share_that_holds(before, -2.0, TuneConfig(safety_weight=1.0), lambda _: after)
    assert found == share


def test_a_step_into_nowhere_is_not_taken():
    before, lost = ({name: np.array([value]) for name in CELLS} for value in (-3.0, np.nan))
    assert share_that_holds(before, -2.0, TuneConfig(), lambda _: lost) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_is_held_to_some_of_its_prompts_at_the_factors_that_are_kept(monkeypatch, fails):
    """Whose decisions are measured forward: those that slopes come with, where nothing adapts."""
    chat = open_model(str(tiny.checkpoint("smollm2")))
    size, refusal = chat.lm.config, chat.answer_ids("No, I can't")[:-1]
    neurons = every_neuron(size.layers, size.neurons, 1)
    tuned, draw = TunedLayers.of(chat.lm, neurons), np.random.default_rng(0)
    theta_P = jnp.asarray(1 + 0.1 * draw.standard_normal(len(neurons)), jnp.float32)
    asked = {name: [(f"{name} {n}", refusal) for n in range(12)] for name in CELLS}
    asked |= {OWN: [("Why?", chat.answer_ids("It rains when clouds are heavy")[:-1])] * 16}
    config, seen = TuneConfig(answer_tokens=8, meta_lr=0.5), []

    def share(before, level, config, after):
        seen.append((before, after(0.0), after(1.0)))
        return 0.0 if fails else 1.0

    monkeypatch.setattr(outer, "cell_rows", lambda *_, **__: asked)
    monkeypatch.setattr(outer, "share_that_holds", share)
    none = options(inner_steps=0)
    way_P = jnp.asarray(draw.standard_normal(len(neurons)), jnp.float32)
    monkeypatch.setattr(outer, "direction", lambda *_, **__: (way_P, {"level": -2.0}))
    metric = SimpleNamespace(divide=lambda direction_P: direction_P)
    new_P, told = Regression(chat, tuned, None, config, metric).step(theta_P, None, 0, none)
    ((before, same, after),) = seen
    assert {name: len(each) for name, each in before.items()} == dict.fromkeys(CELLS, CHECKED)
    spread = {name: evenly(rows, CHECKED) for name, rows in asked.items()}
    few = rows_of(chat, spread, config)
    for name in CELLS:
        value_M, _ = measured_slopes(tuned, theta_P, few[name], DECISION)
        np.testing.assert_allclose(before[name], value_M, rtol=1e-5)
        np.testing.assert_array_equal(same[name], before[name])
        assert np.abs(after[name] - before[name]).min() > 1e-3
    assert told["share"] == (0.0 if fails else 1.0)
    np.testing.assert_array_equal(new_P, theta_P if fails else jnp.clip(theta_P + way_P, 0, 4))
