"""Factors of two runs side by side, and their product: the command `factors`."""

import dataclasses
from pathlib import Path

import numpy as np

from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.checkpoints.factors import FILE, FactorsFile, read_factors, save_factors
from nt_jax.console import say
from nt_jax.errors import ConfigError
from nt_jax.export.folder import appearing
from nt_jax.export.peft import base_name
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run.export import of_run
from nt_jax.run.model import chat_model


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How two sets of factors agree; correlations are NaN where they have no meaning."""

    counts: tuple[int, int]
    shared: int
    by_chance: float  # shared neurons of two random choices of that size
    correlation: float  # Pearson's, of the factors of shared neurons
    same_direction: float  # share of shared neurons that both turn up, or both down
    everywhere: float  # Pearson's over all neurons of the model, 1 where one is not chosen


def compare_factors(a: FactorsFile, b: FactorsFile) -> Comparison:
    """Overlap and correlation of two sets of factors of one model.

    Raises a ConfigError where the models have other sizes.
    """
    check_same_sizes(a, b)
    chosen = [_chosen_LF(found) for found in (a, b)]
    both_LF, (x_LF, y_LF) = chosen[0] & chosen[1], (found.scale_LF() for found in (a, b))
    counts = int(chosen[0].sum()), int(chosen[1].sum())
    x_S, y_S = x_LF[both_LF], y_LF[both_LF]
    same_S = np.sign(x_S - 1) == np.sign(y_S - 1)
    return Comparison(
        counts,
        int(both_LF.sum()),
        counts[0] * counts[1] / both_LF.size,
        _pearson(x_S, y_S),
        float(same_S.mean()) if same_S.size else float("nan"),
        _pearson(x_LF, y_LF),
    )


def product(a: FactorsFile, b: FactorsFile) -> FactorsFile:
    """Both at once: factors multiply; a neuron counts as safety where either says so."""
    check_same_sizes(a, b)
    chosen_LF = _chosen_LF(a) | _chosen_LF(b)
    layer_P, index_P = (place.astype(np.int32) for place in np.nonzero(chosen_LF))
    safety_LF = np.zeros_like(chosen_LF)
    for found in (a, b):
        neurons = found.factors.neurons
        safety_LF[neurons.layer_P, neurons.index_P] |= np.asarray(neurons.is_safety_P)
    theta_P = (a.scale_LF() * b.scale_LF())[layer_P, index_P]
    factors = Factors(NeuronSet(layer_P, index_P, safety_LF[layer_P, index_P]), theta_P)
    return dataclasses.replace(a, factors=factors, strength="")


def check_same_sizes(a: FactorsFile, b: FactorsFile) -> None:
    """Raises a ConfigError unless both are of a model of the same shape."""
    sizes = [f"{found.layers} x {found.neurons}" for found in (a, b)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"these factors are of models of {sizes[0]} and {sizes[1]} neurons; only those of one "
            "model can be compared."
        )


def show_factors(first: Path, second: Path, out: Path | None = None) -> None:
    """Say how the factors of two runs (or files of factors) agree; write their product to `out`."""
    a, b = factors_at(first), factors_at(second)
    found = compare_factors(a, b)
    say("neurons", f"{found.counts[0]} and {found.counts[1]}, {found.shared} in both "
        f"({found.by_chance:.0f} by chance)")  # fmt: skip
    if found.shared:
        say("factors", f"of those in both: correlation {found.correlation:.2f}, "
            f"{found.same_direction:.0%} turned the same way")  # fmt: skip
    say("", f"over all neurons: correlation {found.everywhere:.2f}")
    if a.base_sha256 != b.base_sha256:
        say("warning", f"learned on different files: {a.base} and {b.base}")
    if out is not None:
        with appearing(out, 0) as work:
            save_factors(work / FILE, product(a, b))
        say("product", f"{out}   python -m nt_jax.export --factors {out} --model BASE ...")


def factors_at(path: Path) -> FactorsFile:
    """The factors of a run directory, or of a file or folder of factors."""
    if not (path / "run.json").is_file():
        return read_factors(path)
    config, kept, _ = of_run(path)
    checkpoint = chat_model(config, placed=False).checkpoint
    size, name = checkpoint.config, base_name(checkpoint)
    strength = "" if kept.strength is None else str(kept.strength)
    known = (size.layers, size.neurons, name, fingerprint(checkpoint), strength)
    return FactorsFile(kept.factors, *known)


def _chosen_LF(found: FactorsFile) -> np.ndarray:
    chosen_LF = np.zeros((found.layers, found.neurons), bool)
    chosen_LF[found.factors.neurons.layer_P, found.factors.neurons.index_P] = True
    return chosen_LF


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; NaN where one side does not vary."""
    if not x.size:
        return float("nan")
    x, y = (side.ravel().astype(np.float64) - side.mean(dtype=np.float64) for side in (x, y))
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else float("nan")
