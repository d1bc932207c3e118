"""Every method on a mesh and on every family: the same numbers, only placed or shaped otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.baselines import dinm
from nt_jax.baselines.dinm import DinmExample, DinmOptions, fit_dinm
from nt_jax.baselines.ia3 import FULL, Ia3
from nt_jax.baselines.lora import Lora
from nt_jax.baselines.states import gather_states
from nt_jax.models.transformer import logits
from tests import plain, tiny
from tests.baselines import made_up

EXAMPLES = made_up.examples(5, 8, 8, vocab=40)
EXAMPLE = DinmExample([7, 9, 30], [5, 6, 2], [8, 9, 10, 2], [11], [12, 13, 14, 15, 2])
pytestmark = pytest.mark.usefixtures("mixed_dtypes")


@functools.cache
def everything(mesh: tuple[int, int]):
    """(states, DINM's matrix and losses, those of adapters) of one small model in float64.

    Adam's first steps divide each gradient by its own size: in float32 the rounding of gradients
    near zero comes out as large as the step.
    """
    lm = plain.random_model(plain.MESH_CONFIG, jnp.float64, mesh=mesh)
    states = gather_states(lm, lm.ones_LF, EXAMPLES.harmful, batch_size=4)
    edit = fit_dinm(lm, EXAMPLE, DinmOptions(learning_rate=0.01, steps=3, layer=1))
    adapters = (Lora(leaves=("blocks.mlp.down", "blocks.attn.v"), first=1), Ia3(FULL))
    learned = [made_up.adapter_losses(lm, adapter, 3, 0.01) for adapter in adapters]
    losses = [list(row.values()) for row in edit.history]
    matrix = np.asarray(dinm.edited(lm, edit).module().blocks.mlp.down[...])
    return states, matrix, losses, learned


@pytest.mark.parametrize("mesh", plain.MESHES[1:2])
def test_the_mesh_changes_nothing(x64, mesh):
    for found, expected in zip(everything(mesh), everything((1, 1)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_tail_that_dinm_runs_is_the_model(family):
    lm = made_up.model(family)
    batch = dinm._batch(EXAMPLE, DinmOptions())
    for layer in range(lm.config.layers):
        free_FD = np.ones((lm.config.neurons, lm.config.width), bool)
        task = dinm.make_task(lm, layer, batch, free_FD)
        token_T = np.array([[*EXAMPLE.keep_prompt, *EXAMPLE.keep_answer]], np.int32)
        whole_TV = jax.nn.log_softmax(logits(lm, token_T, token_T > 0))[0]
        found_AV = task.base_AV[: len(EXAMPLE.keep_answer)]
        start = len(EXAMPLE.keep_prompt) - 1
        np.testing.assert_allclose(found_AV, whole_TV[start:-1], rtol=1e-4, atol=1e-4)
