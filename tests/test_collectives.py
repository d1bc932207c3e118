"""Collectives are counted as by hand, whichever way a compiler spells the cards that take part."""

import jax
import jax.numpy as jnp
import pytest
from jax.lax import with_sharding_constraint as placed

from benchmarks import h100_answers as answers
from benchmarks.collectives import Collective, by_op, collectives, continued, groups_of
from benchmarks.models import SHAPES as MODELS
from benchmarks.models import abstract_meta_step, abstract_model
from benchmarks.sharding_ideal import STAGES, ideal
from benchmarks.weak_scaling import FAR, LATENCY, NETWORK, NVLINK, Step
from nt_jax.data.packing import Shape
from nt_jax.doctor.shapes import SHAPES
from nt_jax.mesh import make_mesh, sharding
from nt_jax.train.maml import MetaOptions, answer_loss, gradient

ROUNDS, B, D, F = 3, 8, 16, 64
CHOSEN = 50  # factors


def test_a_program_on_eight_devices_sends_what_a_hand_counts():
    """Rounds sum products over `model` (4 of 8 rows), the end over `data`; a weight is gathered."""
    mesh = make_mesh(2, 4)
    x_BD = jax.ShapeDtypeStruct((B, D), jnp.float32, sharding=sharding(mesh, "BD"))
    up_DF = jax.ShapeDtypeStruct((D, F), jnp.float32, sharding=sharding(mesh, "DF"))
    down_FD = jax.ShapeDtypeStruct((F, D), jnp.float32, sharding=sharding(mesh, "FD"))

    def program(x_BD, up_DF, down_FD):
        def layer(x_BD, _):
            act_BF = placed(jnp.tanh(x_BD @ up_DF), sharding(mesh, "BF"))
            return placed(act_BF @ down_FD, sharding(mesh, "BD")), None

        x_BD = jax.lax.scan(layer, x_BD, length=ROUNDS)[0]
        return placed(x_BD.sum(axis=0), sharding(mesh, "D")), placed(up_DF, sharding(mesh, ""))

    text = str(jax.jit(program).lower(x_BD, up_DF, down_FD).compile().as_text())
    found = collectives(text, (2, 4), ROUNDS)
    assert by_op(found) == {"all-gather": 1, "all-reduce": ROUNDS + 1}
    sent = {(each.op, each.axis, each.cards, each.times): each.sent for each in found}
    half = 4 * B // 2 * D  # bytes of the rows of one of two data parts
    assert sent == {
        ("all-reduce", "model", 4, ROUNDS): ROUNDS * 2 * (3 / 4) * half,
        ("all-reduce", "data", 2, 1): 2 * (1 / 2) * 4 * D,
        ("all-gather", "model", 4, 1): (3 / 4) * 4 * D * F,
    }


def sent_by(case) -> list[Collective]:
    """What the compiled program of a benchmark sends on eight devices of a data axis."""
    return list(collectives(str(case.lowered().compile().as_text()), (8, 1), 1))


def test_a_refill_on_a_data_axis_sends_nothing():
    assert not sent_by(next(answers.filling("tiny", make_mesh(8, 1), 512, 64, 16)))


def test_a_gradient_on_a_data_axis_sums_the_chosen_factors_alone():
    """Each of its 8 sequences alone: together, all neurons would be summed in each layer."""
    lm = abstract_model(MODELS["tiny"], "float32", make_mesh(8, 1))
    (theta_P, _, *rest), _ = abstract_meta_step(lm, Shape(1, 8, 64, 16, 2), CHOSEN)
    lm, neurons, batch = rest
    options = MetaOptions(inner_steps=1)
    slope = jax.jit(lambda *data: gradient(answer_loss, 1)(*data, options))
    lowered = slope.lower(theta_P, lm, neurons, batch.local_safety)
    found = collectives(str(lowered.compile().as_text()), (8, 1), 1)
    (summed,) = [each for each in found if each.sent > 100]
    assert (summed.op, summed.times, summed.result) == ("all-reduce", 1, 4 * CHOSEN)


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups={}, x", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8], x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1), x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        (
            "replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2'}, x",
            [[0, 1, 2, 3], [4, 5, 6, 7]],
        ),
        (
            "replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, x",
            [[0, 1, 2, 3], [4, 5, 6, 7]],
        ),
        ("source_target_pairs={{0,0},{2,4},{4,2}}, x", [[2, 4], [4, 2]]),
    ],
)
def test_every_spelling_of_the_cards_of_a_group(words, groups):
    assert groups_of(words, 8) == groups


@pytest.mark.parametrize(
    "words",
    ["to_apply=%add", "replica_groups=mesh['a'=8] {'a':(1)2}, x", "replica_groups=[2,4]<=[8]Q(0)"],
)
def test_a_spelling_that_is_not_known_is_refused(words):
    with pytest.raises(ValueError, match="nothing here reads"):
        groups_of(words, 8)


HEAD = "HloModule m\n\nENTRY %main (p: f32[8]) -> f32[8] {\n  %p = f32[8] parameter(0)\n"


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("%a = f32[8] all-reduce-start(%p), replica_groups={{0,1},{2,3}}", 32),
        ("%a = (f32[8], f32[16]) all-gather-start(%p), replica_groups={{0,1},{2,3}}", 32),
        ("%a = ((f32[8]), f32[4]) reduce-scatter-start(%p), replica_groups={{0,1},{2,3}}", 16),
        ("%a = (f32[8], f32[8]) collective-permute-start(%p), source_target_pairs={{0,1}}", 32),
        ("%a = f32[8] all-reduce(%p), replica_groups={{0},{1},{2},{3}}", 0),
    ],
)
def test_what_is_sent_of_each_kind_as_a_gpu_spells_it(line, sent):
    found = collectives(f"{HEAD}  {line}\n}}\n", (2, 2))
    assert sum(each.sent for each in found) == sent


def one(axis: str, times: int, result: int = 1000, op: str = "all-reduce") -> Collective:
    return Collective(op, "", "", axis, 2, times, result)


def test_a_deeper_program_is_continued_layer_by_layer():
    few, more = ([one("model", 2 * n), one("data", 1)] for n in (2, 4))
    assert [each.times for each in continued(few, more, 14.0)] == [8 + 14 * 4, 1]
    with pytest.raises(AssertionError, match="other collectives"):
        continued(few, [one("model", 8)], 14.0)


def test_the_least_of_a_stage_by_hand():
    """One card sends nothing; a sum over 8 of 4,096 x 4,096 bfloat16 sends 7/4 of these bytes."""
    eight = SHAPES["llama3.1-8b"].config
    for stage in STAGES:
        assert ideal(stage, eight, (1, 1)).sent == 0
    stream = 7 / 4 * 4096 * 4096 * 2
    assert ideal("prefill", eight, (1, 8)).sent == pytest.approx(65 * stream, rel=1e-4)
    assert ideal("prefill", eight, (8, 1)).sent == 0
    factors = 14 * 7 / 4 * 4 * 2000
    assert ideal("meta-step", eight, (8, 1)).sent == factors
    layer = 3 * 4096 * 14336 + 2 * 4096 * (4096 + 1024) + 2 * 4096  # matrices and norms
    weights = 7 / 8 * 2 * (32 * layer + 128256 * 4096)
    assert ideal("slopes", eight, (1, 1, 8)).sent == 2 * weights
    assert ideal("meta-step", eight, (1, 1, 8)).sent == factors + 14 * 2 * weights


def test_a_step_of_more_cards_by_hand():
    step = Step((2, 4), 0.01, (one("model", 3), one("data", 5), one("data", 1, op="all-gather")))
    model = 3 * (1000 / NVLINK + LATENCY)
    assert step.seconds(1) == pytest.approx(0.01 + model)
    assert step.seconds(2) == pytest.approx(0.01 + model + 5500 / NVLINK + 6 * LATENCY)
    # Sixteen parts: 15/16 twice of what is summed, 15/16 of eight times what was gathered.
    sent = 5 * 2 * 15 / 16 * 1000 + 15 / 16 * 8000
    assert step.seconds(16) == pytest.approx(0.01 + model + sent / NETWORK + 6 * FAR)
    assert step.efficiency(16) == step.seconds(1) / step.seconds(16)
