"""The programs that answer prompts and score answers: refills, decoding, likelihoods."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks.h100_cases import Case, Floor, Size
from benchmarks.models import SHAPES, abstract, abstract_model
from nt_jax.data.batching import AnswerBatch
from nt_jax.generate import decode
from nt_jax.generate.likelihood import batch_scores
from nt_jax.generate.slots import Packed, empty_slots, insert, prefixes
from nt_jax.models.transformer import LanguageModel

COLUMNS, NEW = 512, 128  # of the cache that a step looks at; half of them live; new tokens
SCORED = (32, 256, 128)  # answers, tokens of their prompts and of their own
FILL, ROW, SHARED = 4096, 256, 64  # tokens of a refill, of its longest row, of a shared prefix


def _scale(lm: LanguageModel):
    return abstract(lm.mesh, (lm.config.layers, lm.config.neurons), jnp.float32, "LF")


def _blocks(lm: LanguageModel):
    """Layers one by one, placed as the program that makes them leaves them."""
    made = jax.jit(decode.stacks_of)
    traced = made.trace(lm, _scale(lm))
    places = traced.lower(lowering_platforms=("cuda",)).compile().output_shardings
    put = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(put, jax.eval_shape(made, lm, _scale(lm)), places)


def _slots(lm: LanguageModel, batch: int, columns: int):
    made = jax.eval_shape(lambda lm: empty_slots(lm, batch, columns, NEW), lm)
    put = lambda x: abstract(lm.mesh, x.shape, x.dtype, "LBK" if x.ndim == 5 else "B")  # noqa: E731
    return jax.tree.map(put, made)


def _packed(lm: LanguageModel, rows: int) -> Packed:
    tokens = [abstract(lm.mesh, (FILL,), jnp.int32, "R") for _ in range(3)]
    index = abstract(lm.mesh, (rows, ROW), jnp.int32, "R")
    return Packed(*tokens, index, *(abstract(lm.mesh, (rows,), jnp.int32, "R") for _ in range(5)))


def decoding(model: str, mesh: Mesh, slots: int) -> Case:
    """One token more in every slot."""
    config, cards = SHAPES[model], mesh.size
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    live = slots * COLUMNS / 2
    floor = Floor(
        2 * slots * (size.layers + size.head) + size.attention * live,
        size.weights + size.column * live,
        f"W and head read once, {COLUMNS // 2} live columns of {COLUMNS} a slot read once",
    )
    count = abstract(lm.mesh, (), jnp.int32)
    arguments = (lm, _blocks(lm), _slots(lm, slots, COLUMNS), count, count, count)
    return Case(
        f"decode {slots} slots {model}", cards, floor,
        lambda: decode.decode.trace(*arguments, COLUMNS, decode.GREEDY),
    )  # fmt: skip


def filling(model: str, mesh: Mesh) -> Iterator[Case]:
    """A refill: its prompts' keys, values and first tokens; and their way into the slots."""
    config, cards = SHAPES[model], mesh.size
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    rows = 2 * FILL // ROW  # their mean length is half of the longest
    packed, slots = _packed(lm, rows), _slots(lm, 64, COLUMNS)
    prefix = jax.eval_shape(lambda s, r: prefixes(s, r, SHARED), slots, packed.source_R)
    scale = _scale(lm)
    first, own = jax.eval_shape(
        lambda *a: decode.prefill(*a, decode.GREEDY), lm, scale, packed, prefix
    )
    cache = lambda parts: tuple(abstract(lm.mesh, x.shape, x.dtype, "LBK") for x in parts)  # noqa: E731
    prefix, own, first = cache(prefix), cache(own), abstract(lm.mesh, first.shape, first.dtype, "R")
    floor = Floor(
        2 * FILL * size.layers + 2 * rows * size.head + FILL * size.attention * ROW / 4,
        size.weights + FILL * size.column, "2 W tokens + 2 D V rows + attention; W read once",
    )  # fmt: skip
    yield Case(
        f"prefill {FILL} tokens {model}", cards, floor,
        lambda: decode.prefill.trace(lm, scale, packed, prefix, decode.GREEDY),
    )  # fmt: skip
    count = abstract(lm.mesh, (), jnp.int32)
    moved = rows * (ROW + SHARED) * size.column
    floor = Floor(0, 2 * moved, "prefix and own columns read once and written once")
    yield Case(
        f"insert {rows} rows {model}", cards, floor,
        lambda: insert.trace(lm, slots, packed, prefix, own, first, count),
    )  # fmt: skip


def scoring(model: str, mesh: Mesh) -> Case:
    """How likely SCORED given answers are."""
    config, cards = SHAPES[model], mesh.size
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    rows, prompt, answer = SCORED
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
        f"score {rows} answers {model}", cards, floor,
        lambda: batch_scores.trace(lm, _scale(lm), batch),
    )  # fmt: skip
