"""The memory of a run, per device: what --dry-run and doctor say."""

import dataclasses

import jax

from nt_jax.attribution.plan import row_bytes_of
from nt_jax.checkpoints.checkpoint import MODEL_DTYPES
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.mesh import SHARDING_RULES
from nt_jax.models.config import ModelConfig
from nt_jax.train.memory import GradientMemory, layer_parameters, parameters

WIDTH = 256  # prompt tokens assumed per row; the real width is known once data are read
SIZES = {"F": "neurons", "N": "heads", "K": "kv_heads", "V": "vocab_size"}


def part_of(model: ModelConfig, ways: int) -> ModelConfig:
    """The shape of what one of `ways` devices along mesh.model holds (check_mesh: they divide it).

    Every weight has one axis at most that is shared out, so its sizes say all.
    """
    split = [SIZES[letter] for letter, axis in SHARDING_RULES.items() if axis == "model"]
    return dataclasses.replace(model, **{name: getattr(model, name) // ways for name in split})


def memory_estimate(
    config: RunConfig, model: ModelConfig, limit: int | None = None
) -> dict[str, float]:
    """Bytes of a device per part of a run; the largest step decides: the total is weights + max.

    `limit`: bytes that a device has, those of the devices here unless given.
    """
    item, mesh = MODEL_DTYPES[config.model.dtype].itemsize, config.mesh
    model = part_of(model, mesh.model)
    weights = parameters(model) * item
    longest = WIDTH + config.tune.answer_tokens
    memory = gradient_memory(config, model)
    tokens, _, each = memory.tuning(longest, config.tune.sequence_tokens, limit)
    tuning = tokens * each
    cache = 2 * item * model.layers * model.kv_heads * model.head_dim
    rows = 2 * config.eval.batch_size / mesh.data
    decoding = rows * (WIDTH + config.eval.max_new_tokens) * cache
    if limit or jax.local_devices()[0].platform != "cpu":  # it holds the layers a second time
        decoding += item * layer_parameters(model) * model.layers
    check = weights  # the export is read again beside the model
    return {
        "weights": weights,
        "tuning": tuning,
        "decoding": decoding,
        "export check": check,
        "total": weights + max(tuning, decoding, check),
    }


def stage_bytes(
    config: RunConfig, model: ModelConfig, limit: int | None = None
) -> dict[str, float]:
    """Bytes that each stage holds on a device, weights included."""
    parts = memory_estimate(config, model, limit)
    weights, decoding = parts["weights"], parts["decoding"]
    local, answer = part_of(model, config.mesh.model), config.tune.answer_tokens
    if config.attribution.score == CONTRASTIVE:
        memory = gradient_memory(config, local)
        rows, _ = memory.slope_rows(WIDTH + answer, 1, limit)
        scores = rows * (WIDTH + answer) * memory.token_bytes(WIDTH + answer)
    else:  # as many rows as fit, one at least
        item = MODEL_DTYPES[config.model.dtype].itemsize
        scores = row_bytes_of(local, item, WIDTH, config.attribution.answer_tokens)
    held = {
        "answers": decoding,
        "attribute": scores,
        "train": max(parts["tuning"], decoding if config.tune.validation_answers else 0.0),
        "export": parts["export check"],
        "base": decoding,
        "tuned": decoding,
        "eval": decoding,
    }
    return {stage: weights + more for stage, more in held.items()}


def gradient_memory(config: RunConfig, model: ModelConfig) -> GradientMemory:
    """That of the layers that a gradient goes through."""
    item = MODEL_DTYPES[config.model.dtype].itemsize
    return GradientMemory(model, item, max(1, model.layers - config.neurons.first_layer))
