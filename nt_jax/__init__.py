"""nt_jax: NeuronTune in JAX. Safe under attack, and still helpful.

The names below are imported when first used, so that `nt-jax --help` answers without jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nt_jax.version import __version__

if TYPE_CHECKING:
    from nt_jax.attribution.find import Example, find_neurons
    from nt_jax.attribution.integrated import integrated_gradients
    from nt_jax.attribution.select import select
    from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
    from nt_jax.checkpoints.factors import load_factors
    from nt_jax.checkpoints.tokenizer import encode_chat, load_tokenizer
    from nt_jax.config.load import load_config
    from nt_jax.config.method import TuneConfig
    from nt_jax.data.prompts import Conversation
    from nt_jax.data.training import read_records
    from nt_jax.eval.evaluate import evaluate
    from nt_jax.eval.judges.judge import Judge
    from nt_jax.eval.judges.phrase_judge import PhraseJudge
    from nt_jax.export.hf import export_hf, save_model
    from nt_jax.generate.chat import ChatModel, load_model
    from nt_jax.generate.engine import answer_prompts
    from nt_jax.mesh import make_mesh
    from nt_jax.models.neurons import Factors, NeuronSet
    from nt_jax.models.transformer import logits
    from nt_jax.train.maml import meta_gradient, meta_step
    from nt_jax.train.tune import tune
    from nt_jax.train.tuning_data import TuningData, tuning_data

_HOMES = {
    "Example": "nt_jax.attribution.find",
    "find_neurons": "nt_jax.attribution.find",
    "integrated_gradients": "nt_jax.attribution.integrated",
    "select": "nt_jax.attribution.select",
    "load_weights": "nt_jax.checkpoints.checkpoint",
    "open_checkpoint": "nt_jax.checkpoints.checkpoint",
    "load_factors": "nt_jax.checkpoints.factors",
    "encode_chat": "nt_jax.checkpoints.tokenizer",
    "load_tokenizer": "nt_jax.checkpoints.tokenizer",
    "load_config": "nt_jax.config.load",
    "TuneConfig": "nt_jax.config.method",
    "Conversation": "nt_jax.data.prompts",
    "read_records": "nt_jax.data.training",
    "evaluate": "nt_jax.eval.evaluate",
    "Judge": "nt_jax.eval.judges.judge",
    "PhraseJudge": "nt_jax.eval.judges.phrase_judge",
    "export_hf": "nt_jax.export.hf",
    "save_model": "nt_jax.export.hf",
    "ChatModel": "nt_jax.generate.chat",
    "load_model": "nt_jax.generate.chat",
    "answer_prompts": "nt_jax.generate.engine",
    "make_mesh": "nt_jax.mesh",
    "Factors": "nt_jax.models.neurons",
    "NeuronSet": "nt_jax.models.neurons",
    "logits": "nt_jax.models.transformer",
    "meta_gradient": "nt_jax.train.maml",
    "meta_step": "nt_jax.train.maml",
    "tune": "nt_jax.train.tune",
    "TuningData": "nt_jax.train.tuning_data",
    "tuning_data": "nt_jax.train.tuning_data",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nt_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
