"""The model from any layer on, for the few tokens that a patch can reach.

The patch sits at the last prompt token, so nothing before it ever changes: the prompt is run once
and only the suffix [last prompt token, answer tokens but the last] is run again, from the layer
after the patched one. Exact, and hundreds of times less work than whole forward passes.

Letters beside those of models/transformer.py: T suffix tokens (T = number of answer tokens read),
S prompt tokens before the last one, R rows (one per patched layer and interpolation node).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nt_jax.models.attention import Sees, attend, given
from nt_jax.models.layers import Block, at_layer, block_at, rms_norm
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import LanguageModel, forward, positions, token_log_probs, unembed


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


def _attention(lm: LanguageModel, prefix: Prefix, block: Block, index: Array, x_TD: Array) -> Array:
    """The stream after the layer's attention, to the prefix and to the suffix itself; [1, T, D]."""
    past_k, past_v = at_layer((prefix.keys_LSKH, prefix.values_LSKH), index)

    def mix(q: Array, k: Array, v: Array) -> Array:
        return attend(q, [past_k, k], [past_v, v], prefix.sees)

    rotary = (prefix.cos_TH, prefix.sin_TH)
    return block.attend(x_TD[None], rotary, lm.config.rms_eps, mix)


def _run(lm: LanguageModel, prefix: Prefix, begin: Array, enter: Array, x_TD: Array):
    """(x_TD after the last layer, what each layer keeps for the way back)."""
    layers, width = lm.config.layers, lm.config.neurons

    def body(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        now_TD, input_LTD, inputs_LGTF = carry
        now_TD = jnp.where(index == enter, x_TD, now_TD)
        block = block_at(lm.module().blocks, index)
        mid_BTD = _attention(lm, prefix, block, index, now_TD)
        normed_BTD = rms_norm(mid_BTD, block.mlp_norm[...], lm.config.rms_eps)
        gate_BTF, up_BTF = block.mlp.inputs(normed_BTD)
        put = jax.lax.dynamic_update_index_in_dim
        input_LTD = put(input_LTD, now_TD, index, 0)
        inputs_LGTF = put(inputs_LGTF, jnp.concatenate([gate_BTF, up_BTF]), index, 0)
        after_BTD = mid_BTD + block.mlp.project(block.mlp.fire(gate_BTF, up_BTF))
        return after_BTD[0], input_LTD, inputs_LGTF

    blank_LTD = jnp.zeros((layers, *x_TD.shape), x_TD.dtype)
    blank_LGTF = jnp.zeros((layers, 2, x_TD.shape[0], width), x_TD.dtype)
    start = (x_TD, blank_LTD, blank_LGTF)
    last_TD, *kept = jax.lax.fori_loop(begin, jnp.int32(layers), body, start)
    return jnp.where(enter == layers, x_TD, last_TD), tuple(kept)


@jax.custom_vjp
def run_from(lm: LanguageModel, prefix: Prefix, begin: Array, enter: Array, x_TD: Array) -> Array:
    """x_TD after the last layer, for a row whose stream enters layer `enter` as `x_TD`.

    `begin` <= `enter` is where the loop starts for all rows of a batch: one compiled program serves
    every group of layers. What a row computes before it enters is thrown away. The loop's length is
    traced, so its reverse pass is written here, layer by layer; of what a layer computes it keeps
    the stream and the neurons' inputs (three quarters of the work) and repeats the attention.
    """
    return _run(lm, prefix, begin, enter, x_TD)[0]


def _run_forward(lm: LanguageModel, prefix: Prefix, begin: Array, enter: Array, x_TD: Array):
    last_TD, kept = _run(lm, prefix, begin, enter, x_TD)
    return last_TD, (lm, prefix, begin, enter, kept)


def _layer_backward(lm: LanguageModel, prefix: Prefix, index: Array, kept: tuple, flow_TD: Array):
    """The cotangent of a layer's input stream, given that of its output."""
    block, flow_BTD = block_at(lm.module().blocks, index), flow_TD[None]
    x_TD, (gate_TF, up_TF) = kept[0][index], kept[1][index]
    mid_BTD, pull_attention = jax.vjp(lambda x: _attention(lm, prefix, block, index, x), x_TD)
    act_BTF, pull_fire = jax.vjp(block.mlp.fire, gate_TF[None], up_TF[None])
    normed_BTD, pull_norm = jax.vjp(
        lambda x: rms_norm(x, block.mlp_norm[...], lm.config.rms_eps), mid_BTD
    )
    (flow_BTF,) = jax.linear_transpose(block.mlp.project, act_BTF)(flow_BTD)
    (flow_normed_BTD,) = jax.linear_transpose(block.mlp.inputs, normed_BTD)(pull_fire(flow_BTF))
    return pull_attention(flow_BTD + pull_norm(flow_normed_BTD)[0])[0]


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
