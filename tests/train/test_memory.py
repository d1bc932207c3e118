"""How many tokens and rows are differentiated together, as the memory allows."""

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import parameters
from nt_jax.train.memory import SEQUENCE_TOKENS, SIDE, GradientMemory, Together, sequence_cost
from tests import tiny


def config_of(family: str) -> ModelConfig:
    return open_checkpoint(str(tiny.checkpoint(family))).config


@pytest.fixture(scope="module")
def memory() -> GradientMemory:
    """That of all layers of a tiny model in float32."""
    model = config_of("smollm2")
    return GradientMemory(model, 4, model.layers)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_parameters_are_those_that_torch_counts(family):
    expected = sum(weight.numel() for weight in tiny.torch_model(family).parameters())
    assert parameters(config_of(family)) == expected


@tiny.needs_smollm2
def test_the_demo_model_has_its_134_5_million():
    assert parameters(tiny.smollm2().config) == 134_515_008


def test_memory_decides_how_many_tokens_are_differentiated_together(memory):
    assert memory.tuning(100) == Together(SEQUENCE_TOKENS, 1, False)
    assert memory.tuning(10_000_000) == Together(10_000_000, 1, True)
    assert memory.tuning(30, wanted=40).tokens == 40
    assert memory.tuning(100, wanted=40).tokens == 100  # a row is never cut


def test_an_accelerator_takes_sequences_side_by_side_as_its_memory_allows(memory):
    assert memory.tuning(100, limit=10**15, accelerator=True) == Together(
        SEQUENCE_TOKENS, SIDE, True
    )
    limits = [2**power for power in range(16, 50)]
    found = [memory.tuning(100, 0, limit, accelerator=True) for limit in limits]
    sides = [each.side for each in found]
    assert sides == sorted(sides) and set(sides) > {1, SIDE} and all(each.remat for each in found)
    for limit, usual in zip(limits, found, strict=True):
        fewer = memory.tuning(100, 100, limit, accelerator=True)
        assert fewer.tokens == 100 and fewer.side == usual.side  # so fewer tokens need less memory


def test_the_cost_of_a_sequence_is_its_weights_and_its_attention(memory):
    model = memory.model
    cost = sequence_cost(model)
    weights = parameters(model) - model.vocab_size * model.width * (1 if model.tied else 2)
    per_layer = (weights - model.width) / model.layers
    attention = 2 * model.heads * model.head_dim
    assert cost(7) == 7 * (per_layer + 7 * attention)


def test_slopes_take_fewer_rows_where_memory_is_short(memory):
    assert memory.slope_rows(100, 1) == (8, False)
    assert memory.slope_rows(10**8, 1) == (1, True)
    assert memory.slope_rows(10**8, 2) == (2, True)
    each = 4 * 100 * memory.token_bytes(100)  # a quarter of a device's memory for one row
    for devices, rows in ((1, 3), (2, 6), (4, 8), (8, 8), (16, 16)):  # whole on its device
        assert memory.slope_rows(100, devices, limit=3 * each) == (rows, False)
        assert memory.slope_rows(100, devices, limit=each - 4) == (devices, True)
