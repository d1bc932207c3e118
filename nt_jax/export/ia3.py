"""(IA)^3 for PEFT: a factor of every neuron, bit for bit what the hf export folds in.

An (IA)^3 vector on a feed-forward module scales its inputs, and inputs of down_proj are neurons:
the factors are such a vector as they are. PEFT merges them by one product in float32 that is
rounded once to the type of the weight, as nt_jax/export/hf.py does. Unmerging divides and is not
exact. Format: peft/tuners/ia3 of PEFT 0.21.
"""

from pathlib import Path

from nt_jax.export.folder import ExportReport, Wanted, by_first
from nt_jax.export.peft import TARGET, base_for_peft, down_modules, scaled_layers, write_adapter
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors


@by_first
def write(model: ChatModel, factors: Factors, out: Path, wanted: Wanted) -> ExportReport:
    """The factors as an (IA)^3 adapter; float32 whatever `wanted.dtype`, as PEFT keeps them.

    Raises a ConfigError where every factor is 1.
    """
    size = model.checkpoint.config
    scale_LF = factors.scale_LF(size.layers, size.neurons)
    layers, names = scaled_layers(scale_LF), down_modules(size.layers)
    tensors = {f"{n}.ia3_l": row_F[None] for n, row_F in zip(names, scale_LF, strict=True)}
    base = base_for_peft(model.checkpoint, wanted)
    fields = {"feedforward_modules": [TARGET], "init_ia3_weights": True}
    return write_adapter(model.checkpoint, "IA3", tensors, fields, layers, base, out)
