"""One layer of the Transformer, with one scale per MLP neuron, and how layers are run and found.

Letters are those of transformer.py. Modules only hold weights: a layer's own, or, with a leading L
axis, those of all layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from nt_jax.models.int8 import matrix, product, step_of
from nt_jax.models.precision import wide_dtype
from nt_jax.models.rope import rotate

Leaf = Callable[[str], Array | None]
Mix = Callable[[Array, Array, Array], Array]  # (q, k, v) of a layer to what its queries attend to


class NeuronScale(nnx.Variable):
    """The paper's alpha: one float32 factor per MLP neuron, [L, F]; 1.0 leaves a neuron alone."""


def optional(array: Array | None) -> nnx.Param | None:
    """A parameter where the model has this leaf, else None."""
    return None if array is None else nnx.Param(array)


class Attention(nnx.Module):
    """Grouped-query attention weights; biases (Qwen2) and q/k norms (Qwen3) may be absent."""

    def __init__(self, leaf: Leaf):
        self.q, self.k, self.v, self.o = (nnx.Param(leaf(f"attn.{name}")) for name in "qkvo")
        self.q_step, self.k_step, self.v_step, self.o_step = (
            optional(leaf(step_of(f"attn.{name}"))) for name in "qkvo"
        )
        self.q_bias, self.k_bias, self.v_bias = (
            optional(leaf(f"attn.{name}")) for name in ("q_bias", "k_bias", "v_bias")
        )
        self.q_norm, self.k_norm = (optional(leaf(f"attn.{n}")) for n in ("q_norm", "k_norm"))

    def project(
        self, x_BTD: Array, cos_BTH: Array, sin_BTH: Array, eps: float
    ) -> tuple[Array, Array, Array]:
        """(q_BTNH, k_BTKH, v_BTKH) with rotary positions applied to q and k."""
        q_BTNH = product("BTD,DNH->BTNH", x_BTD, self.q, self.q_step)
        k_BTKH = product("BTD,DKH->BTKH", x_BTD, self.k, self.k_step)
        v_BTKH = product("BTD,DKH->BTKH", x_BTD, self.v, self.v_step)
        if self.q_bias is not None and self.k_bias is not None and self.v_bias is not None:
            q_BTNH = q_BTNH + self.q_bias[...][None, None]
            k_BTKH = k_BTKH + self.k_bias[...][None, None]
            v_BTKH = v_BTKH + self.v_bias[...][None, None]
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH = rms_norm(q_BTNH, self.q_norm[...], eps)
            k_BTKH = rms_norm(k_BTKH, self.k_norm[...], eps)
        return rotate(q_BTNH, cos_BTH, sin_BTH), rotate(k_BTKH, cos_BTH, sin_BTH), v_BTKH

    def give(self, mixed_BTNH: Array) -> Array:
        """What the heads add to the residual stream, [B, T, D]."""
        return product("BTNH,NHD->BTD", mixed_BTNH, self.o, self.o_step)


class Mlp(nnx.Module):
    """down(scale * silu(gate x) * up x): Eq. 2 of the paper with its alpha made explicit."""

    def __init__(self, leaf: Leaf):
        self.gate, self.up, self.down = (
            nnx.Param(leaf(f"mlp.{name}")) for name in ("gate", "up", "down")
        )
        self.gate_step, self.up_step, self.down_step = (
            optional(leaf(step_of(f"mlp.{name}"))) for name in ("gate", "up", "down")
        )
        self.scale = NeuronScale(leaf("mlp.scale"))

    def neurons(self, x_BTD: Array) -> Array:
        """Scaled activations act_BTF: what enters the down projection, the paper's neurons."""
        return self.fire(*self.inputs(x_BTD))

    def inputs(self, x_BTD: Array) -> tuple[Array, Array]:
        """(gate_BTF, up_BTF), linear in x."""
        gate_BTF = product("BTD,DF->BTF", x_BTD, self.gate, self.gate_step)
        return gate_BTF, product("BTD,DF->BTF", x_BTD, self.up, self.up_step)

    def fire(self, gate_BTF: Array, up_BTF: Array) -> Array:
        """act_BTF of a neuron's two inputs."""
        act_BTF = jax.nn.silu(gate_BTF) * up_BTF
        scale_F = self.scale[...]
        return (act_BTF.astype(scale_F.dtype) * scale_F[None, None]).astype(act_BTF.dtype)

    def project(self, act_BTF: Array) -> Array:
        """The neurons' contribution to the residual stream, [B, T, D]."""
        return product("BTF,FD->BTD", act_BTF, self.down, self.down_step)

    def down_FD(self, dtype: jnp.dtype) -> Array:
        """The down projection, in `dtype` where it is kept as int8."""
        return matrix(self.down, self.down_step, dtype)


class Block(nnx.Module):
    """One layer: attention and MLP, each on a normed copy of the residual stream."""

    def __init__(self, leaf: Leaf):
        self.attn_norm = nnx.Param(leaf("attn_norm"))
        self.attn = Attention(leaf)
        self.mlp_norm = nnx.Param(leaf("mlp_norm"))
        self.mlp = Mlp(leaf)

    def __call__(
        self, x_BTD: Array, rotary: tuple[Array, Array], eps: float, mix: Mix
    ) -> tuple[Array, Array]:
        """(next x_BTD, act_BTF); `mix(q, k, v)` says which keys the queries attend to."""
        x_BTD = self.attend(x_BTD, rotary, eps, mix)
        act_BTF = self.mlp.neurons(rms_norm(x_BTD, self.mlp_norm[...], eps))
        return x_BTD + self.mlp.project(act_BTF), act_BTF

    def attend(self, x_BTD: Array, rotary: tuple[Array, Array], eps: float, mix: Mix) -> Array:
        """The residual stream after the attention half."""
        q, k, v = self.attn.project(rms_norm(x_BTD, self.attn_norm[...], eps), *rotary, eps)
        return x_BTD + self.attn.give(mix(q, k, v))


def at_layer(tree: Any, index: Array | int) -> Any:
    """A stacked pytree's slice for one layer, `index` traced or not."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree
    )


def block_at(blocks: Block, index: Array | int) -> Block:
    """One layer of the stack; a slice of the stack would copy all the layers in it."""
    graphdef, stacked = nnx.split(blocks)
    return nnx.merge(graphdef, at_layer(stacked, index))


def over_layers(
    blocks: Block,
    layer: Callable[[Any, Block, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: bool = False,
) -> tuple[Any, Any]:
    """(carry, stacked outputs) of `layer(carry, block, x)` over the layers; x is a row of `xs`.

    There are as many layers as scales: of a leaf that holds more, the last ones run, each cut out
    as it runs. `remat` recomputes each layer in the backward pass instead of storing its
    activations. No weight is stored that was cut out, or made of int8.
    """
    graphdef, stacked = nnx.split(blocks)
    leaves, structure = jax.tree.flatten(stacked)
    layers = len(blocks.mlp.scale[...])
    exact = [leaf if len(leaf) == layers else None for leaf in leaves]

    def step(carry: Any, per_layer: tuple) -> tuple[Any, Any]:
        index, exact, x = per_layer
        mine = [
            at_layer(leaf, index + len(leaf) - layers) if own is None else own
            for leaf, own in zip(leaves, exact, strict=True)
        ]
        return layer(carry, nnx.merge(graphdef, jax.tree.unflatten(structure, mine)), x)

    if remat:
        step = jax.checkpoint(step)
    elif any(own is None or own.dtype == jnp.int8 for own in exact):
        step = jax.checkpoint(step, policy=_is_computed)
    return jax.lax.scan(step, carry, (jnp.arange(layers, dtype=jnp.int32), exact, xs))


def _is_computed(primitive: Any, *given: Any, **_: Any) -> bool:
    """Whether the backward pass gets an operation's result stored: not a weight made again."""
    if any(getattr(each, "dtype", None) == jnp.int8 for each in given):
        return False
    return primitive not in (jax.lax.dynamic_slice_p, jax.lax.squeeze_p, jax.lax.reshape_p)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`x` over its root mean square along the last axis, times `weight`; summed in float32+."""
    wide = x.astype(wide_dtype(x.dtype))
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return normed.astype(x.dtype) * weight.reshape((1,) * (x.ndim - 1) + weight.shape)
