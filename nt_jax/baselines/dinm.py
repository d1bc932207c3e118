"""DINM: detoxifying with intraoperative neural monitoring, one edit of one down projection.

Source: Wang et al., "Detoxifying Large Language Models via Knowledge Editing" (ACL 2024, arXiv
2403.14472), and its release in EasyEdit. Find the layer in which a safe and an unsafe answer to
one request differ most, then tune that layer's down projection on this one example: edit loss
(NLL of the safe answer) and a constraint, KL(base || edited) on an answer to a harmless prompt.

Defaults: the release's for LLaMA: Adam, learning rate 5e-4 (Mistral: 1e-5), 10 steps, weight 0.1
on the edit loss, stop below 1e-4, answers of at most 600 tokens.
`kl_grad` True is the paper. False is the released code, which takes the KL outside of autograd, so
that it only counts for the early stop. `fraction` is the "percentage of parameters" of the
NeuronTune paper's Table 1, which no release has: here a seeded mask over the matrix's elements,
the larger fraction holding the smaller one.

Where we differ: one example decides and nothing is kept for a next one; layers are compared over
the tokens that both answers have, without padding; the safe answer to learn ends with EOS; the KL
is read where answer tokens are predicted (the release: one place further); the chat template is
used. Left out: weight decay and the bound on the change (off in every released setting), editing of
attention. The release puts a suffix behind every prompt, also at test time: SUFFIX, with
`intervention.Suffixed`; the example's prompts must then have it as well.

D model width, F neurons, L layers, B = 2 rows (edit, constraint), T tokens, A answer tokens.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from nt_jax.data.batching import AnswerBatch, bucket, pack, pad_right
from nt_jax.data.records import Ids
from nt_jax.errors import DataError, RunError
from nt_jax.models.attention import attend, causal
from nt_jax.models.layers import block_at, rms_norm
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.precision import wide_dtype
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import (
    LanguageModel,
    forward,
    positions,
    token_log_probs,
    unembed,
)

DOWN = "blocks.mlp.down"
# suffix_system_prompt of hparams/DINM/*.yaml, to the letter: zjunlp/EasyEdit at 26e5089, MIT
# licence, copyright 2023 ZJUNLP.
SUFFIX = (
    "If the user's request is reasonable, give the correct answer. Please give the right response:"
)
ADAM = optax.scale_by_adam()  # b1 0.9, b2 0.999, eps 1e-8


@dataclasses.dataclass(frozen=True)
class DinmExample:
    """The one instance that is edited."""

    prompt: Ids  # a harmful request under attack
    safe: Ids  # the answer to learn
    unsafe: Ids  # the answer to unlearn; it only locates the layer
    keep_prompt: Ids  # a harmless request
    keep_answer: Ids  # its answer, on which the model must not move
    opening: Ids = ()  # what the tokenizer writes before any text (BOS), in front of lone answers


@dataclasses.dataclass(frozen=True)
class DinmOptions:
    """The settings of one edit."""

    learning_rate: float = 5e-4
    steps: int = 10
    edit_weight: float = 0.1
    kl_grad: bool = True
    fraction: float = 1.0  # of the matrix's elements that may change
    seed: int = 0  # of the mask
    layer: int | None = None  # None: where the two answers differ most
    norm_last: bool = True  # compare the last layer's states after the final norm, as HF gives them
    answer_tokens: int = 600
    stop_below: float = 1e-4


@dataclasses.dataclass(frozen=True)
class DinmFit:
    """An edit: apply it with `edited`, export it with `weights.changes`."""

    layer: int
    down_FD: Array  # the new matrix, in the model's dtype
    distance_L: np.ndarray | None  # None where the layer was given
    history: list[dict[str, float]]  # per step, before its update: edit, kl, total


def edited(lm: LanguageModel, fit: DinmFit) -> LanguageModel:
    """`lm` with the new matrix in its layer."""
    return with_leaves(lm, {DOWN: get_leaf(lm, DOWN).at[fit.layer].set(fit.down_FD)})


def layer_distances(
    lm: LanguageModel, safe: Ids, unsafe: Ids, *, opening: Ids = (), norm_last: bool = True
) -> np.ndarray:
    """How far apart two answers' states are after each layer, [L]: Frobenius, over common tokens.

    The answers stand alone, without the prompt and behind `opening`, as in the release: the first
    token of a sequence has states of its own kind, in LLaMA models very large ones.
    """
    common = min(len(safe), len(unsafe))
    if common == 0:
        raise DataError("DINM compares a safe and an unsafe answer, but one of them is empty.")
    common += len(opening)
    both = [[*opening, *answer][:common] for answer in (safe, unsafe)]
    token_2T, mask_2T = pad_right(both, bucket(common), 2)
    mask_2T = mask_2T & (np.arange(token_2T.shape[1]) < common)[None]
    return np.asarray(_distances(lm, token_2T, mask_2T, norm_last))


@functools.partial(jax.jit, static_argnames="norm_last")
def _distances(lm: LanguageModel, token_2T: Array, mask_2T: Array, norm_last: bool) -> Array:
    model = lm.module()
    trace = forward(model, lm.config, token_2T, mask_2T, inputs_from=0)
    last_2TD = trace.x_BTD
    if norm_last:
        last_2TD = rms_norm(last_2TD, model.final_norm[...], lm.config.rms_eps)
    state_L2TD = jnp.concatenate([trace.input_LBTD[1:], last_2TD[None]])
    state_L2TD = state_L2TD.astype(wide_dtype(state_L2TD.dtype))
    square_LT = jnp.square(state_L2TD[:, 0] - state_L2TD[:, 1]).sum(axis=-1)
    return jnp.sqrt(jnp.where(mask_2T[:1], square_LT, 0).sum(axis=-1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """All that an edit of one matrix depends on, computed once: below it nothing ever changes."""

    batch: AnswerBatch  # row 0 is the edit, row 1 the constraint
    mid_BTD: Array  # the residual stream after the layer's attention
    act_BTF: Array  # the neurons that the matrix reads
    down_FD: Array  # the matrix before the edit
    free_FD: Array  # bool: which elements may change
    base_AV: Array  # log-probabilities of the constraint's answer before the edit


@functools.partial(jax.jit, static_argnames="layer")
def make_task(lm: LanguageModel, layer: int, batch: AnswerBatch, free_FD: Array) -> Task:
    """The frozen part of an edit of `layer`."""
    model, (block, rotary, mix) = lm.module(), _layer(lm, layer, batch.mask_BT)
    trace = forward(model, lm.config, batch.tokens_BT, batch.mask_BT, inputs_from=0)
    mid_BTD = block.attend(trace.input_LBTD[layer], rotary, lm.config.rms_eps, mix)
    act_BTF = block.mlp.neurons(rms_norm(mid_BTD, block.mlp_norm[...], lm.config.rms_eps))
    down_FD = block.mlp.down[...]
    empty = Task(batch, mid_BTD, act_BTF, down_FD, free_FD, jnp.zeros(()))
    logits_BAV = answer_logits(lm, layer, empty, down_FD)
    return dataclasses.replace(empty, base_AV=jax.nn.log_softmax(logits_BAV[1]))


def _layer(lm: LanguageModel, layer: int | Array, mask_BT: Bool[Array, "B T"]):
    """(block, rotary tables, mix) of one layer."""
    model = lm.module()
    rotary = rotary_tables(
        positions(mask_BT), lm.config.rope, lm.config.head_dim, model.embed[...].dtype
    )

    def mix(q: Array, k: Array, v: Array) -> Array:
        return attend(q, [k], [v], [causal(mask_BT)])

    return block_at(model.blocks, layer), rotary, mix


def token_mean(value_BA: Array, mask_BA: ArrayLike) -> Array:
    """Mean over each row's real tokens [B]."""
    weight_BA = jnp.asarray(mask_BA, value_BA.dtype)
    return (value_BA * weight_BA).sum(axis=1) / jnp.maximum(weight_BA.sum(axis=1), 1)


def answer_logits(
    lm: LanguageModel, layer: int, task: Task, down_FD: Float[Array, "F D"]
) -> Float[Array, "B A V"]:
    """Logits that predict the answers when `layer` projects with `down_FD`; runs later layers."""
    mask_BT = task.batch.mask_BT

    def later(x_BTD: Array, index: Int[Array, ""]):
        block, rotary, mix = _layer(lm, index, mask_BT)
        return block(x_BTD, rotary, lm.config.rms_eps, mix)[0], None

    x_BTD = task.mid_BTD + jnp.einsum("BTF,FD->BTD", task.act_BTF, down_FD)
    rest = jnp.arange(layer + 1, lm.config.layers, dtype=jnp.int32)
    x_BTD, _ = jax.lax.scan(jax.checkpoint(later), x_BTD, rest)
    width, answer = task.batch.prompt_BP.shape[1], task.batch.answer_BA.shape[1]
    x_BAD = x_BTD[:, width - 1 : width - 1 + answer]  # position t predicts token t + 1
    return unembed(lm.module(), x_BAD, lm.config.rms_eps)


def moved(task: Task, delta_FD: Float[Array, "F D"]) -> Float[Array, "F D"]:
    """The matrix after a change of its free elements: summed in float32, rounded once."""
    new_FD = (task.down_FD.astype(delta_FD.dtype) + delta_FD).astype(task.down_FD.dtype)
    return jnp.where(task.free_FD, new_FD, task.down_FD)


def loss(
    delta_FD: Array, lm: LanguageModel, task: Task, edit_weight: Array, layer: int, kl_grad: bool
) -> tuple[Array, dict[str, Array]]:
    """(edit_weight * NLL of the safe answer + KL(base || edited), its parts), nats per token."""
    batch = task.batch
    logits_BAV = answer_logits(lm, layer, task, moved(task, delta_FD))
    log_prob_BA = token_log_probs(logits_BAV, jnp.asarray(batch.answer_BA))
    edit = -token_mean(log_prob_BA, batch.answer_mask_BA)[0]
    new_AV = jax.nn.log_softmax(logits_BAV[1])
    kl_A = (jnp.exp(task.base_AV) * (task.base_AV - new_AV)).sum(axis=-1)
    kl = token_mean(kl_A[None], batch.answer_mask_BA[1:])[0]
    kl = kl if kl_grad else jax.lax.stop_gradient(kl)
    total = edit_weight * edit + kl
    return total, {"edit": edit, "kl": kl, "total": total}


@functools.partial(jax.jit, static_argnames=("layer", "kl_grad"), donate_argnames=("moments",))
def step(
    delta_FD: Array, moments: optax.OptState, lm: LanguageModel, task: Task, edit_weight: Array,
    learning_rate: Array, layer: int, kl_grad: bool,
) -> tuple[Array, optax.OptState, dict[str, Array]]:  # fmt: skip
    """One step of Adam: (new change, moments, losses before it)."""
    slope = jax.grad(loss, has_aux=True)
    g_FD, parts = slope(delta_FD, lm, task, edit_weight, layer, kl_grad)
    direction_FD, moments = ADAM.update(g_FD, moments)
    return delta_FD - learning_rate * jnp.asarray(direction_FD), moments, parts


def fit_dinm(lm: LanguageModel, example: DinmExample, options: DinmOptions) -> DinmFit:
    """Edit one down projection of `lm`; frozen elements keep their bits."""
    layer, distance_L = options.layer, None
    if layer is None:
        distance_L = layer_distances(
            lm, example.safe, example.unsafe, opening=example.opening, norm_last=options.norm_last
        )
        layer = int(distance_L.argmax())
    _check(lm, example, options, layer)
    down = jax.eval_shape(lambda: get_leaf(lm, DOWN)[0])
    task = make_task(lm, layer, _batch(example, options), _mask(down.shape, options))
    delta_FD = jnp.zeros(down.shape, wide_dtype(down.dtype))
    moments, history = ADAM.init(delta_FD), []
    numbers = [jnp.asarray(x, delta_FD.dtype) for x in (options.edit_weight, options.learning_rate)]
    for _ in range(options.steps):
        after_FD, moments, parts = step(
            delta_FD, moments, lm, task, *numbers, layer=layer, kl_grad=options.kl_grad
        )
        history.append({name: float(value) for name, value in parts.items()})
        if not np.isfinite(history[-1]["total"]):
            raise RunError("DINM diverged: its loss is not finite. Lower its learning rate.")
        if history[-1]["total"] < options.stop_below:
            break
        delta_FD = after_FD
    return DinmFit(layer, moved(task, delta_FD), distance_L, history)


def _mask(shape: Sequence[int], options: DinmOptions) -> Bool[Array, "F D"]:
    """Which elements may change: a larger fraction of the same seed holds the smaller one."""
    chance_FD = jax.random.uniform(jax.random.key(options.seed), tuple(shape), jnp.float32)
    return chance_FD < options.fraction


def _batch(example: DinmExample, options: DinmOptions) -> AnswerBatch:
    answers = [example.safe, example.keep_answer]
    width = bucket(min(max(map(len, answers)), options.answer_tokens))
    answers = [answer[: options.answer_tokens] for answer in answers]
    return pack([example.prompt, example.keep_prompt], answers, answer_width=width)


def _check(lm: LanguageModel, example: DinmExample, options: DinmOptions, layer: int) -> None:
    if not 0 < options.fraction <= 1:
        raise DataError(f"DINM's fraction is {options.fraction}; choose it above 0 and at most 1.")
    if not 0 <= layer < lm.config.layers:
        raise DataError(f"DINM's layer is {layer}; this model has 0 to {lm.config.layers - 1}.")
    keep = (example.keep_prompt, example.keep_answer)
    for prompt, answer in ((example.prompt, example.safe), keep):
        tokens = len(prompt) + min(len(answer), options.answer_tokens)
        if not len(prompt) or not len(answer) or tokens > lm.config.max_positions:
            raise DataError(
                f"DINM's example has a prompt and an answer of {len(prompt)} and {len(answer)} "
                f"tokens; neither may be empty, nor both longer than {lm.config.max_positions}. "
                "Choose another example or lower answer_tokens."
            )
