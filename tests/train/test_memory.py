"""How many tokens and rows are differentiated together, as the memory allows."""

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import parameters
from nt_jax.train.memory import SEQUENCE_TOKENS, SIDE, GradientMemory, sequence_cost
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
    found = memory.tuning(100)
    assert found.tokens == SEQUENCE_TOKENS and not found.remat and found.side == 1
    assert found.token_bytes == 3 * memory.token_bytes(found.tokens)
    long = memory.tuning(10_000_000)
    assert long.tokens == 10_000_000 and long.remat and long.side == 1
    assert long.token_bytes < 0.8 * 3 * memory.token_bytes(long.tokens)
    assert memory.tuning(30, wanted=40).tokens == 40
    assert memory.tuning(100, wanted=40).tokens == 100  # a row is never cut


def test_an_accelerator_takes_sequences_side_by_side_as_its_memory_allows(memory):
    held = memory.tuning(100, wanted=100, accelerator=True)
    assert held.side == SIDE and held.remat
    one = 4 * 100 * held.token_bytes  # a sequence in a quarter of the memory
    sides = [
        memory.tuning(100, 100, int(one * room), accelerator=True).side
        for room in (0.5, 1.01, 2.01, 3.01, 9)
    ]
    assert sides == [1, 1, 2, 3, SIDE]


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
