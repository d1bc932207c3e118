"""The programs that go back through the layers: a meta-step, attribution, slopes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.h100_cases import ITEM, Case, Floor, Size
from benchmarks.models import SHAPES, abstract, abstract_meta_step, abstract_model, abstract_sets
from nt_jax.attribution.integrated import row_gradients
from nt_jax.attribution.suffix import run_prefix
from nt_jax.data.packing import Shape
from nt_jax.mesh import row_ways
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.maml import MetaOptions, meta_step
from nt_jax.train.slopes import DECISION, row_slopes

PROMPT, ANSWER = 512, 65  # tokens of an attacked prompt, and of the answer that is attributed
STEPS = 20 + 1  # nodes a layer
TOKENS, TARGETS, STRETCHES, INNER = 512, 128, 4, 3  # of a sequence, sequences, inner steps
SLOPE_ROWS, SLOPE_TOKENS, SLOPE_TARGETS = 8, 272, 16  # of rows whose slopes are taken


def meta(model: str, mesh: Mesh, beside: int = 1, remat: bool = True, length: int = TOKENS) -> Case:
    """An epoch: K inner steps and the outer gradient, STRETCHES sequences a set.

    `beside`: sequences side by side on a card, where a set has so many.
    """
    config = SHAPES[model]
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    side = min(beside * row_ways(mesh), max(STRETCHES, row_ways(mesh)))
    shape = Shape(max(1, STRETCHES // side), side, length, TARGETS, 4)
    tokens = STRETCHES * length
    weights = size.layers + size.head * shape.targets / length
    # Forward and back to the activations are 2 W each; their tangents as much again.
    each = 4 * weights + 2 * size.attention * length / 2
    floor = Floor(
        tokens * each * (2 * INNER * 2 + 2), (2 * INNER * 2 + 2) * 2 * size.weights,
        "tokens x (4 W + 4 D V targets/tokens + attention) x (2 K gradients, 2 K products with the "
        "Hessian, 2 outer gradients); W read twice for each",
    )  # fmt: skip
    arguments, optimiser = abstract_meta_step(lm, shape)
    options = MetaOptions(inner_steps=INNER, with_margin=True, remat=remat, clip_norm=1.0)
    name = ("" if remat else "stored ") + "meta-step" + f" {beside} beside" * (beside > 1)
    return Case(
        f"{name} {model}", mesh, floor, meta_step, arguments, {"optimiser": optimiser},
        {"options": options}, again=lambda arguments, made: (*made[:2], *arguments[2:]),
    )  # fmt: skip


def prompt_and_answer(lm: LanguageModel, prompt: int, answer: int) -> list[jax.ShapeDtypeStruct]:
    """What `run_prefix` takes beside the model."""
    kinds = (jnp.int32, bool)
    return [abstract(lm.mesh, (n,), kind) for n in (prompt, answer) for kind in kinds]


def row_arguments(lm: LanguageModel, prompt: int, answer: int, rows: int) -> tuple[Any, ...]:
    """What `row_gradients` takes before its target."""
    prefix = jax.eval_shape(run_prefix, lm, *prompt_and_answer(lm, prompt, answer))
    layer_R = abstract(lm.mesh, (rows,), jnp.int32, "R")
    shift_RD = abstract(lm.mesh, (rows, lm.config.width), jnp.float32, "R")
    return lm, prefix, abstract(lm.mesh, (), jnp.int32), layer_R, shift_RD


def prefix(model: str, mesh: Mesh, prompt: int = PROMPT, answer: int = ANSWER) -> Case:
    """What all rows of an example share: one pass over the prompt and its answer."""
    config = SHAPES[model]
    lm, size, tokens = abstract_model(config, "bfloat16", mesh), Size(config), prompt + answer - 1
    floor = Floor(
        tokens * (2 * size.layers + size.attention * tokens / 2),
        ITEM * size.layers + tokens * size.column, "2 W tokens + attention; W read once",
    )  # fmt: skip
    given = (lm, *prompt_and_answer(lm, prompt, answer))
    return Case(f"prefix {prompt} tokens {model}", mesh, floor, run_prefix, given)


def attribution(model: str, mesh: Mesh, answer: int, rows: int, prompt: int = PROMPT) -> Case:
    """Gradients of `rows` rows, all through every layer, behind a prompt."""
    config = SHAPES[model]
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    tokens, target = rows * answer, "first_token" if answer == 1 else "mean_logprob"
    each = 4 * (size.layers + size.head) + 2 * size.attention * (prompt + answer / 2)
    floor = Floor(
        tokens * each, 2 * size.weights + 2 * prompt * size.column,
        "rows x answer x (4 W + 4 D V + 8 L N H (prompt + answer / 2)); W and prefix read twice",
    )  # fmt: skip
    return Case(
        f"attribution {answer} token{'s' * (answer > 1)} {model}", mesh, floor, row_gradients,
        row_arguments(lm, prompt, answer, rows), {"target": target}, rounds=config.layers,
        values={"begin": 0, "layer_R": np.arange(rows) * config.layers // rows},
    )  # fmt: skip


def slopes(
    model: str, mesh: Mesh, rows: int = SLOPE_ROWS, remat: bool = False, length: int = SLOPE_TOKENS
) -> Case:
    """Slopes of `rows` answers in every factor, each in a sequence of its own."""
    config = SHAPES[model]
    lm, size = abstract_model(config, "bfloat16", mesh), Size(config)
    tokens, shape = rows * length, Shape(1, rows, length, SLOPE_TARGETS, 1)
    each = 4 * size.layers + 2 * size.attention * length / 2
    floor = Floor(
        tokens * each + 4 * rows * SLOPE_TARGETS * size.head, 2 * size.weights,
        "tokens x (4 W + attention) + 4 D V targets; W read twice",
    )  # fmt: skip
    batch = abstract_sets(lm, shape, "SB")
    batch = jax.tree.map(lambda x: abstract(mesh, x.shape[1:], x.dtype, "B"), batch)
    count = config.layers * config.neurons
    place = abstract(mesh, (count,), jnp.int32)
    neurons = NeuronSet(place, place, abstract(mesh, (count,), bool))
    theta_P = abstract(mesh, (count,), jnp.float32)
    sign_BQ = abstract(mesh, (rows, SLOPE_TARGETS), jnp.float32, "B")
    return Case(
        f"slopes {model}", mesh, floor, row_slopes, (theta_P, lm, neurons, batch, sign_BQ),
        {"what": DECISION, "remat": remat},
    )  # fmt: skip
