"""Factors of neurons as one safetensors file: what tuning learned, apart from any model.

Tensors: layer, index (int32), factor (float32), is_safety (bool), one entry a chosen neuron.
Metadata: what the base is called and a hash of it, its sizes, the strength, our version.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nt_jax.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from nt_jax.checkpoints.adapter import open_adapter
from nt_jax.checkpoints.checkpoint import Checkpoint, fingerprint
from nt_jax.checkpoints.hf_fields import problems_error
from nt_jax.errors import ConfigError
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.version import __version__

FILE = "factors.safetensors"
FORMAT = "nt_jax factors 1"
_TENSORS = {"layer": np.int32, "index": np.int32, "factor": np.float32, "is_safety": np.bool_}


@dataclass(frozen=True)
class FactorsFile:
    """Factors and what is known of where they come from; an (IA)^3 adapter knows less."""

    factors: Factors
    layers: int
    neurons: int
    base: str
    base_sha256: str  # fingerprint of the base's files; "" where it is not known
    strength: str = ""  # share of the way from 1 to what was learned; "" where it is not known

    @property
    def share(self) -> float | None:
        """`strength` as a number; None where it is not known."""
        try:
            found = float(self.strength)
        except ValueError:
            return None
        return found if 0 <= found < math.inf else None

    def scale_LF(self) -> np.ndarray:
        """Float32 [L, F]: the factors at their neurons, 1 elsewhere."""
        return self.factors.scale_LF(self.layers, self.neurons)


def load_factors(path: Path | str, checkpoint: Checkpoint | None = None) -> Factors:
    """The factors at `path`: a file, a folder with one, or a PEFT (IA)^3 adapter of down_proj.

    With a checkpoint they are checked to fit it; other weights of the same sizes are a warning. An
    adapter needs one, and all of its neurons count as safety neurons. Raises a CheckpointError for
    a file that is damaged, or for factors of another model.
    """
    return read_factors(path, checkpoint).factors


def read_factors(path: Path | str, checkpoint: Checkpoint | None = None) -> FactorsFile:
    """`load_factors` with what the file says of where they come from."""
    path = Path(path).expanduser()
    if (path / ADAPTER_CONFIG).is_file():
        return _of_adapter(path, checkpoint)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        said = f"no factors there, neither {FILE} nor a PEFT adapter"
        raise problems_error(path, [f"{said}. Give a file or a folder that has them."])
    found = _read(file)
    if checkpoint is not None:
        _check_fit(file, found, checkpoint)
    return found


def save_factors(path: Path, found: FactorsFile) -> None:
    """Write a file that `read_factors` reads."""
    neurons, theta_P = found.factors.neurons, found.factors.theta_P
    columns = (neurons.layer_P, neurons.index_P, theta_P, neurons.is_safety_P)
    tensors = {
        name: np.ascontiguousarray(column, dtype)
        for (name, dtype), column in zip(_TENSORS.items(), columns, strict=True)
    }
    about = {
        "format": FORMAT, "base": found.base, "base_sha256": found.base_sha256,
        "layers": str(found.layers), "neurons": str(found.neurons), "strength": found.strength,
        "nt_jax": __version__,
    }  # fmt: skip
    save_file(tensors, path, metadata=about)
    path.chmod(path.stat().st_mode | 0o444)


def _read(file: Path) -> FactorsFile:
    try:
        with safe_open(file, "np") as opened:
            about = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if about.get("format") != FORMAT:
            raise ValueError(f"format '{about.get('format')}' is not '{FORMAT}'")
        for name, dtype in _TENSORS.items():
            if arrays[name].ndim != 1 or arrays[name].dtype != dtype:
                raise ValueError(f"'{name}' is not a list of {np.dtype(dtype).name}")
        sizes = int(about["layers"]), int(about["neurons"])
        factors = Factors(
            NeuronSet(arrays["layer"], arrays["index"], arrays["is_safety"]), arrays["factor"]
        )
        factors.neurons.check(*sizes)
        places = set(zip(arrays["layer"].tolist(), arrays["index"].tolist(), strict=True))
        if len(places) < len(factors.theta_P) or len(arrays["is_safety"]) != len(places):
            raise ValueError("a neuron occurs twice, or the lists differ in length")
        if not np.isfinite(factors.theta_P).all():
            raise ValueError("a factor is not finite")
    except (OSError, SafetensorError, ValueError, KeyError, ConfigError) as error:
        raise problems_error(
            file, [f"no readable file of factors ({error}). Export it again: --format factors."]
        ) from error
    known = {name: about.get(name, "") for name in ("base", "base_sha256", "strength")}
    return FactorsFile(factors, *sizes, **known)


def _of_adapter(path: Path, checkpoint: Checkpoint | None) -> FactorsFile:
    if checkpoint is None:
        raise problems_error(path, ["an adapter is read as factors beside its model only."])
    size = checkpoint.config
    adapter = open_adapter(path, size)
    scale_LF = adapter.down_LF(size)
    layer_P, index_P = (place.astype(np.int32) for place in np.nonzero(scale_LF != 1))
    neurons = NeuronSet(layer_P, index_P, np.ones(len(layer_P), bool))
    factors = Factors(neurons, scale_LF[layer_P, index_P])
    return FactorsFile(factors, size.layers, size.neurons, adapter.base or "", "")


def _check_fit(file: Path, found: FactorsFile, checkpoint: Checkpoint) -> None:
    """Refuse other sizes; say where weights are others."""
    size = checkpoint.config
    if (found.layers, found.neurons) != (size.layers, size.neurons):
        raise problems_error(
            file,
            [
                f"factors of a model of {found.layers} layers with {found.neurons} neurons; "
                f"{checkpoint.path.name} has {size.layers} with {size.neurons}."
            ],
        )
    if found.base_sha256 and found.base_sha256 != fingerprint(checkpoint):
        logging.getLogger(__name__).warning(
            "%s: learned on other files than %s (its base is %s); what they do there is unknown",
            file, checkpoint.path.name, found.base,
        )  # fmt: skip
