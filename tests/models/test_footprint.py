"""Bytes of programs: by hand, against what is compiled for CPUs, and for H100s as recorded."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from benchmarks import plan
from benchmarks.h100_answers import FILL, ROW, SHARED
from nt_jax.attribution.integrated import row_gradients
from nt_jax.attribution.suffix import run_prefix
from nt_jax.doctor.shapes import SHAPES
from nt_jax.generate import decode
from nt_jax.generate.slots import empty_slots
from nt_jax.models.footprint import Footprint, parameters, part_of
from nt_jax.models.transformer import LanguageModel
from tests import plain

EIGHT = SHAPES["llama3.1-8b"].config


def test_a_device_holds_its_part_of_every_weight():
    """Matrix by matrix; norms are on every device."""
    d, f, v, layers = 4096, 14336, 128256, 32
    matrices = 3 * d * f + d * (32 + 2 * 8) * 128 + 32 * 128 * d
    split, whole = layers * matrices + 2 * v * d, (2 * layers + 1) * d
    assert parameters(EIGHT) == split + whole
    assert parameters(part_of(EIGHT, 4)) == split // 4 + whole
    held = Footprint(EIGHT, 2, 2, 4)
    assert held.weights == 2 * (split // 4 + whole) + 4 * layers * f // 4
    assert held.layers == 2 * layers * (matrices // 4 + 2 * d) + 4 * layers * f // 4


def test_the_terms_of_an_8b_model_by_hand():
    one, eight = Footprint(EIGHT, 2), Footprint(EIGHT, 2, 2, 4)
    assert one.cache(64, 512) == 64 * 512 * 131_072  # 128 kB a token, as its makers say
    assert eight.cache(64, 512) == one.cache(64, 512) // 8
    # Five arrays of 14,336 neurons and a wide one, two wide streams, q, k, v, 32 rows of weights.
    assert one.kept(272) == 14 * 14336 + 8 * 4096 + 2 * (4096 + 2 * 1024) + 6 * 32 * 272
    assert one.turned(272) == 4 * 14336 and one.turned(512) == 4 * 32 * 512
    fused = dataclasses.replace(one, fused=True)  # 32 results of 128, and as many numbers
    assert fused.kept(272) == one.kept(0) + 2 * 4096 + 4 * 32
    assert fused.turned(512) == 4 * 14336
    assert one.slopes(8, 272, 32) == 8 * 272 * 32 * (one.kept(272) + 4 * 14336)
    wide_head = 4 * 128256 * 4096  # held at the logits, when little is turned
    assert one.slopes(1, 272, 32) == 272 * 32 * one.kept(272) + wide_head
    assert one.decode(64) == 4 * 64 * 128256 == 8 * eight.decode(64)
    first, second = (one.meta_step(1, 512, 128, 32, remat=False, order=order) for order in (1, 2))
    assert second - first == 512 * 32 * one.kept(512)  # the tangents
    assert one.meta_step(1, 512, 128, 32, remat=True) < first / 5


def test_fsdp_shares_out_the_width_of_every_weight():
    """Scales of neurons alone are whole; the head and a layer are while they are used."""
    one, four = Footprint(EIGHT, 2), Footprint(EIGHT, 2, 4, 1, 4)
    scale = 4 * 32 * 14336
    assert four.weights - scale == (one.weights - scale) // 4
    assert (four.layers - scale) * 4 == one.layers - scale
    head, layer = 2 * 128256 * 4096, 2 * (3 * 14336 + 2 * (32 + 8) * 128 + 2) * 4096
    assert (one.gathered, four.gathered) == (0, head + layer)
    norms = 2 * 2 * 4096  # nowhere cut
    both = Footprint(EIGHT, 2, 4, 8, 4).gathered  # by mesh.model as well
    assert both == 2 * ((head + layer - norms) // 8 + norms)
    biased = dataclasses.replace(EIGHT, qkv_bias=True)  # of a bias nothing is shared out
    more = Footprint(biased, 2, 4, 1, 4).weights - four.weights
    assert more == 2 * 32 * (32 + 2 * 8) * 128


def test_rows_are_shared_out_over_the_data_axis():
    one, four = Footprint(EIGHT, 2, 1, 2), Footprint(EIGHT, 2, 4, 2)
    for name, size in (("score", (32, 256, 128)), ("decode", (64,))):
        assert getattr(one, name)(*size) == 4 * getattr(four, name)(*size)
    assert one.insert(32, 320) == 0 and four.insert(32, 320) == one.cache(32, 320)


def compiled(program, *args, **settings):
    return program.lower(*args, **settings).compile().memory_analysis()


def model(layers: int, mesh: tuple[int, int]) -> LanguageModel:
    config = dataclasses.replace(plain.MESH_CONFIG, layers=layers, neurons=512, vocab_size=64)
    return plain.random_model(config, jnp.float32, mesh)


@pytest.mark.parametrize("mesh", [(1, 1), (2, 4)])
def test_arguments_of_decoding_are_its_weights_and_its_cache(mesh):
    """What XLA says of a program for CPUs: where arguments lie depends on no backend."""
    lm, slots = model(3, mesh), 8
    held = Footprint(lm.config, 4, *mesh)
    scale = jax.tree.leaves(lm.scale)[0]
    stacks = decode.stacks_of(lm, scale)
    found = compiled(
        decode.decode, lm, stacks, empty_slots(lm, slots, 64, 16), jnp.int32(1), jnp.int32(0),
        jnp.int32(9), 64, decode.GREEDY,
    )  # fmt: skip
    small = 3 * 4 + slots // mesh[0] * (4 * 4 + 1 + 4 * 16)  # counters, lengths, new tokens
    assert found.argument_size_in_bytes == held.weights + held.cache(slots, 64) + small


def test_what_attribution_keeps_of_a_layer_is_what_xla_keeps():
    """Temporaries of deeper models grow by the stream and the two inputs of every neuron."""
    rows, answer, found = 4, 5, {}
    for layers in (3, 9):
        lm = model(layers, (1, 1))
        ids = [jnp.zeros(n, kind) for n in (6, answer) for kind in (jnp.int32, bool)]
        prefix = run_prefix(lm, *ids)
        shift_RD = jnp.zeros((rows, lm.config.width))
        which = jnp.zeros(rows, jnp.int32)
        memory = compiled(
            row_gradients, lm, prefix, jnp.int32(0), which, shift_RD, target="mean_logprob"
        )
        held = Footprint(lm.config, 4)
        found[layers] = memory.temp_size_in_bytes, held.attribution(rows, 6, answer)
    (less, planned_less), (more, planned_more) = found[3], found[9]
    assert planned_more - planned_less == pytest.approx(more - less, rel=0.05)


def test_two_programs_as_compiled_for_an_h100():
    """`python benchmarks/plan.py --compile --meshes 1x1 --programs slopes`, jaxlib 0.10.2, and
    `--shapes llama3.1-70b --meshes 1x8 --programs slopes`: temporaries, arguments, results."""
    eight = plan.planned({"program": "slopes", "shape": "llama3.1-8b", "mesh": "1x1"})
    assert eight.temporaries == pytest.approx(21_736_460_824, rel=0.01)
    assert eight.arguments == pytest.approx(15_033_208_324, rel=0.001)
    assert eight.results == 14_680_064
    seventy = plan.planned({"program": "slopes", "shape": "llama3.1-70b", "mesh": "1x8"})
    assert seventy.temporaries == pytest.approx(23_583_922_456, rel=0.01)


def test_a_refill_of_one_stack_as_compiled_for_an_h100():
    """int8 keeps the layers in one: `python benchmarks/fits.py --only prefill`, jaxlib 0.10.2."""
    model = dataclasses.replace(SHAPES["qwen2.5-14b"].config, int8=True)
    rows = 2 * FILL // ROW
    held = Footprint(model, 2).prefill(FILL, rows, ROW, SHARED, stacked=True)
    assert held == pytest.approx(1.10 * 2**30, rel=0.1)
    assert Footprint(model, 2).prefill(FILL, rows, ROW, SHARED) < held / 2


@pytest.mark.parametrize(
    "cell", plan.recorded(), ids=lambda cell: "-".join(list(cell.values())[:3]).replace(" ", "-")
)
def test_the_plan_is_within_15_percent_of_what_the_compiler_gives(cell):
    assert abs(plan.row(cell)["error"]) <= plan.ALLOWED, plan.row(cell)


def test_the_table_of_the_documents_is_that_of_the_record():
    page = (plan.ROOT / "docs" / "performance.md").read_text()
    assert plan.table(plan.compared()) in page
