"""Attention of one new token a slot over the cache: plain, or by jax's own kernel on a GPU.

The kernel reads of each slot the columns that hold tokens, and no scores leave it. It takes keys as
values lie, a column after the other; a CPU is twice as fast with columns last, so that scores need
no transpose. Letters are those of slots.py, G query heads per kv head.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from nt_jax.mesh import from_ampere_on, on_cpu, sharding
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel

BLOCKS = (64, 32, 16)  # columns that the kernel may read together
BUSY = 256  # of its programs, from which on the columns of a slot are not shared out
LEAST = 128  # columns of a share


def by_kernel(lm: LanguageModel) -> bool:
    """Whether the kernel is used: on GPUs that run it, for 16 bits, heads as wide as its tiles.

    It multiplies float32 at a lower precision. It asks for whole queries, for which weights that
    are shared out along fsdp would be gathered for every token; plain products move activations.
    And for a layer's whole cache, which would be cut out of the one stack of an int8 model.
    """
    size, whole = lm.config.head_dim, lm.mesh.shape["fsdp"] == 1 and not lm.config.int8
    fits = lm.dtype.itemsize == 2 and size >= 16 and size & (size - 1) == 0
    return whole and fits and from_ampere_on(lm.mesh)


def key_axis(lm: LanguageModel) -> int:
    """Which axis of the keys, [L, B, K, ., .], has the columns: the last, or that of the values."""
    return 3 if by_kernel(lm) else 4


def attend_plain(
    q_BNH: Array, keys_BKHS: Array, values_BKSH: Array, mask_BS: Bool[Array, "B S"]
) -> Float[Array, "B N H"]:
    """`attend` for one query per row, on keys and values as the cache of a CPU holds them."""
    batch, heads, head_dim = q_BNH.shape
    wide = wide_dtype(q_BNH.dtype)
    q_BKGH = q_BNH.reshape(batch, keys_BKHS.shape[1], -1, head_dim)
    score_BKGS = jnp.einsum("BKGH,BKHS->BKGS", q_BKGH, keys_BKHS).astype(wide) * head_dim**-0.5
    score_BKGS = jnp.where(mask_BS[:, None, None], score_BKGS, jnp.finfo(wide).min)
    weight_BKGS = jax.nn.softmax(score_BKGS, axis=-1).astype(q_BNH.dtype)
    return jnp.einsum("BKGS,BKSH->BKGH", weight_BKGS, values_BKSH).reshape(batch, heads, head_dim)


def attend_by_kernel(
    mesh: Mesh, q_BNH: Array, keys_BKSH: Array, values_BKSH: Array, length_B: Int[Array, " B"]
) -> Float[Array, "B N H"]:
    """The same of the first `length_B` columns of each row, one at least; S a multiple of 16.

    Each device has its own rows and heads. On a CPU the kernel is interpreted, for tests.
    """
    specs = [sharding(mesh, letters).spec for letters in ("BNH", "BKSH", "BKSH", "B")]
    local = functools.partial(_attend_here, interpret=on_cpu(mesh))
    split = jax.shard_map(
        local, mesh=mesh, in_specs=tuple(specs), out_specs=specs[0], check_vma=False
    )
    return split(q_BNH, keys_BKSH, values_BKSH, length_B)


def _attend_here(
    q_BNH: Array, keys_BKSH: Array, values_BKSH: Array, length_B: Array, *, interpret: bool
) -> Array:
    from jax.experimental.pallas.ops.gpu.decode_attention import mqa  # Triton's, so only here

    batch, kv_heads, columns, head_dim = keys_BKSH.shape
    programs = batch * kv_heads  # to the kernel each kv head of a row is a row with one kv head
    with jax.numpy_dtype_promotion("standard"):  # it adds a float32 to 16 bits
        out_PGH = mqa(
            q_BNH.reshape(programs, -1, head_dim),
            keys_BKSH.reshape(programs, columns, head_dim),
            values_BKSH.reshape(programs, columns, head_dim),
            kv_seq_len=jnp.repeat(length_B, kv_heads),
            block_k=block_of(columns),
            k_splits=shares_of(columns, programs),
            interpret=interpret,
        )
    return out_PGH.astype(q_BNH.dtype).reshape(q_BNH.shape)


def block_of(columns: int) -> int:
    """Columns that the kernel reads together: it must cut them into equal blocks."""
    return next(block for block in BLOCKS if columns % block == 0)


def shares_of(columns: int, programs: int) -> int:
    """In how many equal shares a slot's columns are read side by side, where slots are few."""
    shares = 1
    while shares * programs < BUSY and columns % (2 * shares * LEAST) == 0:
        shares *= 2
    return shares
