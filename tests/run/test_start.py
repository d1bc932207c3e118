"""A tuning that goes on from factors or from an (IA)^3 adapter."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from nt_jax import cli
from nt_jax.attribution.store import load_neurons
from nt_jax.checkpoints.factors import FactorsFile, read_factors, save_factors
from nt_jax.config.load import load_config
from nt_jax.config.method import TuneConfig
from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.export import factors as factors_format
from nt_jax.export import ia3, lora
from nt_jax.export.folder import Wanted
from nt_jax.generate.chat import open_model
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run.export import run_factors
from nt_jax.run.preflight import read_inputs
from nt_jax.run.stages import best_state
from nt_jax.run.start import start_hash
from nt_jax.train import outer, tune
from nt_jax.train.made_from import keep_to
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")
W = "weights"
NEURONS = NeuronSet(
    np.array([1, 0, 1, 0], np.int32), np.array([5, 2, 40, 7], np.int32), np.arange(4) % 2 == 1
)  # fmt: skip
START = Factors(NEURONS, np.array([1.3, 0.7, 0.9, 1.2], np.float32))
FAST = ("tune.validation_answers=0", "tune.epochs=1", "tune.metric_requests=8",
        "tune.meta_lr=0.1", "tune.outer=regression")  # fmt: skip


@pytest.fixture(scope="module")
def starts(model, tmp_path_factory):
    """The same factors as a file and as an adapter, and a LoRA adapter."""
    root, opened = tmp_path_factory.mktemp("starts"), open_model(str(model), "float32")
    for name, writer in (("factors", factors_format), ("ia3", ia3), ("lora", lora)):
        writer.write(opened, START, root / name, Wanted())
    return root


def tuned(recipe, folder, *words: str):
    """(the neurons and their first factors, the state after the last epoch)."""
    config, starts = small.settings(recipe, folder, *FAST, *words), []
    before = outer.Regression.step

    def record(self, theta_P, *rest):
        starts.append(np.asarray(theta_P))
        return before(self, theta_P, *rest)

    with mock.patch.object(outer.Regression, "step", record):
        small.carry_on(config, until="train")
    return starts[0], best_state(config.tune, folder / "select", folder / "train"), config


def test_a_tuning_goes_on_from_factors(starts, recipe, tmp_path):
    source = f"neurons.source={starts / 'factors'}"
    first_P, state, config = tuned(recipe, tmp_path / "run", source)
    neurons, rows = load_neurons(tmp_path / "run" / "select" / "neurons.csv")
    assert neurons.is_safety_P.tolist() == [True, True, False, False]  # safety first
    assert neurons.layer_P.tolist() == [0, 0, 1, 1] and neurons.index_P.tolist() == [2, 7, 5, 40]
    expected_P = np.array([0.7, 1.2, 1.3, 0.9], np.float32)
    np.testing.assert_array_equal(first_P, expected_P)
    assert [row["set"] for row in rows] == ["safety"] * 2 + ["utility"] * 2
    page = (tmp_path / "run" / "select" / "attribution.md").read_text()
    assert "The neurons were given" in page and "both lists" not in page
    assert np.abs(np.asarray(state.theta_P) - expected_P).max() > 1e-6
    config_again, factors = run_factors(tmp_path / "run")
    assert config_again == config and len(factors.theta_P) == 4
    screen = small.carry_on(config, until="train")
    assert small.kept(screen) == {"answers", "attribute", "select", "train"}
    # Other factors in the same file are another start.
    found = read_factors(starts / "factors")
    (tmp_path / "other").mkdir()
    file = tmp_path / "other" / "factors.safetensors"
    other = FactorsFile(found.factors.at_strength(0.5), found.layers, found.neurons, "", "")
    save_factors(file, other)
    again = small.settings(recipe, tmp_path / "run", *FAST, f"neurons.source={file}")
    keys = small.kept(small.carry_on(again, until="select"))
    assert keys == {"answers", "attribute"}


def test_a_home_folder_is_found(starts, monkeypatch):
    monkeypatch.setenv("HOME", str(starts))
    there, home = (
        load_config(None, ["model.source=x", f"neurons.source={place}"])
        for place in (starts / "factors", "~/factors")
    )
    assert start_hash(home) == start_hash(there) and len(start_hash(home)) == 64
    assert len(read_factors("~/factors").factors.theta_P) == len(START.theta_P)


def test_an_adapter_s_neurons_all_count_as_safety_neurons(starts, recipe, tmp_path):
    first_P, state, _ = tuned(recipe, tmp_path / "run", f"neurons.source={starts / 'ia3'}")
    neurons, _ = load_neurons(tmp_path / "run" / "select" / "neurons.csv")
    assert neurons.is_safety_P.all() and neurons.layer_P.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(first_P, np.array([0.7, 1.2, 1.3, 0.9], np.float32))
    assert np.isfinite(state.theta_P).all()


@pytest.mark.parametrize(
    ("name", "words", "error", "said"),
    [
        ("lora", [], CheckpointError, "only an .IA.* adapter"),
        ("missing", [], CheckpointError, "no factors there"),
        ("factors", ["tune.factor_max=1.25", "tune.init_safety=1"], ConfigError,
         "the factor 1.3 of layer 1, neuron 5 lies outside"),
        ("factors", ["neurons.first_layer=1"], ConfigError, "of layer 0, below neurons.first_lay"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from_is_refused_before_any_work(
    starts, recipe, tmp_path, name, words, error, said
):
    config = small.settings(recipe, tmp_path / "x", f"neurons.source={starts / name}", *words)
    with pytest.raises(error, match=said):
        read_inputs(config)
    assert not (tmp_path / "x").exists()


def test_the_layer_that_is_advised_is_one_that_can_be_begun_at(starts, recipe, tmp_path):
    source = f"neurons.source={starts / 'factors'}"
    config = small.settings(recipe, tmp_path / "x", source, "neurons.first_layer=1")
    with pytest.raises(ConfigError, match=r"Set neurons\.first_layer=0\.$"):
        read_inputs(config)
    read_inputs(small.settings(recipe, tmp_path / "x", source, "neurons.first_layer=0"))


def test_a_comparison_begins_with_the_untuned_model(starts, recipe, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    words = ["--config", str(recipe), f"neurons.source={starts / 'factors'}"]
    assert cli.main("compare", words) == 2
    assert "all begin with the untuned model" in capsys.readouterr().err


def test_a_library_call_takes_first_factors_by_neuron():
    config = small.RunConfig.model_validate({"name": "a", "model": {"source": "m"}}).tune
    order = np.array([2, 0, 3, 1])
    columns = (NEURONS.layer_P, NEURONS.index_P, NEURONS.is_safety_P)
    turned = NeuronSet(*(np.asarray(column)[order] for column in columns))
    state = tune.fresh_state(config, turned, known=START)
    np.testing.assert_array_equal(state.theta_P, np.asarray(START.theta_P)[order])


def test_a_folder_keeps_to_the_factors_that_it_began_at(tmp_path):
    about = (SimpleNamespace(pools=None, validation=None), TuneConfig(), PhraseJudge())
    for _ in range(2):
        keep_to(tmp_path, W, NEURONS, 0, START, *about)
    for other in (None, START.at_strength(0.5)):
        with pytest.raises(RunError, match="from other first factors"):
            keep_to(tmp_path, W, NEURONS, 0, other, *about)


@pytest.mark.parametrize("every", [0, 1])
def test_epochs_that_were_validated_keep_to_their_limits_and_their_judge(tmp_path, every):
    """The best of them is so by those; else both only matter for the level, chosen anew."""
    data, judge = SimpleNamespace(pools=None, validation=None), PhraseJudge()
    config = TuneConfig(validate_every=every)
    other = SimpleNamespace(name="other", sha256="1")
    keep_to(tmp_path, W, NEURONS, 0, None, data, config, judge)
    keep_to(tmp_path, W, NEURONS, 0, None, data, config.model_copy(update={"epochs": 9}), judge)
    strict = config.model_copy(update={"max_over_refusal": 0.01})
    for given in ((strict, judge), (config, other)):
        expected = pytest.raises(RunError, match="settings") if every else nullcontext()
        with expected:
            keep_to(tmp_path, W, NEURONS, 0, None, data, *given)
