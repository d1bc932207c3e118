"""Sizes and memory as --dry-run tells them."""

import json

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.models.footprint import layer_parameters, parameters
from nt_jax.run.dry_run import describe
from nt_jax.run.memory import Held, stage_memory
from tests import tiny
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


def test_a_cpu_is_said_to_be_slow_in_bfloat16(recipe, tmp_path):
    half, plain = (
        "\n".join(describe(small.settings(recipe, tmp_path / "run", f"model.dtype={dtype}")))
        for dtype in ("bfloat16", "float32")
    )
    said = "warning    model.dtype=bfloat16 halves memory, but a CPU is slower at it"
    assert said in half and said not in plain


def test_memory_follows_the_settings_that_cost_it(recipe, tmp_path):
    model = open_checkpoint(small.settings(recipe, tmp_path).model.source).config

    def stages(*words: str) -> dict[str, Held]:
        return stage_memory(small.settings(recipe, tmp_path, *words), model)

    plain, scale = stages(), 4 * model.layers * model.neurons
    assert plain["train"].weights == 4 * parameters(model) + scale
    assert plain["export"].copies == plain["export"].weights
    assert stages("model.dtype=bfloat16")["base"].weights - scale == 2 * parameters(model)
    whole, layers = stages("model.frozen=int8"), model.layers
    matrices = layers * (layer_parameters(model) - 2 * model.width)  # but for the norms
    channels = (model.heads + 2 * model.kv_heads) * model.head_dim
    channels = layers * (channels + 2 * model.width + 2 * model.neurons)
    assert plain["base"].weights - whole["base"].weights == 3 * matrices - 4 * channels
    assert whole["train"].temporaries == plain["train"].temporaries
    one, two, four = (stages(f"eval.batch_size={n}")["base"].cache for n in (8, 16, 32))
    assert four - two == 2 * (two - one) > 0
    off = "tune.validation_answers=0"
    longest, twice = "tune.sequence_tokens=500", "tune.sequence_tokens=1000"
    tuned, more = (stages(off, words)["train"].temporaries for words in (longest, twice))
    assert more > 2 * tuned  # attention grows faster
    above = stages(off, longest, "neurons.first_layer=1")["train"].temporaries
    assert above == tuned * (model.layers - 1) // model.layers
    first = stages(off, longest, "tune.order=1")["train"].temporaries
    assert first < tuned
    short = ("tune.sequence_tokens=1", "tune.order=1")  # of the inner loop: slopes take most
    slopes, steps = (
        stages(off, *small.DECISION, *short, f"tune.outer={outer}", "tune.lifts=[]")
        for outer in ("regression", "adam")
    )
    assert slopes["train"].temporaries == slopes["attribute"].temporaries
    assert slopes["train"].temporaries > 4 * steps["train"].temporaries
    scored = ("attribution.score=integrated", "attribution.answer_tokens=9")
    chunks = [
        stages(*scored, f"attribution.chunk={rows}")["attribute"].temporaries for rows in (1, 2, 3)
    ]
    assert chunks[2] - chunks[1] == chunks[1] - chunks[0] > 0


def test_heads_that_the_mesh_lays_out_anew_are_said(recipe, tmp_path):
    for ways, said in ((2, False), (4, True)):
        config = small.settings(recipe, tmp_path / "run", f"mesh.model={ways}")
        line = "heads      4 query and 2 kv heads lie as 4 and 4, each kv head 2 times"
        assert (line in list(describe(config))) == said


def test_what_is_also_tuned_on_is_said_beforehand(recipe, tmp_path):
    extra = "eval.extra={seen: {source: demo, split: train, kind: harmful, limit: 3}}"
    config = small.settings(recipe, tmp_path / "run", extra, "eval.datasets=[seen, demo_harmless]")
    assert "warning    3 requests of seen are also tuned on: its result is too good" in list(
        describe(config)
    )


def test_what_stands_on_two_sides_and_ids_that_the_model_lacks_are_said(recipe, tmp_path):
    sides = ("train", "validation")
    harmful, harmless = (
        [{"request": f"{what} {n}.", key: "No.", "split": sides[n % 2]} for n in range(8)]
        for what, key in (("Do harm", "refusal"), ("Bake", "answer"))
    )
    harmful.append(harmful[0] | {"split": "validation"})
    again = harmless[1] | {"request": "bake  1.", "split": "train"}  # the very same is dropped
    harmless += [again, harmless[0] | {"request": "Do harm 3."}]
    texts = ["Now: {request}", "So: {request}", "{request} Now!", "now: {request}"]
    templates = [
        {"id": str(n), "text": text, "types": ["pretending"], "split": sides[n % 2]}
        for n, text in enumerate(texts)
    ]
    words = []
    for name, rows in (("harmful", harmful), ("harmless", harmless), ("templates", templates)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words += [f"data.{name}.source={tmp_path / name}.jsonl", f"data.{name}.limit=null"]
    model = tiny.copy("smollm2", tmp_path / "model")
    tiny.edit_json(model / "config.json", max_position_embeddings=1024)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzqqzz"] = 400
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = small.settings(recipe, tmp_path / "run", *words, f"model.source={model}")
    said = "\n".join(describe(config))
    for line in (
        "1 requests are both harmful and harmless", "1 harmful requests are for both train and",
        "1 harmless requests are for both train and", "1 attack templates are for both train and",
        "1 tokens of the tokenizer have ids beyond the model's vocabulary of 320",
    ):  # fmt: skip
        assert said.count(line) == 1, (line, said)
