"""The Transformer (LLaMA-2/3, Qwen2/2.5, Qwen3, Mistral, SmolLM2) with one scale per MLP neuron.

Dimension letters, used as suffixes and as logical axis names:
B batch, T tokens, S keys, D model width, F MLP neurons, N query heads, K kv heads,
G query heads per kv head, H head dim, V vocabulary, L layers.

Modules only hold weights; every leaf of `Transformer.blocks` carries a leading L axis and is run
by one `lax.scan`. Whatever is differentiated, mapped or sharded is a function over `LanguageModel`,
a plain pytree, so it works inside anyone's jit, vmap and grad.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from nt_jax.mesh import put, sharding
from nt_jax.models import layers
from nt_jax.models.attention import Attend, Sees, attend, causal
from nt_jax.models.config import ModelConfig
from nt_jax.models.grouping import laid_out
from nt_jax.models.int8 import CHANNELS, step_of
from nt_jax.models.precision import wide_dtype
from nt_jax.models.rope import rotary_tables


class Transformer(nnx.Module):
    """All weights of a chat model; leaves below `blocks` are stacked over layers, [L, ...]."""

    def __init__(self, leaf: layers.Leaf):
        self.embed = nnx.Param(leaf("embed"))
        self.blocks = layers.Block(lambda name: leaf(f"blocks.{name}"))
        self.final_norm = nnx.Param(leaf("final_norm"))
        self.head = layers.optional(leaf("head"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A split `Transformer`: frozen weights and the [L, F] scale as leaves, the rest static.

    `config` has the sizes as published, `laid_out` those of the leaves (nt_jax/models/grouping.py).
    """

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
    def dtype(self) -> jnp.dtype:
        """The type that the model computes in: that of all weights that are not int8."""
        return self.module().embed[...].dtype

    @property
    def laid_out(self) -> ModelConfig:
        """The sizes of the leaves, which differ in heads where the mesh does not divide them."""
        return laid_out(self.config, self.mesh.shape["model"])

    @property
    def ones_LF(self) -> Array:
        """The scale that changes nothing, float32 [L, F], placed like the neurons."""
        return jnp.ones_like(jax.tree.leaves(self.scale)[0])

    def above(self, first: int) -> "LanguageModel":
        """The same model without the layers below `first`: it holds them, but they never run.

        No weight is copied: the leaves are those of `self`, `over_layers` takes the last ones.
        """
        scale = jax.tree.map(lambda leaf: leaf[first:], self.scale)
        config = dataclasses.replace(self.config, layers=self.config.layers - first)
        return dataclasses.replace(self, scale=scale, config=config)


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
    if config.int8:
        axes |= {step_of(name): f"L{channels}" for name, channels in CHANNELS.items()}
    return axes


def leaf_dtype(config: ModelConfig, name: str, dtype: Any) -> Any:
    """The type of a weight leaf of a model in `dtype`."""
    if config.int8 and name in CHANNELS:
        return jnp.int8
    return jnp.float32 if name.endswith(step_of("")) else dtype


def assemble(config: ModelConfig, leaves: dict[str, Array], mesh: Mesh) -> LanguageModel:
    """A LanguageModel from placed leaves (see `leaf_axes`); its scale starts at ones.

    `config` has the published sizes, the leaves those of `laid_out`.
    """
    sizes = laid_out(config, mesh.shape["model"]).sizes
    wide = wide_dtype(leaves["embed"].dtype)
    for name, letters in leaf_axes(config).items():
        chex.assert_shape(leaves[name], tuple(sizes[letter] for letter in letters))
    ones = jnp.ones((config.layers, config.neurons), wide)
    placed = {**leaves, "blocks.mlp.scale": put(ones, sharding(mesh, "LF"))}
    graphdef, scale, frozen = nnx.split(Transformer(placed.get), layers.NeuronScale, ...)
    return LanguageModel(frozen, scale, graphdef, config, mesh)


def positions(mask_BT: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of each token, counted over real tokens only; 0 on the left padding."""
    return jnp.maximum(jnp.cumsum(mask_BT.astype(jnp.int32), axis=1) - 1, 0)


def unembed(model: Transformer, x_BTD: Array, eps: float) -> Float[Array, "B T V"]:
    """Logits in float32 (or wider) from the residual stream after the last layer."""
    x_BTD = layers.rms_norm(x_BTD, model.final_norm[...], eps)
    wide = wide_dtype(x_BTD.dtype)  # what products are summed in: not rounded on the way
    if model.head is None:
        return jnp.einsum("BTD,VD->BTV", x_BTD, model.embed[...], preferred_element_type=wide)
    return jnp.einsum("BTD,DV->BTV", x_BTD, model.head[...], preferred_element_type=wide)


def token_log_probs(logits_BAV: Array, answer_BA: Array) -> Float[Array, "B A"]:
    """Log-probability of each answer token under `logits_BAV`."""
    chosen_BA = jnp.take_along_axis(logits_BAV, answer_BA[:, :, None], axis=-1)[:, :, 0]
    return chosen_BA - jax.nn.logsumexp(logits_BAV, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """What a forward pass leaves behind; fields that were not asked for are empty, [0]."""

    x_BTD: Array  # residual stream after the last layer
    input_LBTD: Array  # residual stream that enters each layer, from `inputs_from` on
    act_LBF: Array  # neurons at the reading position
    keys_LBTKH: Array
    values_LBTKH: Array


def forward(
    model: Transformer,
    config: ModelConfig,
    token_BT: Int[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    read_at: int | None = None,
    keep_cache: bool = False,
    inputs_from: int | None = None,
    attention: Attend = attend,
) -> Trace:
    """One pass over left- or right-padded tokens; `read_at` is the position whose neurons to keep.

    `inputs_from`: the position from which the streams that enter layers are kept, None for none.
    """
    return run_layers(
        model,
        config,
        jnp.take(model.embed[...], token_BT, axis=0),
        positions(mask_BT),
        causal(mask_BT),
        read_at=read_at,
        keep_cache=keep_cache,
        inputs_from=inputs_from,
        attention=attention,
    )


def run_layers(
    model: Transformer,
    config: ModelConfig,
    x_BTD: Array,
    position_BT: Int[Array, "B T"],
    sees: Sees,
    *,
    remat: bool = False,
    read_at: int | None = None,
    keep_cache: bool = False,
    inputs_from: int | None = None,
    attention: Attend = attend,
) -> Trace:
    """The layers of `model` over a residual stream; `sees` says which keys queries may see.

    `remat` recomputes each layer in the backward pass instead of storing its activations.
    """
    dtype = model.embed[...].dtype
    rotary = rotary_tables(position_BT, config.rope, config.head_dim, dtype)
    nothing = jnp.zeros(0, dtype)

    def layer(x_BTD: Array, block: layers.Block, _: None):
        cache: list[Array] = []

        def mix(q: Array, k: Array, v: Array) -> Array:
            cache.extend((k, v))
            return attention(q, [k], [v], [sees])

        after_BTD, act_BTF = block(x_BTD, rotary, config.rms_eps, mix)
        act_BF = nothing if read_at is None else act_BTF[:, read_at]
        kept = cache if keep_cache else [nothing, nothing]
        entered = nothing if inputs_from is None else x_BTD[:, inputs_from:]
        return after_BTD, (entered, act_BF, *kept)

    x_BTD, kept = layers.over_layers(model.blocks, layer, x_BTD, remat=remat)
    return Trace(x_BTD, *kept)


def run_below(
    model: Transformer,
    config: ModelConfig,
    first: int,
    x_BTD: Array,
    position_BT: Int[Array, "B T"],
    sees: Sees,
    attention: Attend = attend,
) -> Array:
    """The residual stream that enters layer `first`; not made to be differentiated."""
    rotary = rotary_tables(position_BT, config.rope, config.head_dim, x_BTD.dtype)

    def mix(q: Array, k: Array, v: Array) -> Array:
        return attention(q, [k], [v], [sees])

    def layer(index: Array, x_BTD: Array) -> Array:
        return layers.block_at(model.blocks, index)(x_BTD, rotary, config.rms_eps, mix)[0]

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
