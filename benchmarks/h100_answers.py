"""The programs that answer prompts and score answers: refills, decoding, likelihoods."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.h100_cases import Case, Floor, Size, lowered_for
from benchmarks.models import SHAPES, abstract, abstract_model
from nt_jax.data.batching import AnswerBatch
from nt_jax.generate import decode
from nt_jax.generate.likelihood import batch_scores
from nt_jax.generate.slots import Packed, Slots, empty_slots, insert, prefixes
from nt_jax.mesh import row_ways
from nt_jax.models.transformer import LanguageModel

COLUMNS, NEW = 512, 128  # of the cache that a step looks at; half of them live; new tokens
SCORED = (32, 256, 128)  # answers, tokens of their prompts and of their own
FILL, ROW, SHARED = 4096, 256, 64  # tokens of a refill, of its longest row, of a shared prefix
TURNS = 16  # tokens a slot that a timed call decodes
# A refill's rows where it is run: all as long as the mean, one after the other.
MEAN = ROW // 2
_TOKEN, _ROW = np.arange(FILL), np.arange(FILL // MEAN)
PACKED = {  # of one group
    "of_WN": _TOKEN[None] // MEAN, "place_WN": _TOKEN[None] % MEAN, "length_R": MEAN,
    "shared_R": SHARED,
    "index_RT": np.minimum(MEAN * _ROW[:, None] + np.arange(ROW), FILL - 1), "source_R": _ROW,
    "slot_R": _ROW, "row_R": _ROW,
}  # fmt: skip


def _scale(lm: LanguageModel):
    return abstract(lm.mesh, (lm.config.layers, lm.config.neurons), jnp.float32, "LF")


def _blocks(lm: LanguageModel):
    """Layers one by one, placed as the program that makes them leaves them."""
    made = jax.jit(decode.stacks_of)
    places = lowered_for(lm.mesh, made.trace(lm, _scale(lm))).compile().output_shardings
    put = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(put, jax.eval_shape(made, lm, _scale(lm)), places)


def _slots(lm: LanguageModel, batch: int, columns: int):
    made = jax.eval_shape(lambda lm: empty_slots(lm, batch, columns, NEW), lm)
    put = lambda x: abstract(lm.mesh, x.shape, x.dtype, "LBK" if x.ndim == 5 else "B")  # noqa: E731
    return jax.tree.map(put, made)


def _packed(lm: LanguageModel, rows: int, fill: int, row: int) -> Packed:
    ways = row_ways(lm.mesh)
    tokens = [abstract(lm.mesh, (ways, fill // ways), jnp.int32, "R") for _ in range(3)]
    index = abstract(lm.mesh, (rows, row), jnp.int32, "R")
    return Packed(*tokens, index, *(abstract(lm.mesh, (rows,), jnp.int32, "R") for _ in range(5)))


def decode_arguments(lm: LanguageModel, slots: int, columns: int) -> tuple[Any, ...]:
    """What `decode` takes before its settings."""
    count = abstract(lm.mesh, (), jnp.int32)
    return lm, _blocks(lm), _slots(lm, slots, columns), count, count, count


def _next_tokens(arguments: tuple[Any, ...], slots: Slots) -> tuple[Any, ...]:
    """The same slots anew, with as many live columns and tokens to go as before."""
    back = slots.count_B[:1] - 1
    length_B, count_B = slots.length_B - back, slots.count_B - back
    slots = dataclasses.replace(slots, length_B=length_B, count_B=count_B)
    return (*arguments[:2], slots, *arguments[3:])


def decoding(model: str, mesh: Mesh, slots: int, columns: int = COLUMNS) -> Case:
    """One token more in every slot."""
    config = SHAPES[model]
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    live = slots * columns / 2
    floor = Floor(
        2 * slots * (size.layers + size.head) + size.attention * live,
        size.weights + size.column * live,
        f"W and head read once, {columns // 2} live columns of {columns} a slot read once",
    )
    values = {
        "steps": TURNS, "enough": 0, "max_new": NEW, "live_B": True, "count_B": 1,
        "length_B": (columns - TURNS) // 2,
    }  # fmt: skip
    return Case(
        f"decode {slots} slots {model}", mesh, floor, decode.decode,
        decode_arguments(lm, slots, columns), {"width": columns, "sampling": decode.GREEDY},
        values=values, again=_next_tokens, turns=TURNS, seen=live / (slots * columns),
    )  # fmt: skip


def filling(
    model: str, mesh: Mesh, fill: int = FILL, row: int = ROW, rows: int = 2 * FILL // ROW
) -> Iterator[Case]:
    """A refill: its prompts' keys, values and first tokens; and their way into the slots.

    `fill` tokens of `rows` prompts, the longest of `row`: the mean of those usual is half of it.
    """
    config = SHAPES[model]
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    packed, slots = _packed(lm, rows, fill, row), _slots(lm, 64, COLUMNS)
    prefix = jax.eval_shape(lambda lm, s, r: prefixes(lm, s, r, SHARED), lm, slots, packed.source_R)
    blocks = _blocks(lm)
    first, own = jax.eval_shape(
        lambda *a: decode.prefill(*a, decode.GREEDY), lm, blocks, packed, prefix
    )
    column = lambda x: abstract(lm.mesh, x.shape, x.dtype, "LBK")  # noqa: E731
    prefix, own = jax.tree.map(column, (prefix, own))
    first = abstract(lm.mesh, first.shape, first.dtype, "R")
    floor = Floor(
        2 * fill * size.layers + 2 * rows * size.head + fill * size.attention * row / 4,
        size.weights + fill * size.column, "2 W tokens + 2 D V rows + attention; W read once",
    )  # fmt: skip
    yield Case(
        f"prefill {fill} tokens {model}", mesh, floor, decode.prefill, (lm, blocks, packed, prefix),
        {"sampling": decode.GREEDY}, values=PACKED,
    )  # fmt: skip
    count = abstract(lm.mesh, (), jnp.int32)
    moved = rows * (row + SHARED) * size.column
    floor = Floor(0, 2 * moved, "prefix and own columns read once and written once")
    yield Case(
        f"insert {rows} rows {model}", mesh, floor, insert,
        (lm, slots, packed, prefix, own, first, count),
        values=PACKED | {"max_new": NEW, "live_B": True, "count_B": 1, "length_B": ROW},
        again=lambda arguments, slots: (arguments[0], slots, *arguments[2:]),
    )  # fmt: skip


def scoring(model: str, mesh: Mesh, sizes: tuple[int, int, int] = SCORED) -> Case:
    """How likely given answers are; `sizes` as in SCORED."""
    config = SHAPES[model]
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    rows, prompt, answer = sizes
    tokens = rows * (prompt + answer)
    floor = Floor(
        2 * tokens * size.layers + 2 * rows * answer * size.head + size.attention * tokens
        * (prompt + answer) / 2, size.weights,
        "2 W tokens + 2 D V answer tokens + attention; W read once",
    )  # fmt: skip
    kinds = ((prompt, jnp.int32), (prompt, bool), (answer, jnp.int32), (answer, bool))
    parts = [abstract(mesh, (rows, width), kind, "B") for width, kind in kinds]
    batch = AnswerBatch(*parts, abstract(mesh, (rows,), jnp.float32, "B"))
    return Case(
        f"score {rows} answers {model}", mesh, floor, batch_scores, (lm, _scale(lm), batch),
    )  # fmt: skip
