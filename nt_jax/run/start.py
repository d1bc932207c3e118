"""A tuning that goes on from factors: those of `neurons.source` in place of chosen neurons."""

import hashlib
from pathlib import Path

import numpy as np

from nt_jax.checkpoints.adapter import CONFIG, WEIGHTS
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.factors import FILE, load_factors
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.models.neurons import Factors, NeuronSet


def start_factors(config: RunConfig, checkpoint: Checkpoint) -> Factors | None:
    """The factors that tuning starts from, safety neurons first; None where none are named.

    Raises a CheckpointError where they cannot be read or belong to another model, a ConfigError
    where a neuron or a factor is not one that the settings let tuning change.
    """
    if config.neurons.source is None:
        return None
    found = load_factors(config.neurons.source, checkpoint)
    safety_P = np.asarray(found.neurons.is_safety_P)
    order_P = np.argsort(~safety_P, kind="stable")
    columns = (found.neurons.layer_P, found.neurons.index_P, found.neurons.is_safety_P)
    neurons = NeuronSet(*(np.asarray(column)[order_P] for column in columns))
    factors = Factors(neurons, np.asarray(found.theta_P)[order_P])
    _check(config, factors)
    return factors


def start_hash(config: RunConfig) -> str:
    """sha256 of the files of `neurons.source`; "" where there is none."""
    if config.neurons.source is None:
        return ""
    path, digest = Path(config.neurons.source).expanduser(), hashlib.sha256()
    files = [path / name for name in (FILE, CONFIG, WEIGHTS)] if path.is_dir() else [path]
    for file in filter(Path.is_file, files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _check(config: RunConfig, factors: Factors) -> None:
    source, first, (low, high) = (
        config.neurons.source, config.neurons.first_layer, config.tune.bounds
    )  # fmt: skip
    if not len(factors.theta_P):
        raise ConfigError(f"neurons.source = {source}: every factor is 1, so nothing is chosen.")
    lowest = int(np.min(factors.neurons.layer_P))
    if lowest < first:
        raise ConfigError(
            f"neurons.source = {source} holds neurons of layer {lowest}, below neurons.first_layer "
            f"= {first}. Set neurons.first_layer={lowest}."
        )
    outside_P = (factors.theta_P < low) | (factors.theta_P > high)
    if outside_P.any():
        place = int(outside_P.argmax())
        layer, index = (int(c[place]) for c in (factors.neurons.layer_P, factors.neurons.index_P))
        raise ConfigError(
            f"neurons.source = {source}: the factor {factors.theta_P[place]:.3g} of layer {layer}, "
            f"neuron {index} lies outside tune.factor_min .. tune.factor_max. Widen them."
        )
