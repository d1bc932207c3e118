"""Factors as a file: written, read, compared with others, multiplied, and exported again."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nt_jax import cli
from nt_jax.checkpoints.checkpoint import fingerprint, open_checkpoint
from nt_jax.checkpoints.factors import FILE, FactorsFile, load_factors, read_factors, save_factors
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.export import factors as format_of_factors
from nt_jax.export import ia3
from nt_jax.export.folder import Wanted
from nt_jax.export.hf import export_hf
from nt_jax.generate.chat import open_model
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run import export as run_export
from nt_jax.run.factors import compare_factors, product, show_factors
from nt_jax.version import __version__
from tests import tiny
from tests.export.test_adapters import factors_of, scale_of


def written(folder, factors: Factors | None = None, **wanted):
    model = open_model(str(tiny.checkpoint()))
    factors = factors_of() if factors is None else factors
    return format_of_factors.write(model, factors, folder, Wanted(**wanted)), model, factors


def test_factors_come_back_as_they_were(tmp_path):
    report, model, factors = written(tmp_path / "out", strength=0.5)
    for path in (tmp_path / "out", tmp_path / "out" / FILE):
        again = load_factors(path, model.checkpoint)
        for name, array in factors.arrays().items():
            np.testing.assert_array_equal(again.arrays()[name], array)
            assert again.arrays()[name].dtype == array.dtype
    with safe_open(tmp_path / "out" / FILE, "np") as file:
        about = file.metadata()
    assert about == {
        "format": "nt_jax factors 1", "base": tiny.checkpoint().name, "strength": "0.5",
        "base_sha256": fingerprint(model.checkpoint), "layers": "2", "neurons": "48",
        "nt_jax": __version__,
    }  # fmt: skip
    assert len(report.changed) == 2 and set(report.sha256) == {FILE}


def test_an_ia3_adapter_is_factors_too(tmp_path):
    model, factors = open_model(str(tiny.checkpoint())), factors_of()
    ia3.write(model, factors, tmp_path / "ia3", Wanted())
    again = load_factors(tmp_path / "ia3", model.checkpoint)
    np.testing.assert_array_equal(scale_of(again), scale_of(factors))
    assert again.neurons.is_safety_P.all()
    with pytest.raises(CheckpointError, match="beside its model only"):
        load_factors(tmp_path / "ia3")


def test_factors_of_other_sizes_are_refused_and_other_weights_are_a_warning(tmp_path, caplog):
    written(tmp_path / "out")
    other = open_checkpoint(str(tiny.checkpoint("llama2", seed=1)))
    assert len(load_factors(tmp_path / "out", other).theta_P) == 47
    assert "learned on other files than" in caplog.text
    found = read_factors(tmp_path / "out")
    wide = FactorsFile(found.factors, 3, 50, "x", "")
    save_factors(tmp_path / "wide.safetensors", wide)
    with pytest.raises(CheckpointError, match=r"3 layers with 50 neurons; .* has 2 with 48"):
        load_factors(tmp_path / "wide.safetensors", other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": np.full(47, 9, np.int32)}, "is in no model of 2 layers"),
        ({"index": np.zeros(47, np.int32)}, "a neuron occurs twice"),
        ({"factor": np.full(47, np.nan, np.float32)}, "a factor is not finite"),
        ({"factor": np.ones(46, np.float32)}, "46 factors for 47 neurons"),
        ({"factor": np.ones(47)}, "'factor' is not a list of float32"),
        ({"is_safety": np.ones(3, bool)}, "differ in length"),
        ({"layer": None}, "layer"),
        ({"format": "x"}, "format 'x' is not"),
        ({"layers": "many"}, "invalid literal"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, change, message):
    written(tmp_path / "out")
    file = tmp_path / "out" / FILE
    with safe_open(file, "np") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    for name, value in change.items():
        (about if isinstance(value, str) else tensors)[name] = value
    save_file({n: x for n, x in tensors.items() if x is not None}, file, metadata=about)
    with pytest.raises(CheckpointError, match=message) as error:
        load_factors(file)
    assert "Export it again" in str(error.value) and "\n" not in str(error.value)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="no readable file of factors"):
        load_factors(file)
    with pytest.raises(CheckpointError, match="no factors there"):
        load_factors(tmp_path)


# --- two of them ---------------------------------------------------------------------------------


def file_of(places, theta, safety=True) -> FactorsFile:
    layer_P, index_P = np.array(places, np.int32).reshape(-1, 2).T
    neurons = NeuronSet(layer_P, index_P, np.full(len(places), safety))
    return FactorsFile(Factors(neurons, np.array(theta, np.float32)), 2, 10, "base", "hash")


def test_overlap_and_correlation_are_those_of_the_definition():
    a = file_of([(0, 1), (0, 2), (1, 3), (1, 4)], [2.0, 0.5, 1.5, 3.0])
    b = file_of([(1, 4), (0, 2), (1, 3), (1, 9), (0, 0)], [2.5, 0.7, 0.9, 4.0, 1.1])
    found = compare_factors(a, b)
    assert (found.counts, found.shared, found.by_chance) == ((4, 5), 3, 1.0)
    expected = np.corrcoef([0.5, 1.5, 3.0], [0.7, 0.9, 2.5])[0, 1]
    assert found.correlation == pytest.approx(expected, abs=1e-6)
    assert found.same_direction == pytest.approx(2 / 3)
    every = np.corrcoef(a.scale_LF().ravel(), b.scale_LF().ravel())[0, 1]
    assert found.everywhere == pytest.approx(every, abs=1e-6)
    apart = compare_factors(a, file_of([(0, 5)], [2.0]))
    assert apart.shared == 0 and np.isnan(apart.correlation) and np.isnan(apart.same_direction)


def test_a_product_is_both_at_once():
    a, b = file_of([(0, 1), (1, 3)], [2.0, 0.5]), file_of([(1, 3), (0, 7)], [3.0, 4.0], False)
    both = product(a, b)
    np.testing.assert_array_equal(both.scale_LF(), a.scale_LF() * b.scale_LF())
    assert len(both.factors.theta_P) == 3
    np.testing.assert_array_equal(both.factors.neurons.is_safety_P, [True, False, True])
    other = FactorsFile(b.factors, 3, 10, "base", "hash")
    with pytest.raises(ConfigError, match="models of 2 x 10 and 3 x 10 neurons"):
        product(a, other)


def test_a_product_is_written_and_exported_with_its_base(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    one, two = factors_of(seed=0), factors_of((20, 5), seed=1)
    written(tmp_path / "one", one), written(tmp_path / "two", two)
    words = [str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "both")]
    assert cli.main("factors", words) == 0
    assert "47 and 25, " in capsys.readouterr().out
    base = str(tiny.checkpoint())
    words = ["--factors", str(tmp_path / "both"), "--model", base, "--format", "ia3,factors"]
    assert cli.main("export", [*words, "--out", str(tmp_path / "out")]) == 0
    checkpoint = open_checkpoint(base)
    for folder in ("ia3", "factors"):
        again = load_factors(tmp_path / "out" / folder, checkpoint)
        np.testing.assert_array_equal(scale_of(again), scale_of(one) * scale_of(two))
    words = [*words[:4], "--strength", "0.5", "--out", str(tmp_path / "half")]
    assert cli.main("export", words) == 0
    name = "model.layers.1.mlp.down_proj.weight"
    half = load_file(tmp_path / "half" / "model.safetensors")[name]
    theta = 1 + 0.5 * (scale_of(one) * scale_of(two) - 1)
    np.testing.assert_allclose(half, checkpoint.read(name) * theta[1], rtol=1e-6)
    manifest = json.loads((tmp_path / "half" / "nt_jax_export.json").read_text())
    assert manifest["tensors"] == 21


def test_what_cannot_be_compared_leaves_nothing(tmp_path):
    written(tmp_path / "one")
    save_factors(tmp_path / "wide", FactorsFile(factors_of(), 3, 50, "x", ""))
    with pytest.raises(ConfigError):
        show_factors(tmp_path / "one", tmp_path / "wide", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "wide"}


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_the_base_is_read_in_its_own_type_and_what_is_written_does_not_depend_on_it(
    tmp_path, monkeypatch, stored
):
    """A 14B model in float32 has 56 GB."""
    base, factors, seen = str(tiny.checkpoint(dtype=stored)), factors_of(), []
    written(tmp_path / "one", factors)
    writes = run_export.write_formats

    def noted(model, *rest):
        seen.append(model.lm.dtype.name)
        writes(model, *rest)

    monkeypatch.setattr(run_export, "write_formats", noted)
    for dtype in ("source", "float32"):
        out = tmp_path / dtype
        run_export.export_factors(tmp_path / "one", base, out, wanted=Wanted(dtype))
        export_hf(open_checkpoint(base), scale_of(factors), tmp_path / f"{dtype} again", dtype)
        for file in (tmp_path / f"{dtype} again").iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert seen == [stored, "float32"]
