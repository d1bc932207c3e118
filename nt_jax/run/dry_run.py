"""What a run is about to do: one header line, sizes, and the memory it will take."""

import math
from collections.abc import Callable, Sequence

import jax

from nt_jax import __version__
from nt_jax.attribution.select import check_counts
from nt_jax.checkpoints.checkpoint import MODEL_DTYPES, check_mesh, open_checkpoint
from nt_jax.config.schema import RunConfig, dump_config
from nt_jax.data.packing import PackedBatch, Row, cheapest_shape, pack_rows
from nt_jax.eval.prompts import test_choices, test_prompts
from nt_jax.mesh import make_mesh
from nt_jax.models.config import ModelConfig
from nt_jax.models.transformer import LanguageModel, dim_sizes, leaf_axes
from nt_jax.runinfo import memory_bytes
from nt_jax.train.own_answers import read_records

GB = 1e9
SLOPE_ROWS = 8  # at most; more are no faster
SEQUENCE_TOKENS = 1024  # at most, as attention costs by the square
HEAD_BYTES = 12  # of a logit and what its gradient needs, in float32


def parameters(config: ModelConfig) -> int:
    """Number of weights, a tied embedding counted once."""
    sizes = dim_sizes(config)
    return sum(math.prod(sizes[axis] for axis in axes) for axes in leaf_axes(config).values())


def header(config: RunConfig) -> str:
    """The first line of a run."""
    found = jax.devices()
    kind = "cpu" if found[0].platform == "cpu" else found[0].device_kind
    return (
        f"nt_jax {__version__}   {config.name}   {kind} x {len(found)}   "
        f"{memory_bytes() / GB:.0f} GB memory   run directory {config.folder}"
    )


def model_line(config: ModelConfig) -> str:
    """The model in one line."""
    return (
        f"{config.family}, {parameters(config) / 1e6:,.1f} M parameters, "
        f"{config.layers} x {config.neurons:,} neurons"
    )


def layer_parameters(model: ModelConfig) -> int:
    """Number of weights of one layer."""
    sizes = dim_sizes(model)
    return sum(
        math.prod(sizes[axis] for axis in axes if axis != "L")
        for axes in leaf_axes(model).values()
        if "L" in axes
    )


def sequence_cost(model: ModelConfig) -> Callable[[int], float]:
    """Multiplications of one layer over a sequence of so many tokens: weights, then attention."""
    weights = layer_parameters(model)
    return lambda tokens: tokens * (weights + 2 * tokens * model.heads * model.head_dim)


def tuning_tokens(config: RunConfig, model: ModelConfig, longest: int) -> tuple[int, bool, float]:
    """(most tokens differentiated together, whether to recompute layers, bytes of a token).

    `longest` is the longest row. Second order holds about three times the activations of a
    stretch. As many tokens as fit a quarter of the device's memory (2 GB on CPU), at most
    SEQUENCE_TOKENS; layers are recomputed, a seventh slower or more, only where the longest row
    does not fit half of it.
    """
    room = _memory_limit() // 4
    fits = [
        n
        for n in range(16, SEQUENCE_TOKENS + 1, 16)
        if 3 * n * token_bytes(config, model, n) <= room
    ]
    remat = 3 * longest * token_bytes(config, model, longest) > 2 * room
    most = max(config.tune.sequence_tokens or max(fits, default=0), longest)
    per_token = 3 * token_bytes(config, model, most)
    if remat:  # what enters each layer, and one layer at a time
        item = MODEL_DTYPES[config.model.dtype].itemsize
        one = per_token - 3 * HEAD_BYTES * model.vocab_size
        per_token -= one - one // tuned_layers(config, model) - item * model.width * model.layers
    return most, remat, per_token


def packed(config: RunConfig, lm: LanguageModel, rows: Sequence[Row]) -> PackedBatch:
    """All rows in the cheapest sequences that memory allows, numpy arrays [S, B, ...]."""
    most, _, _ = tuning_tokens(config, lm.config, max(row.tokens for row in rows))
    shape = cheapest_shape([rows], lm.mesh.shape["data"], most, sequence_cost(lm.config))
    return pack_rows(rows, shape)


def slope_rows(config: RunConfig, model: ModelConfig, tokens: int) -> tuple[int, bool]:
    """(rows of `tokens` tokens whose slopes are taken together, whether to recompute layers)."""
    fits = int(_memory_limit() // 4 // (tokens * token_bytes(config, model, tokens)))
    step = config.mesh.data
    return max(step, min(SLOPE_ROWS, fits) // step * step), fits < step


def tuned_layers(config: RunConfig, model: ModelConfig) -> int:
    """Layers that a gradient goes through, at most."""
    return max(1, model.layers - config.neurons.first_layer)


def token_bytes(config: RunConfig, model: ModelConfig, tokens: int) -> int:
    """What the gradient of a loss holds for one of so many tokens of a sequence.

    Activations, its row of attention weights, and logits, should it be a target.
    """
    item = MODEL_DTYPES[config.model.dtype].itemsize
    attention = model.heads * tokens * (4 + item)
    layer = item * (10 * model.width + 6 * model.neurons) + attention
    return tuned_layers(config, model) * layer + HEAD_BYTES * model.vocab_size


def _memory_limit() -> int:
    """Bytes of the device; what a small machine has, where it does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 8 << 30)


def memory_estimate(config: RunConfig, model: ModelConfig) -> dict[str, float]:
    """Bytes per part of a run; the largest step decides, so the total is weights + max."""
    item = MODEL_DTYPES[config.model.dtype].itemsize
    weights = parameters(model) * item
    width = 256  # prompt tokens assumed per row; the real width is known once data are read
    tokens, _, each = tuning_tokens(config, model, width + config.tune.answer_tokens)
    # A copy of the layers from the lowest chosen neuron on, which may lie in any layer but 0.
    above = model.layers - max(1, config.neurons.first_layer)
    copied = item * layer_parameters(model) * above
    tuning = tokens * each + copied  # tuning holds the upper layers apart
    cache = 2 * item * model.layers * model.kv_heads * model.head_dim
    decoding = 2 * config.eval.batch_size * (width + config.eval.max_new_tokens) * cache
    check = weights  # the export is read again beside the model
    return {
        "weights": weights,
        "tuning": tuning,
        "decoding": decoding,
        "export check": check,
        "total": weights + max(tuning, decoding, check),
    }


def check_sizes(config: RunConfig, model: ModelConfig) -> None:
    """Raises a ConfigError, before any work, if mesh or neuron counts do not fit the model."""
    check_mesh(model, make_mesh(config.mesh.data, config.mesh.model))
    chosen, shape = config.neurons, (model.layers, model.neurons)
    check_counts(chosen.safety, chosen.utility, shape, chosen.first_layer)


def data_lines(config: RunConfig) -> list[str]:
    """What is tuned on and what is asked afterwards, all files read; errors as the run has them."""
    told = []
    for part, records in read_records(config).items():
        told.append(
            f"{len(records.harmful):,} harmful, {len(records.harmless):,} harmless requests and "
            f"{len(records.templates)} attacks for {part}"
        )
    asked = (
        f"{len(test_prompts(config.eval)):,} requests, {len(test_choices(config.eval)):,} choice"
    )
    return [f"data       {'; '.join(told)}", f"tests      {asked} questions"]


def describe(config: RunConfig) -> str:
    """The resolved config, data, sizes and memory of a run, for --dry-run."""
    checkpoint = open_checkpoint(config.model.source, config.model.revision)
    model = checkpoint.config
    check_sizes(config, model)
    chosen = config.neurons.safety + config.neurons.utility
    share = 100 * chosen / (model.layers * model.neurons)
    memory = memory_estimate(config, model)
    parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in memory.items())
    return "\n".join([
        header(config),
        f"model      {model_line(model)}",
        f"weights    {checkpoint.path}",
        *data_lines(config),
        f"neurons    {chosen:,} of {model.layers * model.neurons:,} may change ({share:.1f} %)",
        f"memory     about {memory['total'] / GB:.1f} GB ({parts})",
        "",
        dump_config(config).rstrip(),
        "",
        "dry run: nothing was written",
    ])  # fmt: skip
