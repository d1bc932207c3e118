"""Sizes and memory as --dry-run tells them."""

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.run.dry_run import describe, memory_estimate
from nt_jax.train.memory import GradientMemory, parameters
from tests.run import small


def test_the_plan_can_be_loaded_again_and_its_parts_add_up(recipe, model, tmp_path):
    config = small.settings(recipe, tmp_path / "run")
    plan = "\n".join(describe(config))
    assert "2 x 48 neurons" in plan and "24 of 96 may change (25.0 %)" in plan
    assert f"weights    {model}" in plan and plan.endswith("dry run: nothing was written")
    dumped = tmp_path / "again.yaml"
    dumped.write_text(plan.split("\n\n")[1].replace("dry run: nothing was written", ""))
    assert small.settings(dumped, tmp_path / "run") == config
    assert not (tmp_path / "run").exists()


def test_memory_follows_the_settings_that_cost_it(recipe, tmp_path):
    model = open_checkpoint(small.settings(recipe, tmp_path).model.source).config

    def estimate(*words: str) -> dict[str, float]:
        return memory_estimate(small.settings(recipe, tmp_path, *words), model)

    plain = estimate()
    assert plain["weights"] == 4 * parameters(model)
    assert plain["total"] == plain["weights"] + max(
        plain["tuning"], plain["decoding"], plain["export check"]
    )
    assert estimate("model.dtype=bfloat16")["weights"] == plain["weights"] / 2
    assert estimate("eval.batch_size=8")["decoding"] == 2 * plain["decoding"]
    longest, twice = "tune.sequence_tokens=1000", "tune.sequence_tokens=2000"
    assert estimate(twice)["tuning"] > 2 * estimate(longest)["tuning"]  # attention grows faster
    above, whole = (
        1000 * GradientMemory(model, 4, layers).tuning(1, 1000)[2]
        for layers in (model.layers - 1, model.layers)
    )
    assert above < estimate(longest)["tuning"]
    assert estimate("neurons.first_layer=1", longest)["tuning"] == above
    assert estimate(longest)["tuning"] == whole


def test_what_is_also_tuned_on_is_said_beforehand(recipe, tmp_path):
    extra = "eval.extra={seen: {source: demo, split: train, kind: harmful, limit: 3}}"
    config = small.settings(recipe, tmp_path / "run", extra, "eval.datasets=[seen, demo_harmless]")
    assert "warning    3 requests of seen are also tuned on: its result is too good" in list(
        describe(config)
    )
