"""What enters slots that are spread over devices."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo_cost
from nt_jax.generate import decode
from nt_jax.generate.schedule import Schedule
from nt_jax.generate.slots import empty_slots, insert, prefixes
from nt_jax.mesh import sharding
from tests import plain

ROWS = 16


@pytest.mark.parametrize("mesh", [(8, 1), (4, 2)])
def test_a_refill_is_gathered_once_and_not_once_a_row(mesh):
    """Of the program as it is before loops are cleared of what is the same in every round."""
    lm = plain.random_model(plain.MESH_CONFIG, mesh=mesh)
    slots = empty_slots(lm, ROWS, 64, 8)
    prompts = [[5, 9, 3, 3, row] for row in range(ROWS)]
    refill = Schedule(prompts, ROWS, mesh[0], ROWS // mesh[0], 256).next_refill(range(ROWS))
    assert refill is not None and sorted(refill.rows) == list(range(ROWS))
    packed = jax.device_put(refill.packed, sharding(lm.mesh, "R"))
    prefix = prefixes(lm, slots, packed.source_R, refill.prefix_width)
    first_R, own = decode.prefill(
        lm, decode.stacks_of(lm, lm.ones_LF), packed, prefix, decode.GREEDY
    )
    lowered = insert.lower(lm, slots, packed, prefix, own, first_R, jnp.int32(8))
    as_it_is = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
    program = hlo_cost.Program(lowered.compile(compiler_options=as_it_is).as_text(), ROWS)
    once = sum(part.nbytes for part in jax.tree.leaves((prefix, own))) // mesh[1]
    assert once <= program.collective_bytes < 1.2 * once
