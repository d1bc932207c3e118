"""Models that cannot be read as they are: what each message advises is done, and they are read."""

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints.checkpoint import check_mesh, load_weights, open_checkpoint
from nt_jax.generate.chat import ChatModel, open_model
from nt_jax.limits import TEMPLATE_BYTES
from nt_jax.mesh import make_mesh
from tests import tiny
from tests.advice import followed

ALL = list(range(tiny.VOCAB))
END = 2  # <|im_end|>
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def chat(source: Path) -> ChatModel:
    """The model as a dry run looks at it: it can be asked, and its answers end."""
    model = open_model(str(source))
    assert model.encode("Hello") and model.eos_id == END
    return model


def copy(folder: Path, **options) -> Path:
    return tiny.copy("smollm2", folder / "model", **options)


def from_the_original(model: Path, *names: str, **options) -> None:
    """Files as they were: downloaded again, or copied."""
    for name in names or [file.name for file in tiny.checkpoint("smollm2", **options).iterdir()]:
        shutil.copyfile(tiny.checkpoint("smollm2", **options) / name, model / name)


# --- the tokenizer and its template --------------------------------------------------------------


def no_tokenizer(folder: Path):
    model = copy(folder)
    (model / "tokenizer.json").unlink()
    yield lambda: chat(model), "no tokenizer, .* Copy it from the original model"
    from_the_original(model, "tokenizer.json")


def a_broken_tokenizer(folder: Path):
    model = copy(folder)
    (model / "tokenizer.json").write_text("{")
    yield lambda: chat(model), "tokenizer cannot be loaded .*Download its files again"
    from_the_original(model, *TOKENIZER)


def the_tokenizer_of_another_model(folder: Path):
    model = copy(folder)
    text = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(text.replace('"e": ', '"e": 400, "\u0451": '))
    yield lambda: chat(model), "belongs to another model. Copy the tokenizer's files"
    from_the_original(model, *TOKENIZER)


def no_template(folder: Path):
    model = copy(folder)
    (model / "chat_template.jinja").unlink()
    yield lambda: chat(model), "no chat template, .* add chat_template.jinja to its directory"
    (model / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE)


def another_model_without_a_template(folder: Path):
    model = copy(folder)
    (model / "chat_template.jinja").unlink()
    yield lambda: chat(model), "Use an instruct model"
    yield lambda: chat(tiny.checkpoint("smollm2"))


def a_template_that_builds_too_much(folder: Path):
    model = copy(folder)
    (model / "chat_template.jinja").write_text("{{ 'x' * 10**10 }}")
    yield lambda: chat(model), "was stopped: .* Copy the template from the original model"
    from_the_original(model, "chat_template.jinja")


def a_template_that_is_too_long(folder: Path):
    model = copy(folder)
    (model / "chat_template.jinja").write_text("x" * (TEMPLATE_BYTES.value + 1))
    yield lambda: chat(model), "characters; at most .* Copy it from the original model"
    from_the_original(model, "chat_template.jinja")


# --- what ends an answer -------------------------------------------------------------------------


def no_end_of_answers(folder: Path):
    model = copy(folder)
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tiny.edit_json(model / "tokenizer_config.json", eos_token=None)  # or config.json speaks
    yield lambda: chat(model), "names a token that ends .* Add eos_token to tokenizer_config.json"
    tiny.edit_json(model / "tokenizer_config.json", eos_token="<|im_end|>")


def another_end_of_answers(folder: Path):
    model = copy(folder)
    tiny.edit_json(model / "generation_config.json", eos_token_id=5)
    said = r"stops at 5 alone\. Add 2 to eos_token_id in generation_config\.json"
    yield lambda: chat(model), said
    tiny.edit_json(model / "generation_config.json", eos_token_id=[5, END])


def many_other_ends_of_answers(folder: Path):
    model = copy(folder)
    others = [token for token in ALL if token != END]
    tiny.edit_json(model / "generation_config.json", eos_token_id=others)
    yield lambda: chat(model), r"stops at 0, 1, 3, 4, 5 and 314 more alone\. Add 2 to eos_token_id"
    tiny.edit_json(model / "generation_config.json", eos_token_id=[5, END])


def every_token_an_end(folder: Path):
    model = copy(folder)
    tiny.edit_json(model / "generation_config.json", eos_token_id=ALL)
    said = "eos_token_id of generation_config.json names all 320 tokens, .* Keep the id of the"
    yield lambda: chat(model), said
    tiny.edit_json(model / "generation_config.json", eos_token_id=END)


def every_token_an_end_of_the_config(folder: Path):
    model = copy(folder)
    tiny.edit_json(model / "generation_config.json", eos_token_id=...)
    tiny.edit_json(model / "config.json", eos_token_id=ALL)
    yield lambda: chat(model), "eos_token_id names all 320 tokens, .* Keep the id of the token"
    tiny.edit_json(model / "config.json", eos_token_id=END)


# --- the weights and their config ----------------------------------------------------------------


def a_field_that_is_only_a_note(folder: Path):
    model = copy(folder)
    tiny.edit_json(model / "config.json", favourite_colour="red")
    yield lambda: chat(model), "'favourite_colour' = 'red' is unknown .* only a note, delete it"
    tiny.edit_json(model / "config.json", favourite_colour=...)


def a_config_of_another_kind(folder: Path):
    model = copy(folder)
    (model / "config.json").write_text("[]")
    yield lambda: chat(model), "config.json is not a JSON object. Download it again"
    from_the_original(model, "config.json")


def a_generation_config_of_another_kind(folder: Path):
    model = copy(folder)
    (model / "generation_config.json").write_text("[]")
    yield lambda: chat(model), "generation_config.json is not a JSON object. Download it again"
    from_the_original(model, "generation_config.json")


def a_weight_that_is_no_number(folder: Path):
    model = copy(folder)
    tensors = load_file(model / "model.safetensors")
    tensors[EMBED][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors")
    yield lambda: open_checkpoint(str(model)).read(EMBED), "NaN or infinity.*Download it again"
    from_the_original(model, "model.safetensors")


def a_head_that_the_config_denies(folder: Path):
    model = tiny.copy("llama2", folder / "model")
    tiny.edit_json(model / "config.json", tie_word_embeddings=True)
    said = "Set tie_word_embeddings to false to use the stored head"
    yield lambda: load_weights(str(model), "float32", make_mesh(1, 1)), said
    tiny.edit_json(model / "config.json", tie_word_embeddings=False)


def a_shard_that_is_missing(folder: Path):
    model = copy(folder, shards=True)
    shard = min(model.glob("*.safetensors"))
    shard.unlink()
    yield lambda: chat(model), rf"missing: {shard.name}\. Download it again, then repeat"
    from_the_original(model, shard.name, shards=True)


def an_index_that_names_no_file(folder: Path):
    model = copy(folder, shards=True)
    index = "model.safetensors.index.json"
    tiny.edit_json(model / index, weight_map={EMBED: 3})
    yield lambda: chat(model), "which is no file name. Download it again"
    from_the_original(model, index, shards=True)


def a_mesh_that_does_not_divide(folder: Path):
    config = open_checkpoint(str(tiny.checkpoint("smollm2"))).config
    yield lambda: check_mesh(config, {"model": 3}), r"does not divide .* Choose one of: 1, 2"
    yield lambda: check_mesh(config, {"model": 2})


def more_devices_than_there_are(folder: Path):
    yield lambda: make_mesh(9, 1), r"needs 9 devices, but this machine shows .* Lower one of them"
    yield lambda: make_mesh(1, 1)


# --- where the model is --------------------------------------------------------------------------


def a_misspelt_path(folder: Path):
    model = copy(folder)
    yield lambda: chat(model.with_name("mode")), rf"Did you mean {model}\?"
    yield lambda: chat(model)


def a_folder_around_the_model(folder: Path):
    model = copy(folder)
    yield lambda: chat(folder), rf"config.json is missing\. Did you mean {model}\?"
    yield lambda: chat(model)


def a_folder_with_something_else(folder: Path):
    (folder / "notes.txt").touch()
    yield lambda: chat(folder), r"It holds notes.txt\. Give the directory of a downloaded model"
    yield lambda: chat(copy(folder))


def a_file_of_the_model(folder: Path):
    model = copy(folder)
    said = rf"Give the directory that holds config\.json, perhaps {model}\."
    yield lambda: chat(model / "model.safetensors"), said
    yield lambda: chat(model)


def a_folder_around_a_gguf_file(folder: Path):
    path = tiny.write_gguf(tiny.checkpoint("smollm2"), folder / "m.gguf")
    yield lambda: chat(folder), f"To use the GGUF file in it, give its path: {path}"
    yield lambda: chat(path)


# --- GGUF files ----------------------------------------------------------------------------------

CONVERSIONS = {
    "metadata of another model": (
        {"llama.strange": 3}, "'llama.strange' = 3 is unknown .* Use another conversion"
    ),
    "no merges": ({"tokenizer.ggml.merges": None}, "merges, by which .* Use another conversion"),
    "no name of its cuts": ({"tokenizer.ggml.pre": None}, "none given.* Use a newer conversion"),
    "another kind of tokenizer": ({"tokenizer.ggml.model": "bert"}, "'bert' .* Use an HF directo"),
    "a part": ({"split.count": 3}, "one of 3 parts; join them first"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSIONS)
def test_another_conversion_or_the_folder_is_read(name, tmp_path):
    original, path = tiny.checkpoint("smollm2"), tmp_path / "m.gguf"

    def converted_otherwise():
        metadata, said = CONVERSIONS[name]
        tiny.write_gguf(original, path, metadata=metadata)
        yield lambda: chat(path), said
        if "HF directo" in said:
            yield lambda: chat(original)
        path.unlink()
        tiny.write_gguf(original, path)

    followed(converted_otherwise())


@pytest.mark.parametrize(
    "case",
    [
        no_tokenizer, a_broken_tokenizer, the_tokenizer_of_another_model, no_template,
        another_model_without_a_template, a_template_that_builds_too_much,
        a_template_that_is_too_long, no_end_of_answers, another_end_of_answers,
        many_other_ends_of_answers, every_token_an_end, every_token_an_end_of_the_config,
        a_field_that_is_only_a_note, a_config_of_another_kind,
        a_generation_config_of_another_kind, a_weight_that_is_no_number,
        a_head_that_the_config_denies, a_shard_that_is_missing, an_index_that_names_no_file,
        a_mesh_that_does_not_divide, more_devices_than_there_are, a_misspelt_path,
        a_folder_around_the_model, a_folder_with_something_else, a_file_of_the_model,
        a_folder_around_a_gguf_file,
    ],
    ids=lambda case: case.__name__,
)  # fmt: skip
def test_what_the_message_advises_works(case, tmp_path):
    followed(case(tmp_path))
