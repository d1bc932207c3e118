"""Chosen neurons and their learned factors. P chosen neurons, L layers, F neurons of a layer."""

import dataclasses

import jax
import numpy as np

from nt_jax.errors import ConfigError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NeuronSet:
    """The P chosen neurons, safety ones first, each set in order of falling score."""

    layer_P: jax.Array | np.ndarray  # int32
    index_P: jax.Array | np.ndarray  # int32, the neuron's column in its layer
    is_safety_P: jax.Array | np.ndarray  # bool; False means utility

    def __len__(self) -> int:
        return int(self.layer_P.shape[0])

    def check(self, layers: int, width: int) -> None:
        """Raises a ConfigError where a model of so many layers and neurons lacks one of these."""
        for layer, index in zip(np.asarray(self.layer_P), np.asarray(self.index_P), strict=True):
            if not (0 <= layer < layers and 0 <= index < width):
                raise ConfigError(
                    f"Neuron {index} of layer {layer} is in no model of {layers} layers with "
                    f"{width} neurons each: these neurons were found in another model."
                )


@dataclasses.dataclass(frozen=True)
class Factors:
    """What tuning learns: one factor per chosen neuron; 1 leaves a neuron alone."""

    neurons: NeuronSet
    theta_P: np.ndarray  # float32

    def __post_init__(self) -> None:
        if len(self.neurons) != len(self.theta_P):
            raise ConfigError(
                f"{len(self.theta_P)} factors for {len(self.neurons)} neurons: one each is needed."
            )

    def scale_LF(self, layers: int, width: int) -> np.ndarray:
        """Float32 [L, F]: the factors at their neurons, exactly 1 elsewhere.

        Raises a ConfigError where the neurons are not in a model of that shape.
        """
        self.neurons.check(layers, width)
        scale_LF = np.ones((layers, width), np.float32)
        scale_LF[self.neurons.layer_P, self.neurons.index_P] = self.theta_P
        return scale_LF

    def at_strength(self, strength: float, low: float = -np.inf, high: float = np.inf) -> "Factors":
        """The share `strength` of the way from 1 to these factors, within their bounds."""
        theta_P = np.clip(1 + strength * (np.asarray(self.theta_P) - 1), low, high)
        return dataclasses.replace(self, theta_P=theta_P)

    def arrays(self) -> dict[str, np.ndarray]:
        """As plain arrays by name, to be saved."""
        chosen = {field.name: np.asarray(getattr(self.neurons, field.name)) for field in _FIELDS}
        return chosen | {"theta_P": np.asarray(self.theta_P)}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Factors":
        """What `arrays` gave."""
        names = [field.name for field in _FIELDS]
        return cls(NeuronSet(**{name: arrays[name] for name in names}), arrays["theta_P"])


_FIELDS = dataclasses.fields(NeuronSet)
