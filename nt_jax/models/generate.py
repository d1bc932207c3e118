"""Greedy and sampled decoding with a KV cache. B rows, P prompt width, M new tokens, S = P + M."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int

from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import (
    LanguageModel,
    Transformer,
    attend,
    forward,
    run_block,
    unembed,
)


@functools.partial(jax.jit, static_argnames=("max_new", "temperature"))
def generate(
    lm: LanguageModel,
    scale_LF: Array,
    prompt_BP: Int[Array, "B P"],
    mask_BP: Bool[Array, "B P"],
    *,
    max_new: int,
    temperature: float = 0.0,
    key: Array | None = None,
) -> Int[Array, "B M"]:
    """New tokens [B, max_new] after left-padded prompts; every place after an EOS holds that EOS.

    temperature 0 is greedy; otherwise `key` (a jax.random key) draws from the tempered softmax.
    Decoding stops early once every row has ended. Rows without any real token count as ended.
    """
    model, config = lm.module(scale_LF), lm.config
    batch, width = prompt_BP.shape
    trace = forward(model, config, prompt_BP, mask_BP, keep_cache=True)
    room = ((0, 0), (0, 0), (0, max_new), (0, 0), (0, 0))
    cache = (jnp.pad(trace.keys_LBTKH, room), jnp.pad(trace.values_LBTKH, room))
    eos_E = jnp.asarray(config.eos_ids or (-1,), jnp.int32)  # -1: a model that never ends
    length_B = mask_BP.astype(jnp.int32).sum(axis=1, dtype=jnp.int32)
    key = jax.random.key(0) if key is None else key

    def pick(x_B1D: Array, step: Array) -> Array:
        logits_BV = unembed(model, x_B1D, config.rms_eps)[:, 0]
        if temperature == 0.0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        draw = jax.random.fold_in(key, step)
        return jax.random.categorical(draw, logits_BV / temperature).astype(jnp.int32)

    def more(carry: tuple) -> Array:
        step, _, _, done_B, _ = carry
        return (step < max_new) & ~done_B.all()

    def advance(carry: tuple) -> tuple:
        step, new_BM, last_B, done_B, cache = carry
        new_BM = jax.lax.dynamic_update_slice(new_BM, last_B[:, None], (0, step))
        done_B = done_B | (last_B[:, None] == eos_E[None]).any(axis=1)
        x_B1D, cache = decode_step(lm, model, last_B, length_B + step, mask_BP, width + step, cache)
        last_B = jnp.where(done_B, last_B, pick(x_B1D, step + 1))
        return step + 1, new_BM, last_B, done_B, cache

    first_B = pick(trace.x_BTD[:, -1:], jnp.int32(0))
    done_B = ~mask_BP.any(axis=1)
    first_B = jnp.where(done_B, config.eos_ids[0] if config.eos_ids else 0, first_B)
    blank_BM = jnp.zeros((batch, max_new), jnp.int32)
    steps, new_BM, last_B, _, _ = jax.lax.while_loop(
        more, advance, (jnp.int32(0), blank_BM, first_B, done_B, cache)
    )
    never_ran_M = jnp.arange(max_new, dtype=jnp.int32) >= steps  # all rows had ended by then
    return jnp.where(never_ran_M[None], last_B[:, None], new_BM)


def decode_step(
    lm: LanguageModel,
    model: Transformer,
    token_B: Array,
    position_B: Array,
    mask_BP: Array,
    column: Array,
    cache: tuple[Array, Array],
) -> tuple[Array, tuple[Array, Array]]:
    """(x_B1D after the last layer, cache) for one more token per row, written at `column`."""
    config = lm.config
    graphdef, stacked = nnx.split(model.blocks)
    dtype = model.embed[...].dtype
    rotary = rotary_tables(position_B[:, None], config.rope, config.head_dim, dtype)
    width, room = mask_BP.shape[1], cache[0].shape[2] - mask_BP.shape[1]
    new_S = (jnp.arange(room, dtype=jnp.int32) + width <= column)[None].repeat(
        mask_BP.shape[0], axis=0
    )
    mask_B1S = jnp.concatenate([mask_BP, new_S], axis=1)[:, None]

    def layer(carry: tuple, per_layer: tuple):
        x_B1D, keys_LBSKH, values_LBSKH = carry
        index, state = per_layer

        def mix(q: Array, k: Array, v: Array) -> Array:
            # The cache is a loop carry written in place; a scan output would copy it every token.
            nonlocal keys_LBSKH, values_LBSKH
            at = (index, 0, column, 0, 0)
            keys_LBSKH = jax.lax.dynamic_update_slice(keys_LBSKH, k[None], at)
            values_LBSKH = jax.lax.dynamic_update_slice(values_LBSKH, v[None], at)
            keys = jax.lax.dynamic_index_in_dim(keys_LBSKH, index, keepdims=False)
            values = jax.lax.dynamic_index_in_dim(values_LBSKH, index, keepdims=False)
            return attend(q, [keys], [values], [mask_B1S])

        x_B1D, _ = run_block(nnx.merge(graphdef, state), x_B1D, rotary, config.rms_eps, mix)
        return (x_B1D, keys_LBSKH, values_LBSKH), None

    x_B1D = jnp.take(model.embed[...], token_B, axis=0)[:, None]
    layers = jnp.arange(config.layers, dtype=jnp.int32)
    (x_B1D, keys, values), _ = jax.lax.scan(layer, (x_B1D, *cache), (layers, stacked))
    return x_B1D, (keys, values)
