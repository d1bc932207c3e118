"""Arguments to run a program with, in place of shapes: random weights, numbers that make sense.

Floats are made on the device, drawn with a deviation of 0.02 but for factors, norms and sums. A
sequence is one long row that sees all of itself: time depends on shapes alone. A whole number that
nothing here knows and its case does not state is refused.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.stages import Compiled

from benchmarks.h100_cases import Case
from nt_jax.mesh import sharding
from nt_jax.models.config import ModelConfig
from nt_jax.models.transformer import LanguageModel

Shape = tuple[int, ...]
TOKENS = (
    "token_BT", "target_BQ", "token_WN", "prompt_BP", "answer_BA", "answer_T", "first_R", "last_B",
)  # fmt: skip
ALONG = ("position_BT", "at_BQ", "place_BQ")  # count along their last axis
NONE = ("part_BT", "above_BT", "answer_BQ", "count", "mu", "nu", "row_B", "new_BM")
ONES = ("theta_P", "scale", "scale_LF", "sign_BQ", "weight_B")
DEVIATION = 0.02
# The chosen neurons, spread over layers.
PLACES: dict[str, Callable[[int, ModelConfig], np.ndarray]] = {
    "layer_P": lambda count, config: np.arange(count) * config.layers // count,
    "index_P": lambda count, config: np.arange(count) % config.neurons,
    "is_safety_P": lambda count, _: np.arange(count) < count // 2,
}


def filled(case: Case, program: Compiled, lm: LanguageModel | None = None) -> tuple[Any, ...]:
    """The arguments of a compiled program, placed as it wants them; `lm`: weights made before."""
    named = arguments_of(case)
    wanted, _ = program.input_shardings
    config = model_of(case).config
    made: list[Any] = []
    for (argument, tree), places in zip(named.items(), wanted, strict=True):
        if isinstance(tree, LanguageModel) and lm is not None:
            made.append(lm)
            continue
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        pairs = zip(leaves, structure.flatten_up_to(places), strict=True)
        arrays = [_leaf(case, config, name_of(p, argument), leaf, at) for (p, leaf), at in pairs]
        made.append(jax.tree.unflatten(structure, arrays))
    return tuple(made)


def arguments_of(case: Case) -> dict[str, Any]:
    """A program's arguments by name."""
    return dict(inspect.signature(case.program).bind_partial(*case.arguments).arguments)


def model_of(case: Case) -> LanguageModel:
    """The model among a case's arguments."""
    return next(part for part in case.arguments if isinstance(part, LanguageModel))


def name_of(path: tuple[Any, ...], argument: str) -> str:
    """The innermost name that a leaf has in its argument, or that of the argument."""
    names = (getattr(key, "name", getattr(key, "key", None)) for key in reversed(path))
    return next((n for n in names if isinstance(n, str) and n != "value"), argument)


def _leaf(
    case: Case, config: ModelConfig, name: str, leaf: Any, where: Sharding | None
) -> jax.Array:
    """One array; an argument that the program does not read lies where its shape says."""
    where = leaf.sharding or where or sharding(case.mesh, "")
    given = value_of(case, config, name, leaf)
    if given is None:
        return _drawn(len(name) + leaf.size % 1009, leaf.shape, leaf.dtype, where)
    if np.ndim(given) == 0:
        return jnp.full(leaf.shape, given, leaf.dtype, device=where)
    return jax.device_put(np.broadcast_to(given, leaf.shape).astype(leaf.dtype), where)


def value_of(case: Case, config: ModelConfig, name: str, leaf: Any) -> Any:
    """What an array holds, None where it is drawn; a ValueError where nothing says."""
    given = case.values.get(name)
    if given is None:
        given = _known(config, name, leaf.shape, leaf.dtype)
    if given is None and not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"{case.name}: no value is known for {name}, {leaf.dtype}{list(leaf.shape)}; "
            "state one in its case (values) or in benchmarks/filling.py."
        )
    return given


def _known(config: ModelConfig, name: str, shape: Shape, dtype: Any) -> Any:
    """What an array of this name holds, None where it may be drawn."""
    if name in PLACES:
        return PLACES[name](shape[-1], config)
    if name in TOKENS:
        return np.random.default_rng(len(shape)).integers(0, config.vocab_size, shape)
    if name in ALONG:
        return np.arange(shape[-1])
    if name in NONE:
        return 0
    if name == "weight_BR":
        return 1 / np.prod(shape)
    if name in ONES or name.endswith("norm") or jnp.issubdtype(dtype, jnp.bool_):
        return 1
    return None


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _drawn(seed: int, shape: Shape, dtype: Any, where: Sharding) -> jax.Array:
    """Normal numbers; of a stack one layer after the other, or their bits would take memory."""
    key = jax.random.key(seed, impl="rbg")
    if len(shape) > 2:
        keys = jax.random.split(key, shape[0])
        drawn = jax.lax.map(lambda k: jax.random.normal(k, shape[1:], dtype), keys)
    else:
        drawn = jax.random.normal(key, shape, dtype)
    return jax.lax.with_sharding_constraint(drawn * jnp.asarray(DEVIATION, dtype), where)
