"""Sizes and memory as --dry-run tells them."""

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.run.dry_run import (
    SEQUENCE_TOKENS,
    describe,
    layer_parameters,
    memory_estimate,
    parameters,
    sequence_cost,
    slope_rows,
    token_bytes,
    tuning_tokens,
)
from tests import tiny
from tests.run import small


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_parameters_are_those_that_torch_counts(family):
    expected = sum(weight.numel() for weight in tiny.torch_model(family).parameters())
    assert parameters(open_checkpoint(str(tiny.checkpoint(family))).config) == expected


@tiny.needs_smollm2
def test_the_demo_model_has_its_134_5_million():
    assert parameters(tiny.smollm2().config) == 134_515_008


def test_the_plan_can_be_loaded_again_and_its_parts_add_up(recipe, model, tmp_path):
    config = small.settings(recipe, tmp_path / "run")
    plan = describe(config)
    assert "2 x 48 neurons" in plan and "24 of 96 may change (25.0 %)" in plan
    assert f"weights    {model}" in plan and plan.endswith("dry run: nothing was written")
    dumped = tmp_path / "again.yaml"
    dumped.write_text(plan.split("\n\n")[1])
    assert small.settings(dumped, tmp_path / "run") == config
    assert not (tmp_path / "run").exists()


def test_memory_follows_the_settings_that_cost_it(recipe, tmp_path):
    def estimate(*words: str) -> dict[str, float]:
        config = small.settings(recipe, tmp_path, *words)
        return memory_estimate(config, open_checkpoint(config.model.source).config)

    plain = estimate()
    assert plain["weights"] == 4 * parameters(tiny_config(recipe, tmp_path))
    assert plain["total"] == plain["weights"] + max(
        plain["tuning"], plain["decoding"], plain["export check"]
    )
    assert estimate("model.dtype=bfloat16")["weights"] == plain["weights"] / 2
    assert estimate("eval.batch_size=8")["decoding"] == 2 * plain["decoding"]
    longest, twice = "tune.sequence_tokens=1000", "tune.sequence_tokens=2000"
    assert estimate(twice)["tuning"] > 2 * estimate(longest)["tuning"]  # attention grows faster
    config = small.settings(recipe, tmp_path, "neurons.first_layer=1", "tune.sequence_tokens=1000")
    model = tiny_config(recipe, tmp_path)
    gradients = 1000 * tuning_tokens(config, model, 1)[2]
    assert gradients < estimate(longest)["tuning"]
    upper = 4 * layer_parameters(model) * (model.layers - 1)  # held a second time
    assert memory_estimate(config, model)["tuning"] == gradients + upper
    whole = small.settings(recipe, tmp_path, "tune.sequence_tokens=1000")  # the lowest may be in 1
    gradients = 1000 * tuning_tokens(whole, model, 1)[2]
    assert memory_estimate(whole, model)["tuning"] == gradients + upper


def tiny_config(recipe, tmp_path):
    return open_checkpoint(small.settings(recipe, tmp_path).model.source).config


def test_memory_decides_how_many_tokens_are_differentiated_together(recipe, tmp_path):
    model, config = tiny_config(recipe, tmp_path), small.settings(recipe, tmp_path)
    most, remat, each = tuning_tokens(config, model, 100)
    assert most == SEQUENCE_TOKENS and not remat
    assert each == 3 * token_bytes(config, model, most)
    tokens, remat, less = tuning_tokens(config, model, 20_000)
    assert tokens == 20_000 and remat and less < 0.8 * 3 * token_bytes(config, model, tokens)
    few = small.settings(recipe, tmp_path, "tune.sequence_tokens=40")
    assert tuning_tokens(few, model, 30)[0] == 40
    assert tuning_tokens(few, model, 100)[0] == 100  # a row is never cut


def test_the_cost_of_a_sequence_is_its_weights_and_its_attention(recipe, tmp_path):
    model = tiny_config(recipe, tmp_path)
    cost = sequence_cost(model)
    weights = parameters(model) - model.vocab_size * model.width * (1 if model.tied else 2)
    per_layer = (weights - model.width) / model.layers
    attention = 2 * model.heads * model.head_dim
    assert cost(7) == 7 * (per_layer + 7 * attention)


def test_slopes_take_fewer_rows_where_memory_is_short(recipe, tmp_path):
    model = tiny_config(recipe, tmp_path)
    assert slope_rows(small.settings(recipe, tmp_path), model, 100) == (8, False)
    assert slope_rows(small.settings(recipe, tmp_path), model, 10**8) == (1, True)
    split = small.settings(recipe, tmp_path, "mesh.data=2")
    assert slope_rows(split, model, 10**8) == (2, True)
