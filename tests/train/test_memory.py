"""How many tokens and rows are differentiated together, as the memory allows."""

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import parameters
from nt_jax.train.memory import SEQUENCE_TOKENS, GradientMemory, sequence_cost
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
    most, remat, each = memory.tuning(100)
    assert most == SEQUENCE_TOKENS and not remat
    assert each == 3 * memory.token_bytes(most)
    tokens, remat, less = memory.tuning(10_000_000)
    assert tokens == 10_000_000 and remat and less < 0.8 * 3 * memory.token_bytes(tokens)
    assert memory.tuning(30, wanted=40)[0] == 40
    assert memory.tuning(100, wanted=40)[0] == 100  # a row is never cut


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
