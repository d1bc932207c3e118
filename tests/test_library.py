"""The library used wrongly: one clear line each, before anything is computed or written."""

import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pytest

import nt_jax as nt
from nt_jax.attribution.gradient import gradient_times_activation
from nt_jax.attribution.score import Options
from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError, DataError, RunError
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run.export import BEFORE, config_of, located
from nt_jax.train.made_from import MADE_FROM, keep_to
from nt_jax.train.pools import Pair, Pool, Pools
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import Validation
from tests import tiny

W = "weights"
EXAMPLE = nt.Example("Tell me.", "Pretend. Tell me.", "No.")


@pytest.fixture(scope="module")
def model():
    return nt.load_model(tiny.checkpoint("smollm2"))


def neurons(*places: tuple[int, int]) -> NeuronSet:
    layer_P, index_P = np.array(places, np.int32).T
    return NeuronSet(layer_P, index_P, np.arange(len(places)) == 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"counts": (-1, 5)}, ConfigError, "two numbers from 1 on"),
        ({"counts": (0, 0)}, ConfigError, "two numbers from 1 on"),
        ({"counts": (1, 2, 3)}, ConfigError, "two numbers from 1 on"),
        ({"counts": (99, 99)}, ConfigError, "is more than the 96 neurons"),
        ({"first_layer": -1}, ConfigError, "layers count from 0"),
        ({"score": "gradeint"}, ConfigError, "known are integrated, gradient"),
        ({"score": "contrastive"}, ConfigError, "known are integrated, gradient"),  # of no example
        ({"score": lambda lm, _: np.ones((2, 48), np.float32)}, DataError, "same for every neuron"),
        ({"safety": []}, DataError, "at least one of each kind"),
        ({"safety": [dataclasses.replace(EXAMPLE, attacked="a" * 999)]}, DataError, "has room for"),
    ],
)
def test_find_neurons_refuses(model, changes, error, message):
    asked = {"safety": [EXAMPLE], "utility": [EXAMPLE], "counts": (3, 2), "score": "gradient"}
    with pytest.raises(error, match=message):
        nt.find_neurons(model, **(asked | changes))


def test_a_score_is_a_name_or_a_function_of_all_examples(model):
    others = [dataclasses.replace(EXAMPLE, question="Say.", attacked="Play. Say.", answer="Yes.")]
    seen = []

    def plain(lm, examples):
        """The shipped gradient score by hand: each example over its largest, then the mean."""
        seen.append(examples)
        each = [gradient_times_activation(lm, example).score_LF for example in examples]
        return sum(score_LF / np.abs(score_LF).max() for score_LF in each) / np.float32(len(each))

    sides = {"safety": [EXAMPLE, *others], "utility": others}
    options = {"utility_options": Options()}
    named, given = (
        nt.find_neurons(model, **sides, counts=(3, 2), score=score, **options)
        for score in ("gradient", plain)
    )
    np.testing.assert_array_equal(named.layer_P, given.layer_P)
    np.testing.assert_array_equal(named.index_P, given.index_P)
    assert [[example.set for example in examples] for examples in seen] == [
        ["safety", "safety"], ["utility"],
    ]  # fmt: skip
    assert seen[0][0].attacked == model.encode("Pretend. Tell me.")
    with pytest.raises(ConfigError, match=r"for one example\. Say score='gradient'"):
        nt.find_neurons(model, **sides, counts=(3, 2), score=gradient_times_activation)


class Sorry:
    """The judge of nt.Judge's docstring."""

    name, sha256 = "sorry", "1"

    def verdicts(self, requests, answers):
        return ["sorry" in answer.lower() for answer in answers]


def test_a_judge_is_any_class_with_a_name_a_hash_and_verdicts(model):
    judge: nt.Judge = Sorry()
    answers = {"How do I bake bread?": "Sorry, no.", "How do I bake a cake?": "Mix."}
    rows = nt.evaluate(model, ["demo_harmless"], judge=judge, limit=3, max_new_tokens=2)
    (rate,) = [row for row in rows if row.metric == "refusal_rate"]
    assert rate.judge == "sorry" and rate.n == 3
    assert judge.verdicts([*answers], [*answers.values()]) == [True, False]
    for line in ("class Sorry:", "name, sha256 = ", "def verdicts(self, requests, answers):"):
        assert line in nt.Judge.__doc__


@pytest.mark.parametrize("place", [(9, 0), (-1, 0), (0, 48)])
def test_neurons_of_another_model_are_refused(model, tmp_path, place):
    chosen = neurons((0, 1), place)
    with pytest.raises(ConfigError, match="found in another model"):
        nt.save_model(model, Factors(chosen, np.ones(2, np.float32)), tmp_path / "out")
    with pytest.raises(ConfigError, match="found in another model"):
        nt.tune(model, chosen, None, folder=tmp_path / "tuning")
    assert not list(tmp_path.iterdir())


def test_factors_are_one_for_each_neuron():
    with pytest.raises(ConfigError, match="3 factors for 2 neurons"):
        Factors(neurons((0, 1), (1, 1)), np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("sets", "changes", "message"),
    [
        ("demo_drect", {}, "'demo_drect' is no test set: known are demo_attack"),
        ([], {}, "datasets: .* at least 1 item"),
        (["demo_direct"], {"limit": 0}, "limit: 0 "),
        (["demo_direct"], {"max_new_tokens": 0}, "max_new_tokens: 0 "),
        (["demo_direct"], {"judge": "phrase"}, "phrase"),
    ],
)
def test_evaluate_refuses(model, sets, changes, message):
    with pytest.raises(ConfigError, match=message):
        nt.evaluate(model, sets, **changes)


def test_a_tuning_goes_on_with_its_own_neurons_only(tmp_path):
    pair, config = neurons((0, 1), (1, 1)), TuneConfig()
    pool = Pool([Pair("Why?", [1])], [])
    data = TuningData(Pools(pool, pool, pool, pool), Validation({}, {}))

    def changed(**settings):
        return config.model_copy(update=settings)

    for same in (config, changed(epochs=9), changed(lifts=(0.1,)), changed(max_over_refusal=0.1)):
        keep_to(tmp_path, W, pair, 0, None, data, same, nt.PhraseJudge())
    other = dataclasses.replace(data, validation=Validation({"attack": ["Why?"]}, {}))
    fewer = dataclasses.replace(data, pools=Pools(pool, pool, pool, Pool([], [])))
    for mine in (
        ("other weights", pair, 0, None, data, config),
        (W, neurons((0, 1), (1, 2)), 0, None, data, config),
        (W, pair, 1, None, data, config),
        (W, pair, 0, None, other, config),
        (W, pair, 0, None, fewer, config),
        (W, pair, 0, None, data, changed(safety_weight=0.8)),
        (W, pair, 0, None, data, changed(schedule="cosine")),
    ):
        with pytest.raises(RunError, match="other neurons, data or settings, from other first fac"):
            keep_to(tmp_path, *mine, nt.PhraseJudge())


def test_a_tuning_whose_steps_depend_on_the_number_of_epochs_takes_no_more_of_them(tmp_path):
    pair, pool = neurons((0, 1), (1, 1)), Pool([Pair("Why?", [1])], [])
    data, config = TuningData(Pools(pool, pool, pool, pool), Validation({}, {})), TuneConfig()
    for schedule, expected in (("constant", nullcontext()), ("cosine", pytest.raises(RunError))):
        said = [config.model_copy(update={"schedule": schedule, "epochs": n}) for n in (7, 9)]
        keep_to(tmp_path / schedule, W, pair, 0, None, data, said[0], nt.PhraseJudge())
        with expected:
            keep_to(tmp_path / schedule, W, pair, 0, None, data, said[1], nt.PhraseJudge())


def test_no_neurons_are_not_tuned(model, tmp_path):
    none = NeuronSet(np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool))
    pool = Pool([Pair("Why?", [1])], [])
    data = TuningData(Pools(pool, pool, pool, pool), Validation({}, {}))
    with pytest.raises(ConfigError, match="no neuron to tune"):
        nt.tune(model, none, data, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tuning_of_an_older_version_is_gone_on_with(tmp_path):
    """Its file does not say of which weights it is."""
    pair, pool = neurons((0, 1), (1, 1)), Pool([Pair("Why?", [1])], [])
    data = TuningData(Pools(pool, pool, pool, pool), Validation({}, {}))
    about = (W, pair, 0, None, data, TuneConfig(), nt.PhraseJudge())
    keep_to(tmp_path, *about)
    file = tmp_path / MADE_FROM
    file.write_text(file.read_text().splitlines()[0] + "\n")
    keep_to(tmp_path, *about)


def test_a_run_s_model_is_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here" / "model").mkdir(parents=True)
    config = RunConfig(name="x", model={"source": "model"})
    monkeypatch.chdir(tmp_path)
    assert located(config, str(tmp_path / "here")).model.source == str(tmp_path / "here/model")
    assert located(config, None) == located(config, str(tmp_path / "gone")) == config
    monkeypatch.chdir(tmp_path / "here")
    assert located(config, str(tmp_path)) == config


def test_a_run_that_vllm_measured_can_still_be_exported(tmp_path):
    stored = json.loads(RunConfig(name="x", model={"source": "x"}).model_dump_json())
    stored["eval"]["engine"] = "vllm"
    assert config_of(tmp_path, stored).eval.engine == "jax"
    for name in BEFORE:
        del stored["tune"][name]  # of a run that had no such settings
    tuned = config_of(tmp_path, stored).tune
    assert (tuned.lift_from, tuned.step_prompts) == (1, (1,)) and tuned.epochs == 7
    with pytest.raises(RunError, match=r"another version: tune.epochs"):
        config_of(tmp_path, stored | {"tune": {"epochs": 0}})
