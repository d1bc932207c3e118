"""Which methods a comparison fits, and that nobody has fewer settings to try than another."""

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from nt_jax.attribution.attack_selection import choose_templates
from nt_jax.baselines.descent import likelihoods
from nt_jax.baselines.examples import best_threshold
from nt_jax.baselines.ia3 import DOWN, FULL, Ia3
from nt_jax.baselines.scans import harm_scores
from nt_jax.compare import bench
from nt_jax.compare.lineup import needed
from nt_jax.compare.method import Method, UnusableMethodError, UnusableSettingError
from nt_jax.compare.methods import ablations, adapters, dinm, dpo, nest, neurontune
from nt_jax.compare.methods.scans import scans
from nt_jax.config import registry
from nt_jax.config.evaluation import MOST_SETTINGS, ExportConfig
from nt_jax.config.load import load_config
from nt_jax.config.registry import METHODS, MethodLine, load
from nt_jax.config.schema import (
    AttributionConfig,
    CompareConfig,
    EvalConfig,
    NeuronsConfig,
    RunConfig,
    TuneConfig,
)
from nt_jax.data.sources import load_templates
from nt_jax.errors import DivergedError, RunError
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import ChatModel, load_model
from nt_jax.models.neurons import NeuronSet
from tests import tiny
from tests.baselines import made_up

CONFIG = CompareConfig(random_seeds=2, safety_counts=(3, 4), utility_counts=(5,))


def names(methods, tables) -> list[str]:
    config = CONFIG.model_copy(update={"methods": methods, "tables": tables})
    return [method.name for method in needed(config)]


def test_every_method_has_as_many_settings_as_may_be_asked_for():
    most = MOST_SETTINGS
    CompareConfig(search=most)
    with pytest.raises(ValidationError):
        CompareConfig(search=most + 1)
    for name, line in METHODS.items():
        method = load(line.maker)()
        assert method.name == name and method.label == line.label
        settings = [json.dumps(setting) for setting in method.settings]
        assert len(set(settings)) == len(settings) == (most if line.searched else 1), name
        assert all(set(method.fit_on) <= set(setting) for setting in method.settings)


def test_tables_bring_the_methods_that_they_are_made_of():
    assert names(("scans", "neurontune"), ("2",)) == ["neurontune", "scans"]
    fractions = [f"dinm_{percent}" for percent in (100, 50, 20, 10, 5)]
    assert names((), ("1",)) == ["dinm", *fractions]
    parts = ["all_attacks", "random_neurons_0", "random_neurons_1", "first_factors"]
    assert names(("dinm",), ("4",)) == ["neurontune", "dinm", *parts]
    assert names((), ("7",)) == ["neurontune", "neurons_3_5", "neurons_4_5"]


def test_the_variants_are_labelled_as_the_paper_writes_them():
    config = CONFIG.model_copy(update={"methods": (), "tables": ("1", "4", "7")})
    assert [method.label for method in needed(config)] == [
        "NeuronTune", "DINM", "DINM, 100%", "DINM, 50%", "DINM, 20%", "DINM, 10%", "DINM, 5%",
        "w/o Attack Selection", "w/o Neuron Pinpointing, draw 1", "w/o Neuron Pinpointing, draw 2",
        "w/o Adaptive Adjustment", "3/5", "4/5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "expected"), [((1, 1), (1.2, 0.9)), ((1.5, 1), (1.5, 0.9)), ((1, 0.6), (1.2, 0.6)),
                          ((1.6, 0.6), (1.6, 0.6)), ((0.9, 1.3), (0.9, 1.3))]
)  # fmt: skip
def test_the_first_factors_are_the_recipes_own_unless_they_are_1(own, expected):
    tune = TuneConfig(init_safety=own[0], init_utility=own[1])
    neurons = NeuronSet(np.zeros(3, np.int32), np.arange(3), np.array([True, False, False]))
    run = SimpleNamespace(seconds=dict)
    data = SimpleNamespace(neurons=neurons, config=SimpleNamespace(tune=tune), run=run)
    learned = ablations.without_adjustment().fit(data, {}, Path())
    np.testing.assert_array_equal(
        learned["theta_P"], np.float32([expected[0], expected[1], expected[1]])
    )


def test_what_follows_a_method_comes_after_it():
    methods = needed(CONFIG.model_copy(update={"methods": (), "tables": tuple("1234567")}))
    order = [method.name for method in methods]
    for method in methods:
        if method.follows is not None:
            assert order.index(method.follows) < order.index(method.name)
    assert len(set(order)) == len(order)


def test_a_method_is_one_file_and_one_line_of_the_table(monkeypatch):
    """The settings know its name, and the lineup makes it, with nothing else changed."""
    file = ModuleType("nt_jax.compare.methods.my_method")

    def my_method() -> Method:
        return Method("mine", METHODS["mine"].label, lambda *_: {}, lambda *_: None)

    file.__dict__["my_method"] = my_method
    monkeypatch.setitem(sys.modules, file.__name__, file)
    line = MethodLine("My method", "nt_jax.compare.methods.my_method:my_method")
    monkeypatch.setitem(registry.METHODS, "mine", line)
    config = load_config("smollm2-135m", ["compare.methods=mine,scans"]).compare
    assert [(method.name, method.label) for method in needed(config)] == [
        ("scans", "SCANS"), ("mine", "My method"),
    ]  # fmt: skip
    every = load_config("smollm2-135m", ["compare.methods=all"]).compare
    assert [method.name for method in needed(every)] == [*METHODS] and "mine" in METHODS


def test_table_7_takes_the_runs_own_numbers_of_neurons_from_the_run(monkeypatch):
    config = RunConfig.model_construct(
        neurons=NeuronsConfig(safety=3, utility=5), export=ExportConfig()
    )
    run = SimpleNamespace(read=Path)
    data = SimpleNamespace(config=config, run=run)
    monkeypatch.setattr(ablations, "learned_in_run", lambda found: found)
    own, other = ablations.counts(3, 5), ablations.counts(5, 3)
    assert own.fit(data, {}, Path()) is data
    assert own.answered(data, *own.settings) == (Path("tuned"), "tuned")
    assert other.answered(data, *other.settings) is None
    found = []
    monkeypatch.setattr(ablations, "learned_in_cell", lambda *asked: found.append(asked) or {})
    assert other.fit(data, {}, Path()) == {}
    assert found == [(data, "5-3", {"safety": 5, "utility": 3})]
    turned = config.model_copy(update={"export": ExportConfig(strength=0.5)})
    data = SimpleNamespace(config=turned, run=run)  # no cell is at that strength
    assert own.fit(data, {}, Path()) == {} and own.answered(data, *own.settings) is None


def test_without_selection_attacks_are_drawn_whatever_their_types():
    templates = [row for row in load_templates() if row.split == "train"]
    config = AttributionConfig()
    chosen, _ = choose_templates(templates, config)
    drawn = ablations.drawn_templates(templates, 0)
    assert sorted(row.id for row in drawn) == sorted(row.id for row in templates)
    blind, _ = choose_templates(drawn, config.model_copy(update={"attack_selection": False}))
    assert [row.id for row in blind] == [row.id for row in drawn[: len(chosen)]]
    assert {row.id for row in blind} != {row.id for row in chosen}


def test_a_run_without_selection_has_no_row_without_it():
    typed = [row for row in load_templates() if row.split == "train"]
    untyped = [dataclasses.replace(row, types=()) for row in typed]
    for on, templates in ((False, typed), (True, untyped)):
        attribution = AttributionConfig(attack_selection=on)
        config = RunConfig.model_construct(attribution=attribution, seed=0)
        train = SimpleNamespace(templates=templates)
        data = SimpleNamespace(config=config, records={"train": train})
        with pytest.raises(UnusableSettingError, match="itself goes without"):
            ablations.without_selection().fit(data, {}, Path())


def test_a_method_that_follows_one_left_out_is_left_out():
    with pytest.raises(UnusableMethodError, match="dinm, whose settings it takes, is left out"):
        bench.settings_of(dinm.dinm("dinm_5", 0.05), {})


def test_dinm_has_letters_of_its_own_under_the_suffix_as_well(monkeypatch):
    monkeypatch.setattr(dinm, "edited", lambda lm, fit: "edited")
    monkeypatch.setattr(dinm, "get_leaf", lambda *_: np.zeros((1, 1, 1), np.float32))
    chat = SimpleNamespace(encode=len)
    model = ChatModel(None, chat, lambda: None)  # type: ignore[arg-type]
    learned = {"layer": np.asarray(0), "place": np.array([0]), "value": np.ones(1, np.float32)}
    made = dinm.dinm().build(SimpleNamespace(model=model), {"suffix": True}, learned)
    assert made.model.lm == "edited" and made.model.chat is chat
    assert made.intervention is not None and made.no_letters is None
    assert ModelUnderTest("scans", model, intervention=made.intervention).no_letters


def test_the_threshold_of_scans_tells_validation_prompts_apart_best():
    model = load_model(str(tiny.checkpoint("qwen2")))
    train, held = made_up.examples(10, 6, 5), made_up.examples(30, 7, 6)
    data = SimpleNamespace(
        model=model, examples=train, validation_examples=held,
        config=RunConfig.model_construct(seed=0, eval=EvalConfig(batch_size=4)),
    )  # fmt: skip
    method, setting = scans(), {"strength": 0.2}
    scheme = method.build(data, setting, method.fit(data, setting, Path())).intervention
    assert scheme.strength == 0.2 and scheme.fit.sure == tuple(
        model.tokenizer.encode("Sure", add_special_tokens=False)
    )
    scores = [
        harm_scores(model.lm, model.lm.ones_LF, scheme.fit, prompts, 4)
        for prompts in (held.harmful, held.harmless)
    ]
    threshold, accuracy = best_threshold(*scores)
    assert scheme.threshold == pytest.approx(threshold)
    flagged, passed = (
        scheme.prepare(model.lm, model.lm.ones_LF, prompts, [""] * len(prompts)).flagged_R
        for prompts in (held.harmful, held.harmless)
    )
    rate = (flagged.mean() + 1 - passed.mean()) / 2
    assert rate == pytest.approx(accuracy) and rate >= 0.5


@pytest.mark.parametrize(
    ("raised", "seen"), [(DivergedError, UnusableSettingError), (RunError, RunError)]
)
def test_only_a_tuning_that_diverges_is_a_setting_that_failed(raised, seen, monkeypatch, tmp_path):
    def tune(*_, **__):
        raise raised("no")

    monkeypatch.setattr(neurontune, "tune", tune)
    config = RunConfig.model_construct(tune=TuneConfig(), eval=EvalConfig(), seed=0)
    data = SimpleNamespace(
        config=config, model=None, pools=None, whole_validation=None, slopes=lambda _: None
    )
    with pytest.raises(seen, match="no"):
        neurontune.tuned(data, TuneConfig(), None, tmp_path)


def test_adapters_learn_at_the_runs_terms_and_are_built_at_their_strength(monkeypatch):
    """Layers, bounds, losses and batches are the run's; only Adam's rate is a setting."""
    seen = []

    def descend(model, adapter, pools, config, seed, objective):
        assert objective is likelihoods
        seen.append((adapter, pools, config, seed))
        if config.meta_lr == 3e-3:
            raise DivergedError("diverged")
        fresh = adapter.fresh(model.lm.config, np.float32, seed)
        return {n: x if n.endswith("/a") else x + 1 for n, x in fresh.items()}, []

    monkeypatch.setattr(adapters, "descend", descend)
    tune = TuneConfig(epochs=7, factor_max=3.0)
    neurons = NeuronsConfig(first_layer=1)
    config = RunConfig.model_construct(tune=tune, neurons=neurons, seed=5)
    model = load_model(str(tiny.checkpoint("qwen2")))
    data = SimpleNamespace(config=config, model=model, pools="pools", run=None)
    for name in ("lora", "lora_metric", "ia3", "ia3_full"):
        method = load(METHODS[name].maker)()
        learned = method.fit(data, method.settings[0], Path())
        assert not any(name.endswith("/a") for name in learned)  # as drawn: nothing to keep
        made = method.build(data, method.settings[0], learned).model.lm.module()
        assert np.abs(made.blocks.mlp.down[...] - model.lm.module().blocks.mlp.down[...]).max() > 0
    lora, metric, ia3, full = seen
    assert all((row[1], row[3]) == ("pools", 5) for row in seen)
    assert lora[0] == metric[0] and lora[0].first == 1
    by_adam = {"outer": "adam", "schedule": "cosine", "meta_lr": 1e-3, "epochs": 48, "average": 0.8}
    assert lora[2] == tune.model_copy(update=by_adam)
    assert metric[2] == ia3[2] == full[2] == tune
    assert ia3[0] == Ia3(DOWN, (0.0, 3.0), 1) and full[0] == Ia3(FULL, (0.0, 3.0), 1)
    learned = {"blocks.mlp.down": np.full((1, 48), 2, np.float32)}
    made = load(METHODS["ia3"].maker)().build(data, {"strength": 0.5}, learned)
    found, old = (lm.module().blocks.mlp.down[...] for lm in (made.model.lm, model.lm))
    np.testing.assert_allclose(found[1], 1.5 * old[1], rtol=1e-6)
    np.testing.assert_array_equal(found[0], old[0])
    assert made.no_letters is None
    method = load(METHODS["lora"].maker)()
    with pytest.raises(UnusableSettingError, match="diverged"):
        method.fit(data, {"learning_rate": 3e-3}, Path())
    config = RunConfig.model_construct(tune=TuneConfig(metric_requests=0), neurons=neurons, seed=5)
    with pytest.raises(UnusableSettingError, match="no slopes"):
        method = load(METHODS["lora_metric"].maker)()
        method.fit(SimpleNamespace(config=config), {"strength": 1.0}, Path())


def test_loras_first_six_trials_hold_every_rate():
    rates = [setting["learning_rate"] for setting in load(METHODS["lora"].maker)().settings]
    assert {*rates[:6]} == {*rates} == {1e-4, 3e-4, 1e-3, 3e-3}


def test_every_method_that_learns_by_adam_has_as_many_steps():
    tune = TuneConfig(epochs=7, average=0.0, safety_weight=0.4)
    terms = {"outer": "adam", "epochs": 48, "average": 0.8, "meta_lr": 3e-4}
    same = adapters.by_adam(tune, 3e-4)
    assert same == tune.model_copy(update={**terms, "schedule": "cosine"})
    found = nest.own_terms(tune, 3e-4).model_dump()
    assert {key: found[key] for key in terms} == terms
    assert (found["safety_weight"], found["direct_fraction"]) == (1.0, 1.0)
    assert adapters.by_adam(TuneConfig(epochs=90), 1e-3).epochs == 90


def test_dpo_learns_by_adam_as_lora_does(monkeypatch):
    seen = []
    monkeypatch.setattr(dpo, "preference_pools", lambda *rest: ("pairs", 3, 1))
    monkeypatch.setattr(dpo, "learned", lambda *rest: seen.append(rest))
    tune = TuneConfig(epochs=7)
    config = RunConfig.model_construct(
        tune=tune, neurons=NeuronsConfig(first_layer=1), eval=EvalConfig(), seed=5
    )
    method = load(METHODS["dpo"].maker)()
    data = SimpleNamespace(config=config, model=None, pools="pools")
    method.fit(data, {"learning_rate": 3e-3, "beta": 0.3, "strength": 1.0}, Path())
    (row,) = seen
    assert row[2] == "pairs" and row[3] == adapters.by_adam(tune, 3e-3, margin_weight=0.0)
    assert row[3].epochs == 48 and row[4].beta == 0.3
