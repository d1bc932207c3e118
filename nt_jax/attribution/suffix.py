"""The model from any layer on, for the few tokens that a patch can reach.

The patch sits at the last prompt token, so nothing before it ever changes: the prompt is run once
and only the suffix [last prompt token, answer tokens but the last] is run again, from the layer
after the patched one. Exact, and hundreds of times less work than whole forward passes.

Letters beside those of models/transformer.py: T suffix tokens (T = number of answer tokens read),
S prompt tokens before the last one, R rows (one per patched layer and interpolation node).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nt_jax.models.attention import Sees, given
from nt_jax.models.fused_attention import attention_of
from nt_jax.models.layers import Block, at_layer, block_at, rms_norm
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import LanguageModel, forward, positions, token_log_probs, unembed

# Of a layer: the stream that enters it, q, k and v, the stream after attention, neurons' inputs.
Kept = tuple[Array, tuple[Array, ...], Array, tuple[Array, ...]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """What one clean pass over an attacked prompt and its answer leaves for all patched rows."""

    keys_LSKH: Array  # [L, 1, S, K, H]
    values_LSKH: Array
    mask_TS: Array  # [1, T, S]: False on the left padding
    own_mask_TT: Array  # [1, T, T]: causal, False on answer padding
    cos_TH: Array  # [1, T, H]
    sin_TH: Array
    entry_TD: Array  # clean residual stream of the suffix before the first layer
    after_LTD: Array  # and after each layer
    act_LF: Array  # v_pq: clean neurons at the last prompt token
    answer_T: Array  # the tokens whose probability is the target
    answer_mask_T: Array

    @property
    def sees(self) -> list[Sees]:
        """What suffix tokens see of the prompt, and of themselves."""
        return [given(self.mask_TS), given(self.own_mask_TT)]


@jax.jit
def run_prefix(
    lm: LanguageModel, prompt_P: Array, mask_P: Array, answer_T: Array, answer_mask_T: Array
) -> Prefix:
    """One clean pass over [prompt, answer but its last token]; see `Prefix`."""
    model, config = lm.module(), lm.config
    width = prompt_P.shape[0]
    token_BT = jnp.concatenate([prompt_P, answer_T[:-1]])[None]
    mask_BT = jnp.concatenate([mask_P, answer_mask_T[:-1]])[None]
    at = width - 1
    trace = forward(model, config, token_BT, mask_BT, read_at=at, keep_cache=True, inputs_from=at)
    place_BT, dtype = positions(mask_BT), model.embed[...].dtype
    cos, sin = rotary_tables(place_BT, config.rope, config.head_dim, dtype)
    length = answer_T.shape[0]
    own_mask = jnp.tril(jnp.ones((length, length), bool))[None] & mask_BT[:, None, at:]
    seen = jnp.broadcast_to(mask_BT[:, None, :at], (1, length, at))
    after_LTD = jnp.concatenate([trace.input_LBTD[1:, 0], trace.x_BTD[:, at:]])
    return Prefix(
        trace.keys_LBTKH[:, :, :at], trace.values_LBTKH[:, :, :at], seen, own_mask,
        cos[:, at:], sin[:, at:], trace.input_LBTD[0, 0], after_LTD, trace.act_LBF[:, 0],
        answer_T, answer_mask_T,
    )  # fmt: skip


def _projected(
    lm: LanguageModel, prefix: Prefix, block: Block, x_TD: Array
) -> tuple[Array, Array, Array]:
    """The layer's q, k and v of the suffix."""
    normed_BTD = rms_norm(x_TD[None], block.attn_norm[...], lm.config.rms_eps)
    return block.attn.project(normed_BTD, prefix.cos_TH, prefix.sin_TH, lm.config.rms_eps)


def _mixed(lm: LanguageModel, prefix: Prefix, index: Array, q: Array, k: Array, v: Array) -> Array:
    """What the suffix attends to, in the prompt and in itself."""
    past_k, past_v = at_layer((prefix.keys_LSKH, prefix.values_LSKH), index)
    return attention_of(lm)(q, [past_k, k], [past_v, v], prefix.sees)


def _layer(lm: LanguageModel, prefix: Prefix, index: Array, x_TD: Array) -> tuple[Array, Kept]:
    """(the stream after the layer, what it keeps for the way back)."""
    block = block_at(lm.module().blocks, index)
    heads = _projected(lm, prefix, block, x_TD)
    mid_BTD = x_TD[None] + block.attn.give(_mixed(lm, prefix, index, *heads))
    inputs = block.mlp.inputs(rms_norm(mid_BTD, block.mlp_norm[...], lm.config.rms_eps))
    after_BTD = mid_BTD + block.mlp.project(block.mlp.fire(*inputs))
    return after_BTD[0], (x_TD, heads, mid_BTD, inputs)


def _run(lm: LanguageModel, prefix: Prefix, begin: Array, enter: Array, x_TD: Array):
    """(x_TD after the last layer, what each layer keeps for the way back)."""
    layers = lm.config.layers

    def body(index: Array, carry: tuple[Array, Kept]) -> tuple[Array, Kept]:
        now_TD, kept = carry
        now_TD, new = _layer(lm, prefix, index, jnp.where(index == enter, x_TD, now_TD))
        return now_TD, jax.tree.map(lambda every, one: _put(every, one, index), kept, new)

    _, kept = jax.eval_shape(lambda x_TD: _layer(lm, prefix, jnp.int32(0), x_TD), x_TD)
    blank = jax.tree.map(lambda one: jnp.zeros((layers, *one.shape), one.dtype), kept)
    last_TD, kept = jax.lax.fori_loop(begin, jnp.int32(layers), body, (x_TD, blank))
    return jnp.where(enter == layers, x_TD, last_TD), kept


@jax.custom_batching.custom_vmap
def _put(every_L: Array, one: Array, index: Array) -> Array:
    """`every_L` with `one` at `index`."""
    return jax.lax.dynamic_update_index_in_dim(every_L, one, index, 0)


@_put.def_vmap
def _put_rows(
    size: int, batched: Sequence[bool], every_RL: Array, one_R: Array, index: Array
) -> tuple[Array, bool]:
    """The same of many rows: jax's own rule scatters, which moves three times as much."""
    every_RL, one_R = (
        each if mapped else jnp.broadcast_to(each, (size, *each.shape))
        for each, mapped in zip((every_RL, one_R), batched, strict=False)
    )
    return jax.lax.dynamic_update_index_in_dim(every_RL, one_R, index, 1), True


@jax.custom_vjp
def run_from(lm: LanguageModel, prefix: Prefix, begin: Array, enter: Array, x_TD: Array) -> Array:
    """x_TD after the last layer, for a row whose stream enters layer `enter` as `x_TD`.

    `begin` <= `enter` is where the loop starts for all rows of a batch: one compiled program serves
    every group of layers. What a row computes before it enters is thrown away. The loop's length is
    traced, so its reverse pass is written here, layer by layer; of what a layer computes it keeps
    all products but that of attention's scores.
    """
    return _run(lm, prefix, begin, enter, x_TD)[0]


def _run_forward(lm: LanguageModel, prefix: Prefix, begin: Array, enter: Array, x_TD: Array):
    last_TD, kept = _run(lm, prefix, begin, enter, x_TD)
    return last_TD, (lm, prefix, begin, enter, kept)


def _layer_backward(lm: LanguageModel, prefix: Prefix, index: Array, kept: Kept, flow_TD: Array):
    """The cotangent of a layer's input stream, given that of its output."""
    block, flow_BTD = block_at(lm.module().blocks, index), flow_TD[None]
    x_TD, heads, mid_BTD, inputs = at_layer(kept, index)
    act_BTF, pull_fire = jax.vjp(block.mlp.fire, *inputs)
    normed_BTD, pull_norm = jax.vjp(
        lambda x: rms_norm(x, block.mlp_norm[...], lm.config.rms_eps), mid_BTD
    )
    (flow_BTF,) = jax.linear_transpose(block.mlp.project, act_BTF)(flow_BTD)
    (flow_normed_BTD,) = jax.linear_transpose(block.mlp.inputs, normed_BTD)(pull_fire(flow_BTF))
    flow_BTD = flow_BTD + pull_norm(flow_normed_BTD)[0]
    mixed_BTNH, pull_mixed = jax.vjp(functools.partial(_mixed, lm, prefix, index), *heads)
    (flow_BTNH,) = jax.linear_transpose(block.attn.give, mixed_BTNH)(flow_BTD)
    _, pull_projected = jax.vjp(functools.partial(_projected, lm, prefix, block), x_TD)
    return flow_BTD[0] + pull_projected(pull_mixed(flow_BTNH))[0]


def _run_backward(residuals: tuple, cotangent_TD: Array):
    lm, prefix, begin, enter, kept = residuals
    layers = lm.config.layers
    zero_TD = jnp.zeros_like(cotangent_TD)

    def body(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        flow_TD, caught_TD = carry
        index = layers - 1 - step
        flow_TD = _layer_backward(lm, prefix, index, kept, flow_TD)
        entered = index == enter
        return jnp.where(entered, zero_TD, flow_TD), caught_TD + jnp.where(entered, flow_TD, 0)

    at_end = enter == layers
    start = (jnp.where(at_end, zero_TD, cotangent_TD), jnp.where(at_end, cotangent_TD, zero_TD))
    _, caught_TD = jax.lax.fori_loop(jnp.int32(0), layers - begin, body, start)
    return None, None, None, None, caught_TD


run_from.defvjp(_run_forward, _run_backward)


def target_value(lm: LanguageModel, prefix: Prefix, x_TD: Array, target: str) -> Float[Array, ""]:
    """P(answer) of Eq. 3 from the last layer's stream, read as `target` says (float32 or wider)."""
    logits_BTV = unembed(lm.module(), x_TD[None], lm.config.rms_eps)
    log_prob_T = token_log_probs(logits_BTV, prefix.answer_T[None])[0]
    total = jnp.where(prefix.answer_mask_T, log_prob_T, 0).sum()
    if target == "first_token":
        return jnp.exp(log_prob_T[0])
    if target == "sum_logprob":
        return total
    length = prefix.answer_mask_T.astype(total.dtype).sum()
    return jnp.exp(total / jnp.maximum(length, 1))
