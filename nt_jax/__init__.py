"""nt_jax: NeuronTune in JAX. Safe under attack, and still helpful.

The names below are imported when first used, so that `nt-jax --help` answers without jax.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "make_mesh": "nt_jax.mesh",
    "open_checkpoint": "nt_jax.checkpoints.checkpoint",
    "load_model": "nt_jax.checkpoints.checkpoint",
    "load_tokenizer": "nt_jax.checkpoints.tokenizer",
    "encode_chat": "nt_jax.checkpoints.tokenizer",
    "logits": "nt_jax.models.transformer",
    "answer_prompts": "nt_jax.generate.engine",
    "attribute": "nt_jax.attribution.integrated",
    "select": "nt_jax.attribution.select",
    "meta_gradient": "nt_jax.train.maml",
    "meta_step": "nt_jax.train.maml",
    "export_hf": "nt_jax.export.hf",
    "load_config": "nt_jax.config.load",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nt_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
