"""The exact LoRA adapter for llama.cpp and Ollama, in the form of llama.cpp's own converter.

Format: a GGUF file of general.type adapter, with lora_a [r, F] and lora_b [D, r] beside the name
of each weight (llama.cpp, convert_lora_to_gguf.py). llama.cpp multiplies a layer's change by alpha
over that layer's rank, which B of a layer with a lower rank makes good. float32, whatever the base.
"""

from pathlib import Path

import numpy as np

from nt_jax.checkpoints.gguf_names import BLOCK_NAMES
from nt_jax.export.folder import ExportReport, Wanted, appearing, by_first, digests
from nt_jax.export.gguf_file import plain, typed, write_gguf, write_modelfile
from nt_jax.export.lora import error_note, layer_changes
from nt_jax.export.peft import base_name, report_of
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors

FILE = "lora.gguf"
_DOWN = next(ours for ours, theirs in BLOCK_NAMES.items() if theirs == "mlp.down_proj")


@by_first
def write(model: ChatModel, factors: Factors, out: Path, wanted: Wanted) -> ExportReport:
    """The factors as a LoRA adapter for llama.cpp, exact or cut to `wanted.rank`.

    Raises a ConfigError where every factor is 1.
    """
    checkpoint = model.checkpoint
    changes = list(layer_changes(checkpoint, factors, wanted.rank))
    top = max(change.rank for change in changes)
    tensors = {}
    for change in changes:
        name = f"blk.{change.layer}.{_DOWN}.weight"
        tensors[f"{name}.lora_a"] = plain(change.a_rF)
        tensors[f"{name}.lora_b"] = plain(change.b_Dr * np.float32(change.rank / top))
    metadata = {
        "general.type": "adapter",
        "general.name": f"NeuronTune for {base_name(checkpoint, wanted).split('/')[-1]}",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(top),
    }
    with appearing(out, sum(stored.size for stored in tensors.values())) as work:
        typed_metadata = {name: typed(value) for name, value in metadata.items()}
        write_gguf(work / FILE, architecture(checkpoint.config.family), typed_metadata, tensors)
        write_modelfile(work, **{"from": "BASE", "adapter": f"./{FILE}"})
        sha256 = digests(work)
    layers = [change.layer for change in changes]
    notes = (f"llama-server -m BASE.gguf --lora {FILE}; Ollama: Modelfile",)
    return report_of(checkpoint, layers, out, sha256, notes, error_note(changes))


def architecture(family: str) -> str:
    """What llama.cpp calls a model family."""
    return "llama" if family == "mistral" else family
