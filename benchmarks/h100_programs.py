"""The programs whose time and memory a big model depends on, their arguments as shapes alone.

Every program comes with what it cannot do without: FLOPs of matrix products, and bytes of weights,
live cache and results that must be read or written once. W weights of the layers, D width, V
vocabulary, N query heads, H head dim, K kv heads, L layers.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from benchmarks.models import SHAPES, abstract, abstract_meta_step, abstract_model
from nt_jax.attribution.integrated import row_gradients
from nt_jax.attribution.plan import row_bytes
from nt_jax.attribution.suffix import run_prefix
from nt_jax.data.packing import Shape
from nt_jax.generate import decode
from nt_jax.generate.slots import Packed, empty_slots, insert, prefixes
from nt_jax.models.config import ModelConfig
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.maml import MetaOptions, meta_step
from nt_jax.train.memory import layer_parameters

ITEM = 2  # bytes of a bfloat16
# (data, model) of so many cards.
LAYOUTS = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (8, 1)}
PROMPT, ANSWER = 512, 65  # tokens of an attacked prompt, and of the answer that is attributed
STEPS = 20 + 1  # nodes a layer
TOKENS, STRETCHES, INNER = 512, 4, 3  # of a sequence, sequences of a set, inner steps
COLUMNS, NEW = 512, 128  # of the cache that a step looks at; half of them live; new tokens
FILL, ROW = 4096, 256  # tokens of a refill, and of its longest row


class Floor(NamedTuple):
    """What no program can do without, on all cards together, and in words."""

    flops: float
    bytes: float
    formula: str


@dataclasses.dataclass(frozen=True)
class Case:
    """One program at one size."""

    name: str
    cards: int
    floor: Floor
    lowered: Callable[[], Any]
    rounds: int = 1  # of loops whose number of rounds a run settles
    planned: float | None = None  # bytes of temporaries that the run's own plan counts with


class Size:
    """The weights and the cache of a model in numbers."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.layers = layer_parameters(config) * config.layers
        self.head = config.vocab_size * config.width
        self.column = 2 * config.layers * config.kv_heads * config.head_dim * ITEM
        self.attention = 4 * config.heads * config.head_dim * config.layers

    @property
    def weights(self) -> float:
        """Bytes that a pass over layers and head reads."""
        return ITEM * (self.layers + self.head)


def mesh_of(devices: list) -> Mesh:
    """The mesh of so many cards."""
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(LAYOUTS[len(devices)], ("data", "model"), axis_types=auto, devices=devices)


def meta(model: str, devices: list, side: int = 1, remat: bool = True) -> Case:
    """An epoch: K inner steps and the outer gradient, STRETCHES sequences a set."""
    config, cards = SHAPES[model], len(devices)
    lm, size = abstract_model(config, "bfloat16", mesh_of(devices)), Size(config)
    side = max(side, LAYOUTS[cards][0])
    shape = Shape(max(1, STRETCHES // side), side, TOKENS, 128, 4)
    tokens = STRETCHES * TOKENS
    weights = size.layers + size.head * shape.targets / TOKENS
    # Forward and back to the activations are 2 W each; their tangents as much again.
    each = 4 * weights + 2 * size.attention * TOKENS / 2
    floor = Floor(
        tokens * each * (2 * INNER * 2 + 2), (2 * INNER * 2 + 2) * 2 * size.weights,
        "tokens x (4 W + 4 D V targets/tokens + attention) x (2 K gradients, 2 K products with the "
        "Hessian, 2 outer gradients); W read twice for each",
    )  # fmt: skip
    arguments, optimiser = abstract_meta_step(lm, shape)
    options = MetaOptions(inner_steps=INNER, with_margin=True, remat=remat)

    def lowered():
        with jax.numpy_dtype_promotion("standard"):
            return meta_step.trace(*arguments, options=options, optimiser=optimiser)

    return Case(f"meta-step {model}", cards, floor, lowered)


def attribution(model: str, devices: list, answer: int, rows: int) -> Case:
    """Gradients of `rows` rows, all through every layer, behind a prompt."""
    config, cards = SHAPES[model], len(devices)
    lm, size = abstract_model(config, "bfloat16", mesh_of(devices)), Size(config)
    ids = [abstract(lm.mesh, (n,), kind) for n in (PROMPT, answer) for kind in (jnp.int32, bool)]
    prefix = jax.eval_shape(run_prefix, lm, *ids)
    tokens, target = rows * answer, "first_token" if answer == 1 else "mean_logprob"
    each = 4 * (size.layers + size.head) + 2 * size.attention * (PROMPT + answer / 2)
    floor = Floor(
        tokens * each, 2 * size.weights + 2 * PROMPT * size.column,
        "rows x answer x (4 W + 4 D V + 8 L N H (prompt + answer / 2)); W and prefix read twice",
    )  # fmt: skip
    planned: list[int] = []
    jax.eval_shape(lambda lm: planned.append(row_bytes(lm, PROMPT, answer)), lm)
    arguments = (
        lm, prefix, abstract(lm.mesh, (), jnp.int32), abstract(lm.mesh, (rows,), jnp.int32, "R"),
        abstract(lm.mesh, (rows, config.width), jnp.float32, "R"),
    )  # fmt: skip
    return Case(
        f"attribution {answer} token{'s' * (answer > 1)} {model}", cards, floor,
        lambda: row_gradients.trace(*arguments, target=target),
        config.layers, rows * planned[0],
    )  # fmt: skip


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


def decoding(model: str, devices: list, slots: int) -> Case:
    """One token more in every slot."""
    config, cards = SHAPES[model], len(devices)
    lm, size = abstract_model(config, "bfloat16", mesh_of(devices)), Size(config)
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


def filling(model: str, devices: list) -> Iterator[Case]:
    """A refill: its prompts' keys, values and first tokens; and their way into the slots."""
    config, cards = SHAPES[model], len(devices)
    lm, size = abstract_model(config, "bfloat16", mesh_of(devices)), Size(config)
    rows = 2 * FILL // ROW  # their mean length is half of the longest
    packed, slots = _packed(lm, rows), _slots(lm, 64, COLUMNS)
    prefix = jax.eval_shape(lambda s, r: prefixes(s, r, 64), slots, packed.source_R)
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
    moved = rows * (ROW + 64) * size.column
    floor = Floor(0, 2 * moved, "prefix and own columns read once and written once")
    yield Case(
        f"insert {rows} rows {model}", cards, floor,
        lambda: insert.trace(lm, slots, packed, prefix, own, first, count),
    )  # fmt: skip


Make = Callable[[Callable[[int], list]], Case]


def chosen(shapes: list[str], cards: str, everything: bool, only: str) -> Iterator[Make]:
    """What makes each wanted program of a number of cards.

    The default set: all programs of the smallest shape on one card, what the bars are about beside.
    """
    for model in shapes:
        for count in map(int, cards.split(",")) if cards else LAYOUTS:
            for name, make in _programs(model, count).items():
                default = (name, model, count) in DEFAULT or (model, count) == ("llama3-8b", 1)
                if only in name and (everything or cards or only or default):
                    yield make


DEFAULT = {
    ("meta-step", "qwen2.5-14b", 1), ("decode 64", "qwen2.5-14b", 1), ("insert", "llama3-8b", 8),
}  # fmt: skip


def _programs(model: str, count: int) -> dict[str, Make]:
    return {
        "meta-step": lambda cards: meta(model, cards(count)),
        "attribution 1": lambda cards: attribution(model, cards(count), 1, STEPS * 32),
        "attribution 65": lambda cards: attribution(model, cards(count), ANSWER, 72),
        "prefill": lambda cards: next(filling(model, cards(count))),
        "decode 64": lambda cards: decoding(model, cards(count), 64),
        "decode 256": lambda cards: decoding(model, cards(count), 256),
        "insert": lambda cards: list(filling(model, cards(count)))[1],
    }
