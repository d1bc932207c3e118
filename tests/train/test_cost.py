"""What the meta-step holds: read from its traced and compiled programs, nothing of it is run."""

import dataclasses
import functools
import math

import jax
import pytest

from benchmarks.models import SHAPES, abstract_meta_step, abstract_model
from nt_jax.data.packing import Shape
from nt_jax.mesh import make_mesh
from nt_jax.models.footprint import layer_parameters
from nt_jax.train.maml import MetaOptions, meta_step
from nt_jax.train.objectives import nll

MOST = 1_000_000  # bytes that a branch may give back: sums of gradients and losses, no weights
ORDERS = {"second order": 2, "first order": 1}
SMALL = dataclasses.replace(
    SHAPES["llama3-8b"], width=128, neurons=512, layers=4, heads=4, kv_heads=2, head_dim=32,
    vocab_size=256,
)  # fmt: skip


def traced(config, shape: Shape, order: int, dtype: str = "bfloat16"):
    """The meta-step with K = 3 and everything that a loss may hold."""
    arguments, optimiser = abstract_meta_step(abstract_model(config, dtype, make_mesh()), shape)
    options = MetaOptions(order=order, inner_steps=3, with_margin=True)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        return meta_step.trace(*arguments, options=options, optimiser=optimiser)


def branches(jaxpr):
    """Every `cond` of a program, those within loops and calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            yield equation
        for part in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from branches(inner)


def size(equation) -> int:
    """Bytes of what a `cond` gives back."""
    shapes = (out.aval for out in equation.outvars)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_no_branch_gives_back_weights_at_the_shape_of_8b(order):
    program = traced(SHAPES["llama3-8b"], Shape(4, 1, 512, 64, 4), order)
    sizes = [size(equation) for equation in branches(program.jaxpr.jaxpr)]
    assert len(sizes) >= 4  # one a set and loss
    assert max(sizes) <= MOST


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_more_stretches_take_no_more_memory(order):
    one, four = (
        traced(SMALL, Shape(stretches, 1, 64, 16, 4), order, "float32").lower().compile()
        for stretches in (1, 4)
    )
    held = [program.memory_analysis().temp_size_in_bytes for program in (one, four)]
    assert held[1] <= 1.2 * held[0]


@pytest.mark.parametrize("remat", [False, True], ids=["stored", "recomputed"])
def test_the_layers_above_one_are_never_copied(remat):
    """Not by taking them, and not by a gradient through them."""
    lm = abstract_model(SMALL, "float32", make_mesh())
    upper = jax.eval_shape(lambda lm: lm.above(1), lm)
    assert jax.tree.map(lambda leaf: leaf.shape, upper.frozen) == jax.tree.map(
        lambda leaf: leaf.shape, lm.frozen
    )
    batch = abstract_meta_step(lm, Shape(1, 1, 16, 4, 4))[0][-1].global_safety
    part = jax.eval_shape(lambda batch: jax.tree.map(lambda leaf: leaf[0], batch), batch)
    slope = jax.jit(jax.grad(functools.partial(nll, remat=remat), argnums=1))
    program = slope.lower(upper, *jax.tree.leaves(upper.scale), part).compile()
    three = 3 * 4 * layer_parameters(SMALL)  # bytes
    assert program.memory_analysis().temp_size_in_bytes < three
