"""Which methods a comparison fits, and that nobody has fewer settings to try than another."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from nt_jax.compare import ablations as variants
from nt_jax.compare import baselines as rivals
from nt_jax.compare import neurontune as ours
from nt_jax.compare import pipeline as loop
from nt_jax.compare.methods import MAKERS, needed
from nt_jax.compare.names import METHODS
from nt_jax.compare.search import UnusableMethodError, UnusableSettingError
from nt_jax.config.evaluation import MOST_SETTINGS
from nt_jax.config.schema import (
    AttributionConfig,
    CompareConfig,
    NeuronsConfig,
    RunConfig,
    TuneConfig,
)
from nt_jax.data.sources import load_templates
from nt_jax.errors import DivergedError, RunError
from nt_jax.eval.answering import Measured
from nt_jax.run.attribute import choose_templates

CONFIG = CompareConfig(random_seeds=2, safety_counts=(3, 4), utility_counts=(5,))


def names(methods, tables) -> list[str]:
    return [method.name for method in needed(methods, tables, CONFIG)]


def test_every_method_has_as_many_settings_as_may_be_asked_for():
    most = MOST_SETTINGS
    CompareConfig(search=most)
    with pytest.raises(ValidationError):
        CompareConfig(search=most + 1)
    assert list(MAKERS) == list(METHODS)
    for name, maker in MAKERS.items():
        method = maker()
        assert method.name == name and method.label == METHODS[name]
        settings = [json.dumps(setting) for setting in method.settings]
        assert len(set(settings)) == len(settings) == most, name
        assert all(set(method.fit_on) <= set(setting) for setting in method.settings)


def test_tables_bring_the_methods_that_they_are_made_of():
    assert names(("scans", "neurontune"), ("2",)) == ["neurontune", "scans"]
    fractions = [f"dinm_{percent}" for percent in (100, 50, 20, 10, 5)]
    assert names((), ("1",)) == ["dinm", *fractions]
    parts = ["all_attacks", "random_neurons_0", "random_neurons_1", "first_factors"]
    assert names(("dinm",), ("4",)) == ["neurontune", "dinm", *parts]
    assert names((), ("7",)) == ["neurontune", "neurons_3_5", "neurons_4_5"]


def test_what_follows_a_method_comes_after_it():
    methods = needed((), tuple("1234567"), CONFIG)
    order = [method.name for method in methods]
    for method in methods:
        if method.follows is not None:
            assert order.index(method.follows) < order.index(method.name)
    assert len(set(order)) == len(order)


def test_table_7_takes_the_runs_own_numbers_of_neurons_from_the_run(monkeypatch):
    config = RunConfig.model_construct(neurons=NeuronsConfig(safety=3, utility=5))
    run = SimpleNamespace(folder=Path)
    material = SimpleNamespace(config=config, run=run)
    monkeypatch.setattr(variants, "learned_in_run", lambda found: found)
    own, other = variants.counts(3, 5), variants.counts(5, 3)
    assert own.fit(material, {}, Path()) is material
    assert own.answered(material, *own.settings) == (Path("tuned"), "tuned")
    assert other.answered(material, *other.settings) is None
    with pytest.raises(
        RunError, match="holds no safety scores"
    ):  # others look for the scores to choose by
        other.fit(material, {}, Path())


def test_without_selection_attacks_are_drawn_whatever_their_types():
    templates = [row for row in load_templates() if row.split == "train"]
    config = AttributionConfig()
    chosen, _ = choose_templates(templates, config)
    drawn = variants.drawn_templates(templates, 0)
    assert sorted(row.id for row in drawn) == sorted(row.id for row in templates)
    blind, _ = choose_templates(drawn, config.model_copy(update={"attack_selection": False}))
    assert [row.id for row in blind] == [row.id for row in drawn[: len(chosen)]]
    assert {row.id for row in blind} != {row.id for row in chosen}


def test_a_run_without_selection_has_no_row_without_it():
    off = AttributionConfig(attack_selection=False)
    config = RunConfig.model_construct(attribution=off, seed=0)
    material = SimpleNamespace(config=config, records={"train": None})
    with pytest.raises(UnusableSettingError, match="itself goes without"):
        variants.without_selection().fit(material, {}, Path())


def test_a_method_that_follows_one_left_out_is_left_out():
    with pytest.raises(UnusableMethodError, match="dinm, whose settings it takes, is left out"):
        loop._settings(rivals.dinm("dinm_5", 0.05), {})


def test_dinm_has_letters_of_its_own_under_the_suffix_as_well(monkeypatch):
    monkeypatch.setattr(rivals, "edited", lambda lm, fit: lm)
    monkeypatch.setattr(rivals, "get_leaf", lambda *_: np.zeros(1, np.float32))
    session = SimpleNamespace(lm=None, encode=len, edited=lambda lm: None)
    material = SimpleNamespace(session=session)
    learned = {"layer": np.asarray(0), "down_FD": np.zeros((1, 1), np.float32)}
    model = rivals.dinm().build(material, {"suffix": True}, learned)
    assert model.intervention is not None and model.has_letters
    assert not Measured("scans", session, intervention=model.intervention).has_letters


@pytest.mark.parametrize(
    ("raised", "seen"), [(DivergedError, UnusableSettingError), (RunError, RunError)]
)
def test_only_a_tuning_that_diverges_is_a_setting_that_failed(raised, seen, monkeypatch, tmp_path):
    def tune(*_):
        raise raised("no")

    monkeypatch.setattr(ours, "tune", tune)
    config = RunConfig.model_construct(tune=TuneConfig())
    session = SimpleNamespace(under=lambda run: None)
    material = SimpleNamespace(config=config, session=session, pools=None, whole_validation=None)
    with pytest.raises(seen, match="no"):
        ours.tuned(material, TuneConfig(), None, tmp_path)


@pytest.mark.parametrize(("last", "kept"), [(5, {"2", "4"}), (1, set())])
def test_lora_that_diverges_late_keeps_its_earlier_shares(monkeypatch, last, kept):
    def train(lm, batch_at, options):
        for _ in range(last):
            yield {"blocks.mlp.down": {"a": np.ones(1), "b": np.ones(1)}}, {}
        raise RunError("LoRA diverged")

    monkeypatch.setattr(rivals, "train_lora", train)
    monkeypatch.setattr(rivals, "make_batcher", lambda *_: (None, False))
    config = RunConfig.model_construct(tune=TuneConfig(epochs=8), neurons=NeuronsConfig(), seed=0)
    material = SimpleNamespace(config=config, session=SimpleNamespace(lm=None), pools=None)
    if kept:
        learned = rivals._fit_lora(material, {"learning_rate": 1.0}, Path())
        assert {name.split("/")[0] for name in learned} == kept
        with pytest.raises(UnusableSettingError, match="diverged before update 8"):
            rivals.lora().build(material, {"share": 1.0}, learned)
    else:
        with pytest.raises(UnusableSettingError, match="LoRA diverged"):
            rivals._fit_lora(material, {"learning_rate": 1.0}, Path())


def test_a_count_given_twice_is_one_row():
    """Two stages of one name would lay the same answers into the row twice."""
    config = CompareConfig(safety_counts=(9, 9, 3), utility_counts=(5, 5))
    assert (config.safety_counts, config.utility_counts) == ((9, 3), (5,))
