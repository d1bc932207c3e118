"""The Transformer (LLaMA-2/3, Qwen2/2.5, Qwen3, Mistral, SmolLM2) with one scale per MLP neuron.

Dimension letters, used as suffixes and as logical axis names:
B batch, T tokens, S keys, D model width, F MLP neurons, N query heads, K kv heads,
G query heads per kv head, H head dim, V vocabulary, L layers.

Modules only hold weights; every leaf of `Transformer.blocks` carries a leading L axis and is run
by one `lax.scan`. Whatever is differentiated, mapped or sharded is a function over `LanguageModel`,
a plain pytree, so it works inside anyone's jit, vmap and grad.
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from nt_jax.mesh import sharding
from nt_jax.models.config import ModelConfig
from nt_jax.models.precision import wide_dtype
from nt_jax.models.rope import rotary_tables, rotate

Leaf = Callable[[str], Array | None]
KeysValues = tuple[Array, Array]


class NeuronScale(nnx.Variable):
    """The paper's alpha: one float32 factor per MLP neuron, [L, F]; 1.0 leaves a neuron alone."""


def optional(array: Array | None) -> nnx.Param | None:
    """A parameter where the model has this leaf, else None."""
    return None if array is None else nnx.Param(array)


class Attention(nnx.Module):
    """Grouped-query attention weights; biases (Qwen2) and q/k norms (Qwen3) may be absent."""

    def __init__(self, leaf: Leaf):
        self.q, self.k, self.v, self.o = (nnx.Param(leaf(f"attn.{name}")) for name in "qkvo")
        self.q_bias, self.k_bias, self.v_bias = (
            optional(leaf(f"attn.{name}")) for name in ("q_bias", "k_bias", "v_bias")
        )
        self.q_norm, self.k_norm = (optional(leaf(f"attn.{n}")) for n in ("q_norm", "k_norm"))

    def project(self, x_BTD: Array, cos_BTH: Array, sin_BTH: Array, eps: float):
        """(q_BTNH, k_BTKH, v_BTKH) with rotary positions applied to q and k."""
        q_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, self.q[...])
        k_BTKH = jnp.einsum("BTD,DKH->BTKH", x_BTD, self.k[...])
        v_BTKH = jnp.einsum("BTD,DKH->BTKH", x_BTD, self.v[...])
        if self.q_bias is not None and self.k_bias is not None and self.v_bias is not None:
            q_BTNH = q_BTNH + self.q_bias[...][None, None]
            k_BTKH = k_BTKH + self.k_bias[...][None, None]
            v_BTKH = v_BTKH + self.v_bias[...][None, None]
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH = rms_norm(q_BTNH, self.q_norm[...], eps)
            k_BTKH = rms_norm(k_BTKH, self.k_norm[...], eps)
        return rotate(q_BTNH, cos_BTH, sin_BTH), rotate(k_BTKH, cos_BTH, sin_BTH), v_BTKH


class Mlp(nnx.Module):
    """down(scale * silu(gate x) * up x): Eq. 2 of the paper with its alpha made explicit."""

    def __init__(self, leaf: Leaf):
        self.gate, self.up, self.down = (
            nnx.Param(leaf(f"mlp.{name}")) for name in ("gate", "up", "down")
        )
        self.scale = NeuronScale(leaf("mlp.scale"))

    def neurons(self, x_BTD: Array) -> Array:
        """Scaled activations act_BTF: what enters the down projection, the paper's neurons."""
        return self.fire(*self.inputs(x_BTD))

    def inputs(self, x_BTD: Array) -> tuple[Array, Array]:
        """(gate_BTF, up_BTF), linear in x."""
        gate_BTF = jnp.einsum("BTD,DF->BTF", x_BTD, self.gate[...])
        return gate_BTF, jnp.einsum("BTD,DF->BTF", x_BTD, self.up[...])

    def fire(self, gate_BTF: Array, up_BTF: Array) -> Array:
        """act_BTF of a neuron's two inputs."""
        act_BTF = jax.nn.silu(gate_BTF) * up_BTF
        scale_F = self.scale[...]
        return (act_BTF.astype(scale_F.dtype) * scale_F[None, None]).astype(act_BTF.dtype)

    def project(self, act_BTF: Array) -> Array:
        """The neurons' contribution to the residual stream, [B, T, D]."""
        return jnp.einsum("BTF,FD->BTD", act_BTF, self.down[...])


class Block(nnx.Module):
    """One layer: attention and MLP, each on a normed copy of the residual stream."""

    def __init__(self, leaf: Leaf):
        self.attn_norm = nnx.Param(leaf("attn_norm"))
        self.attn = Attention(leaf)
        self.mlp_norm = nnx.Param(leaf("mlp_norm"))
        self.mlp = Mlp(leaf)


class Transformer(nnx.Module):
    """All weights of a chat model; leaves below `blocks` are stacked over layers, [L, ...]."""

    def __init__(self, leaf: Leaf):
        self.embed = nnx.Param(leaf("embed"))
        self.blocks = Block(lambda name: leaf(f"blocks.{name}"))
        self.final_norm = nnx.Param(leaf("final_norm"))
        self.head = optional(leaf("head"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A split `Transformer`: frozen weights and the [L, F] scale as leaves, the rest static."""

    frozen: nnx.State
    scale: nnx.State
    graphdef: nnx.GraphDef = dataclasses.field(metadata={"static": True})
    config: ModelConfig = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def module(self, scale_LF: Array | None = None) -> Transformer:
        """The merged module, with `scale_LF` in place of its own scale where given."""
        scale = self.scale
        if scale_LF is not None:
            scale = jax.tree.map(lambda _: scale_LF, scale)
        return nnx.merge(self.graphdef, scale, self.frozen)

    @property
    def ones_LF(self) -> Array:
        """The scale that changes nothing, float32 [L, F], placed like the neurons."""
        return jnp.ones_like(jax.tree.leaves(self.scale)[0])

    def above(self, first: int) -> "LanguageModel":
        """The same model without the layers below `first`; it holds a copy of those above."""
        if first == 0:
            return self
        frozen, scale = nnx.clone(self.frozen), nnx.clone(self.scale)
        for state in (frozen, scale):
            state["blocks"] = jax.tree.map(lambda leaf: leaf[first:], state["blocks"])
        config = dataclasses.replace(self.config, layers=self.config.layers - first)
        return dataclasses.replace(self, frozen=frozen, scale=scale, config=config)


def dim_sizes(config: ModelConfig) -> dict[str, int]:
    """Size of each dimension letter that occurs in a weight."""
    return config.sizes


def leaf_axes(config: ModelConfig) -> dict[str, str]:
    """Axis letters of every weight leaf (not the scale) that a model of this config has."""
    axes = {
        "embed": "VD", "final_norm": "D", "blocks.attn_norm": "LD", "blocks.mlp_norm": "LD",
        "blocks.attn.q": "LDNH", "blocks.attn.k": "LDKH", "blocks.attn.v": "LDKH",
        "blocks.attn.o": "LNHD", "blocks.mlp.gate": "LDF", "blocks.mlp.up": "LDF",
        "blocks.mlp.down": "LFD",
    }  # fmt: skip
    if config.qkv_bias:
        biases = {"q_bias": "LNH", "k_bias": "LKH", "v_bias": "LKH"}
        axes |= {f"blocks.attn.{name}": letters for name, letters in biases.items()}
    if config.qk_norm:
        axes |= {"blocks.attn.q_norm": "LH", "blocks.attn.k_norm": "LH"}
    if not config.tied:
        axes["head"] = "DV"
    return axes


def assemble(config: ModelConfig, leaves: dict[str, Array], mesh: Mesh) -> LanguageModel:
    """A LanguageModel from placed leaves (see `leaf_axes`); its scale starts at ones."""
    sizes, wide = dim_sizes(config), wide_dtype(leaves["embed"].dtype)
    for name, letters in leaf_axes(config).items():
        chex.assert_shape(leaves[name], tuple(sizes[letter] for letter in letters))
    ones = jnp.ones((config.layers, config.neurons), wide)
    placed = {**leaves, "blocks.mlp.scale": jax.device_put(ones, sharding(mesh, "LF"))}
    graphdef, scale, frozen = nnx.split(Transformer(placed.get), NeuronScale, ...)
    return LanguageModel(frozen, scale, graphdef, config, mesh)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`x` over its root mean square along the last axis, times `weight`; summed in float32+."""
    wide = x.astype(wide_dtype(x.dtype))
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return normed.astype(x.dtype) * weight.reshape((1,) * (x.ndim - 1) + weight.shape)


def attend(
    q_BTNH: Array, keys: list[Array], values: list[Array], masks: list[Array]
) -> Float[Array, "B T N H"]:
    """Softmax attention of q over several stretches of keys, each [B, S, K, H] with mask [B, T, S].

    Stretches are scored apart and share one softmax, so a prefix that many rows share is never
    copied per row. A query that may see nothing gets the mean value, not NaN.
    """
    batch, length, heads, head_dim = q_BTNH.shape
    kv_heads = keys[0].shape[2]
    q_BTKGH = q_BTNH.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    wide = wide_dtype(q_BTNH.dtype)
    scores = []
    for k_BSKH, mask_BTS in zip(keys, masks, strict=True):
        part = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH).astype(wide) * head_dim**-0.5
        scores.append(jnp.where(mask_BTS[:, None, None], part, jnp.finfo(wide).min))
    weight_BKGTS = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    weight_BKGTS = weight_BKGTS.astype(q_BTNH.dtype)
    out, start = jnp.zeros_like(q_BTKGH), 0
    for v_BSKH in values:
        stop = start + v_BSKH.shape[1]
        out = out + jnp.einsum("BKGTS,BSKH->BTKGH", weight_BKGTS[..., start:stop], v_BSKH)
        start = stop
    return out.reshape(batch, length, heads, head_dim)


def run_block(
    block: Block,
    x_BTD: Array,
    rotary: tuple[Array, Array],
    eps: float,
    mix: Callable[[Array, Array, Array], Array],
) -> tuple[Array, Array]:
    """(next x_BTD, act_BTF) of one layer; `mix(q, k, v)` says which keys the queries attend to."""
    x_BTD = run_attention(block, x_BTD, rotary, eps, mix)
    act_BTF = block.mlp.neurons(rms_norm(x_BTD, block.mlp_norm[...], eps))
    return x_BTD + block.mlp.project(act_BTF), act_BTF


def run_attention(
    block: Block,
    x_BTD: Array,
    rotary: tuple[Array, Array],
    eps: float,
    mix: Callable[[Array, Array, Array], Array],
) -> Array:
    """The residual stream after the attention half of a layer."""
    q, k, v = block.attn.project(rms_norm(x_BTD, block.attn_norm[...], eps), *rotary, eps)
    return x_BTD + jnp.einsum("BTNH,NHD->BTD", mix(q, k, v), block.attn.o[...])


def positions(mask_BT: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of each token, counted over real tokens only; 0 on the left padding."""
    return jnp.maximum(jnp.cumsum(mask_BT.astype(jnp.int32), axis=1) - 1, 0)


def causal_mask(mask_BT: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Which key each query may see: real tokens not after it."""
    length = mask_BT.shape[1]
    return jnp.tril(jnp.ones((length, length), bool))[None] & mask_BT[:, None, :]


def unembed(model: Transformer, x_BTD: Array, eps: float) -> Float[Array, "B T V"]:
    """Logits in float32 (or wider) from the residual stream after the last layer."""
    x_BTD = rms_norm(x_BTD, model.final_norm[...], eps)
    if model.head is None:
        logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, model.embed[...])
    else:
        logits_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, model.head[...])
    return logits_BTV.astype(wide_dtype(logits_BTV.dtype))


def token_log_probs(logits_BAV: Array, answer_BA: Array) -> Float[Array, "B A"]:
    """Log-probability of each answer token under `logits_BAV`."""
    chosen_BA = jnp.take_along_axis(logits_BAV, answer_BA[:, :, None], axis=-1)[:, :, 0]
    return chosen_BA - jax.nn.logsumexp(logits_BAV, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """What a forward pass leaves behind; fields that were not asked for are empty, [0]."""

    x_BTD: Array  # residual stream after the last layer
    input_LBTD: Array  # residual stream that enters each layer
    act_LBF: Array  # neurons at the reading position
    keys_LBTKH: Array
    values_LBTKH: Array


def forward(
    model: Transformer,
    config: ModelConfig,
    token_BT: Int[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    remat: bool = False,
    read_at: int | None = None,
    keep_cache: bool = False,
    keep_inputs: bool = False,
) -> Trace:
    """One pass over left- or right-padded tokens; `read_at` is the position whose neurons to keep.

    `remat` recomputes each layer in the backward pass instead of storing its activations.
    """
    return run_layers(
        model,
        config,
        jnp.take(model.embed[...], token_BT, axis=0),
        positions(mask_BT),
        causal_mask(mask_BT),
        remat=remat,
        read_at=read_at,
        keep_cache=keep_cache,
        keep_inputs=keep_inputs,
    )


def run_layers(
    model: Transformer,
    config: ModelConfig,
    x_BTD: Array,
    position_BT: Int[Array, "B T"],
    mask_BTS: Bool[Array, "B T T"],
    *,
    remat: bool = False,
    read_at: int | None = None,
    keep_cache: bool = False,
    keep_inputs: bool = False,
) -> Trace:
    """The layers of `model` over a residual stream; `mask_BTS` says which key a query may see."""
    graphdef, stacked = nnx.split(model.blocks)
    dtype = model.embed[...].dtype
    rotary = rotary_tables(position_BT, config.rope, config.head_dim, dtype)
    nothing = jnp.zeros(0, dtype)

    def layer(x_BTD: Array, state: nnx.State):
        cache: list[Array] = []

        def mix(q: Array, k: Array, v: Array) -> Array:
            cache.extend((k, v))
            return attend(q, [k], [v], [mask_BTS])

        block = nnx.merge(graphdef, state)
        after_BTD, act_BTF = run_block(block, x_BTD, rotary, config.rms_eps, mix)
        act_BF = nothing if read_at is None else act_BTF[:, read_at]
        kept = cache if keep_cache else [nothing, nothing]
        return after_BTD, (x_BTD if keep_inputs else nothing, act_BF, *kept)

    body = jax.checkpoint(layer) if remat else layer
    x_BTD, kept = jax.lax.scan(body, x_BTD, stacked)
    return Trace(x_BTD, *kept)


def run_below(
    model: Transformer,
    config: ModelConfig,
    first: int,
    x_BTD: Array,
    position_BT: Int[Array, "B T"],
    mask_BTS: Bool[Array, "B T T"],
) -> Array:
    """The residual stream that enters layer `first`; not made to be differentiated.

    Layers are looked up one by one: a slice of the stack would copy the weights below.
    """
    graphdef, stacked = nnx.split(model.blocks)
    rotary = rotary_tables(position_BT, config.rope, config.head_dim, x_BTD.dtype)

    def layer(index: Array, x_BTD: Array) -> Array:
        at = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)  # noqa: E731
        block = nnx.merge(graphdef, jax.tree.map(at, stacked))
        mix = lambda q, k, v: attend(q, [k], [v], [mask_BTS])  # noqa: E731
        return run_block(block, x_BTD, rotary, config.rms_eps, mix)[0]

    return jax.lax.fori_loop(0, first, layer, x_BTD)


def logits(
    lm: LanguageModel,
    token_BT: Int[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    scale_LF: Array | None = None,
) -> Float[Array, "B T V"]:
    """Logits of every position, float32 or wider; the whole model in one call."""
    model = lm.module(scale_LF)
    trace = forward(model, lm.config, token_BT, mask_BT)
    return unembed(model, trace.x_BTD, lm.config.rms_eps)
