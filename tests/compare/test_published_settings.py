"""Rivals at the settings that their authors published, and as our paper is printed."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from nt_jax.baselines.dinm import SUFFIX, DinmOptions
from nt_jax.baselines.scans import harm_scores
from nt_jax.compare.method import learned_numbers
from nt_jax.compare.methods import cavgan, dinm, neurontune
from nt_jax.compare.methods.scans import scans
from nt_jax.config.registry import METHODS, load
from nt_jax.config.schema import (
    EvalConfig,
    RunConfig,
    TuneConfig,
)
from nt_jax.generate.chat import ChatModel, load_model
from nt_jax.models.neurons import Factors, NeuronSet
from tests import tiny
from tests.baselines import made_up


def test_published_settings_are_told_with_their_units():
    told = {}
    for name in METHODS:
        if name.endswith("_published"):
            method = load(METHODS[name].maker)()
            (setting,) = method.settings
            told[name] = method.words(setting)
    assert told == {
        "dinm_published": "learning_rate 0.0005 (Adam), steps 10, fraction 1.0 (of the matrix), "
        "suffix True, kl_grad False, edit_weight 0.1",
        "scans_published": "alpha 3.5 (absolute), T 0.75 (mean cosine)",
        "cavgan_published": "layer 28/32 (of depth), p0 0.9 (P(harmful))",
    }
    assert scans().words({"strength": 0.02}) == "strength 0.02 (of the median residual norm)"
    assert "p0 chosen by itself (P(harmful))" in cavgan.cavgan().words({"p0": None})


def test_dinms_published_setting_edits_and_asks_with_the_released_suffix(monkeypatch):
    assert SUFFIX == (
        "If the user's request is reasonable, give the correct answer. "
        "Please give the right response:"
    )
    seen = {}

    def fit_dinm(lm, example, options):
        seen.update(example=example, options=options)
        return SimpleNamespace(layer=1, down_FD=np.array([[0, 2]], np.float32))

    monkeypatch.setattr(dinm, "fit_dinm", fit_dinm)
    monkeypatch.setattr(dinm, "edited", lambda lm, fit: seen.update(fit=fit))
    monkeypatch.setattr(dinm, "get_leaf", lambda *_: np.zeros((2, 1, 2), np.float32))
    tokenizer = SimpleNamespace(encode=lambda text: [])
    model = ChatModel(None, SimpleNamespace(encode=str.upper), lambda: None)  # type: ignore[arg-type]
    monkeypatch.setattr(ChatModel, "encode", lambda self, text: text)
    monkeypatch.setattr(ChatModel, "tokenizer", tokenizer)
    data = SimpleNamespace(
        model=model, config=SimpleNamespace(seed=3),
        unsafe_answer=("attack", [1], [2]), kept_answer=("hello", [3]),
    )  # fmt: skip
    method = load(METHODS["dinm_published"].maker)()
    learned = method.fit(data, *method.settings, Path())
    assert learned_numbers(learned) == 1  # of two the other stayed as it was
    assert seen["options"] == DinmOptions(
        learning_rate=5e-4, steps=10, edit_weight=0.1, kl_grad=False, fraction=1.0, seed=3
    )
    assert seen["example"].prompt == f"attack {SUFFIX}"
    assert seen["example"].keep_prompt == f"hello {SUFFIX}"
    made = method.build(data, *method.settings, learned)
    np.testing.assert_array_equal(seen["fit"].down_FD, [[0, 2]])
    asked = made.intervention.prepare(None, None, [[1]], ["request"])
    assert "".join(asked.prompts[0]) == f"request {SUFFIX}"


def test_scans_published_adds_3_5_unit_directions_by_the_released_threshold():
    model = load_model(str(tiny.checkpoint("qwen2")))
    train, held = made_up.examples(10, 6, 5), made_up.examples(30, 7, 6)
    data = SimpleNamespace(
        model=model, examples=train,
        config=RunConfig.model_construct(seed=0, eval=EvalConfig(batch_size=4)),
    )  # fmt: skip
    method = load(METHODS["scans_published"].maker)()
    scheme = method.build(data, *method.settings, method.fit(data, *method.settings, Path()))
    prompts = [*held.harmful, *held.harmless]
    lm = model.lm
    made = scheme.intervention.prepare(lm, lm.ones_LF, prompts, [""] * len(prompts))
    score_R = harm_scores(lm, lm.ones_LF, scheme.intervention.fit, prompts, 4)
    np.testing.assert_array_equal(made.flagged_R, score_R > 0.75)
    length_RL = np.linalg.norm(made.steer_RLD, axis=-1)
    first, stop = scheme.intervention.fit.steer
    np.testing.assert_allclose(length_RL[:, first:stop], 3.5, rtol=1e-5)
    assert not np.delete(length_RL, np.s_[first:stop], axis=1).any()


def test_cavgan_published_keeps_to_its_layer_and_p0():
    model = load_model(str(tiny.checkpoint("qwen2")))
    layers = model.checkpoint.config.layers
    train, held = made_up.examples(10, 6, 5), made_up.examples(30, 7, 6)
    data = SimpleNamespace(
        model=model, examples=train, validation_examples=held,
        config=RunConfig.model_construct(seed=0, eval=EvalConfig(batch_size=4)),
    )  # fmt: skip
    method = load(METHODS["cavgan_published"].maker)()
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its types
        learned = method.fit(data, *method.settings, Path())
    made = method.build(data, *method.settings, learned).intervention
    assert learned["layer"] == made.fit.layer == round(28 / 32 * layers) - 1
    assert made.fit.threshold == 0.9


def test_as_printed_takes_the_papers_rules_and_length():
    tune = TuneConfig(epochs=9, inner_steps=0, safety_weight=0.7, validation_answers=80)
    found = neurontune.as_printed(tune)
    assert (found.epochs, found.safety_weight, found.validation_answers) == (36, 0.7, 80)
    assert neurontune.as_printed(TuneConfig(epochs=50)).epochs == 50
    assert found.inner_steps == 1 and found.outer == "sgd" and found.target == "answer"
    assert (found.init_safety, found.strengths, found.direct_fraction) == (1.2, (), 0.0)
    assert found == TuneConfig(
        algorithm="paper", epochs=36, safety_weight=0.7, validation_answers=80
    )


def test_as_printed_keeps_nothing_of_the_runs_that_the_paper_prints_otherwise():
    own = {"average": 0.8, "utility_sign": "descent", "schedule": "cosine", "order": 1}
    tune = TuneConfig(**own, token_decay=0.9, strengths=(0.5,))
    assert neurontune.as_printed(tune) == neurontune.as_printed(TuneConfig())


def test_factors_as_printed_have_no_bounds():
    neurons = NeuronSet(np.zeros(3, int), np.arange(3), np.array([True, True, False]))
    learned = Factors(neurons, np.array([-0.7, 5.5, 1.2], np.float32)).arrays()
    model = load_model(str(tiny.checkpoint("qwen2")))
    data = SimpleNamespace(config=RunConfig.model_construct(tune=TuneConfig()), model=model)
    for method, expected in (("paper", [-0.7, 5.5, 1.2]), ("descent", [0, 4, 1.2])):
        built = load(METHODS[method].maker)().build(data, {"strength": 1.0}, learned)
        np.testing.assert_allclose(np.asarray(built.scale_LF)[0, :3], expected, rtol=1e-6)
