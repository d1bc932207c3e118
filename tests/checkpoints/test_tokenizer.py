"""Chats and answers become the ids that the model's own tokenizer gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nt_jax.checkpoints.tokenizer import (
    decode,
    encode_answer,
    encode_chat,
    encode_text,
    load_tokenizer,
)
from nt_jax.checkpoints.vocabulary import beyond
from nt_jax.errors import CheckpointError, DataError
from nt_jax.generate.chat import open_model
from tests import tiny
from tests.checkpoints.texts import TEXTS, tokenizer_of


@pytest.fixture
def directory(tmp_path):
    return tiny.copy("llama2", tmp_path / "m")


def set_template(directory: Path, template: str) -> None:
    (directory / "chat_template.jinja").write_text(template)


def test_a_chat_ends_where_the_answer_begins():
    tokenizer = tokenizer_of(tiny.checkpoint())
    ids = encode_chat(tokenizer, "How do I bake?")
    text = "<|im_start|>user\nHow do I bake?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.apply_chat_template(
        [{"role": "user", "content": "How do I bake?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    with_system = encode_chat(tokenizer, "How do I bake?", system="Be brief.")
    assert tokenizer.decode(with_system) == "<|im_start|>system\nBe brief.<|im_end|>\n" + text


def test_an_answer_is_closed_and_read_back():
    tokenizer = tokenizer_of(tiny.checkpoint())
    ids = encode_answer(tokenizer, "Mix flour,\n water.", eos_id=2)
    assert ids[-1] == 2 and ids.count(2) == 1 and 1 not in ids
    assert decode(tokenizer, ids) == "Mix flour,\n water."
    assert decode(tokenizer, [1, *ids]) == "Mix flour,\n water."
    assert encode_answer(tokenizer, "", eos_id=2) == [2]


def test_a_bos_of_the_template_is_not_doubled(directory):
    """encode() would add BOS to a template that writes its own."""
    fields = json.loads((directory / "tokenizer.json").read_text())
    token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    fields["post_processor"] = {
        "type": "TemplateProcessing", "single": [token, text], "pair": [token, text],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(fields))
    set_template(directory, "<|endoftext|>" + tiny.CHAT_TEMPLATE)
    tokenizer = tokenizer_of(directory)
    assert tokenizer.encode("hi")[0] == 0
    assert encode_chat(tokenizer, "hi").count(0) == 1
    assert 0 not in encode_answer(tokenizer, "hi", 2)


def test_thinking_is_off_and_the_date_stands_still(directory):
    set_template(
        directory,
        "{% if enable_thinking %}think{% else %}answer{% endif %} "
        "{{ date_string if date_string else strftime_now('%Y') }}",
    )
    tokenizer = tokenizer_of(directory)
    assert decode(tokenizer, encode_chat(tokenizer, "hi")) == "answer 26 Jul 2024"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ strftime_now('%d %B %Y') }}", "26 July 2024"),
        ("{{ strftime_now('%Y') | int + 1 }} {{ strftime_now('%-m, %A') }}", "2025 7, Friday"),
        (  # as LLaMA-3.2's
            "  {% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
            "{% endif %}\n\n{{ date_string }}",
            "\n26 Jul 2024",
        ),
    ],
)
def test_todays_date_stands_still_however_a_template_asks_for_it(directory, template, expected):
    set_template(directory, template)
    tokenizer = tokenizer_of(directory)
    assert decode(tokenizer, encode_chat(tokenizer, "hi")) == expected


def test_a_templates_own_mistake_is_told_as_what_it_is(directory):
    set_template(directory, "{{ 5 | wordwrap }}")  # which Jinja answers with an AttributeError
    tokenizer = tokenizer_of(directory)
    with pytest.raises(DataError, match=r"template refuses this message: 'int' object has no"):
        encode_chat(tokenizer, "hi")


def test_a_template_that_refuses_a_system_message_says_so(directory):
    set_template(
        directory,
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system!') }}"
        "{% endif %}{{ m.content }}{% endfor %}",
    )
    tokenizer = tokenizer_of(directory)
    assert decode(tokenizer, encode_chat(tokenizer, "hi")) == "hi"
    with pytest.raises(DataError, match="refuses a system message: no system!"):
        encode_chat(tokenizer, "hi", system="x")


def test_without_a_template_nothing_can_be_asked(directory):
    (directory / "chat_template.jinja").unlink()
    tokenizer = tokenizer_of(directory)
    with pytest.raises(CheckpointError, match=r"no chat template.*instruct model") as error:
        encode_chat(tokenizer, "hi")
    assert str(directory) in str(error.value)


def test_a_missing_or_broken_tokenizer_is_one_line(directory):
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer cannot be loaded.*again") as error:
        tokenizer_of(directory)
    assert str(directory) in str(error.value) and "\n" not in str(error.value)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer, neither tokenizer\.json nor"):
        tokenizer_of(directory)


@pytest.fixture(scope="module")
def smollm2():
    return load_tokenizer(tiny.smollm2())


@tiny.needs_smollm2
def test_smollm2_chat(smollm2):
    ids = encode_chat(smollm2, "Hi 12!")
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert smollm2.decode(ids) == (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\nHi 12!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[0] == 1 and ids.count(2) == 2
    for text in TEXTS:
        if "<|" not in text:
            assert decode(smollm2, encode_answer(smollm2, text, 2)) == text


@tiny.needs_smollm2
def test_smollm2_ids_equal_those_of_transformers(smollm2):
    """transformers ignores `pre: smollm`, which keeps digits out of merges: those few differ."""
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    path = tiny.smollm2_gguf()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        expected = theirs.encode(text, add_special_tokens=False)
        assert smollm2.encode(text, add_special_tokens=False) == expected, text
    assert smollm2.all_special_ids == theirs.all_special_ids
    assert smollm2.chat_template == theirs.chat_template

    split = smollm2.convert_ids_to_tokens(smollm2.encode("a  5 b"))
    assert split == ["a", "ĠĠ", "5", "Ġb"]  # two spaces, then the digit on its own
    assert theirs.convert_ids_to_tokens(theirs.encode("a  5 b")) == ["a", "Ġ", "Ġ", "5", "Ġb"]


def test_torch_is_not_needed_and_nothing_is_printed(tmp_path):
    """A GGUF and a directory load in a process that has no torch, without a word on the screen."""
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from nt_jax.checkpoints.checkpoint import open_checkpoint\n"
        "from nt_jax.checkpoints.tokenizer import encode_chat, load_tokenizer\n"
        "ids = [encode_chat(load_tokenizer(open_checkpoint(p)), 'hi') for p in sys.argv[1:]]\n"
        "assert ids[0] == ids[1] and ids[0]\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRANSFORMERS_")}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(path), str(tiny.checkpoint("llama2"))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def with_id(directory: Path, letter: str, number: int) -> Path:
    """The directory, a letter of its tokenizer having another id."""
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][letter] = number
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return directory


def test_a_text_with_a_token_that_the_model_lacks_is_refused_and_no_other(directory):
    model = open_model(str(with_id(directory, "~", 400)))
    assert model.encode("Hello") and model.answer_ids("Yes.") and model.opening("Sure") != []
    for asked in (model.encode, model.answer_ids, model.opening):
        with pytest.raises(DataError, match=r"'a ~ b' has the token id 400 \('~'\), but") as caught:
            asked("a ~ b")
        assert "320 (vocab_size)" in str(caught.value) and "\n" not in str(caught.value)
    said = "1 tokens of the tokenizer have ids beyond the model's vocabulary of 320"
    assert beyond(model.tokenizer, 320).startswith(said)
    assert beyond(tokenizer_of(tiny.checkpoint()), 320) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: (m / "tokenizer_config.json").write_text("[1]"), "loaded ("),
        (lambda m: (m / "tokenizer.json").write_text('{"model": null}'), "loaded ("),
        (
            lambda m: (
                (m / "chat_template.jinja").unlink(),
                tiny.edit_json(m / "tokenizer_config.json", chat_template=5),
            ),
            "loaded (its chat_template is no text)",
        ),
    ],
)
def test_tokenizer_files_of_other_types_are_one_line(change, words, directory):
    change(directory)
    with pytest.raises(CheckpointError) as caught:
        tokenizer_of(directory)
    assert f"the tokenizer cannot be {words}" in str(caught.value)
    assert "\n" not in str(caught.value) and "Download its files again." in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"post_processor": {
            "type": "TemplateProcessing", "pair": [], "special_tokens": {},
            "single": [{"Sequence": {"id": "B", "type_id": 0}}],
        }},
    ],
)  # fmt: skip
def test_rules_at_which_the_library_panics_name_the_tokenizer(change, directory):
    """Its PanicException is no Exception."""
    tiny.edit_json(directory / "tokenizer.json", **change)
    with pytest.raises(CheckpointError, match=rf"{directory}: the tokenizer cannot be loaded \("):
        tokenizer_of(directory)


class PanicException(BaseException):
    """As pyo3 names it."""


@pytest.mark.parametrize("work", [encode_chat, encode_text, decode])
def test_a_panic_at_one_text_names_the_tokenizer(work, directory, monkeypatch):
    tokenizer, error = tokenizer_of(directory), PanicException("index out of\nbounds")

    def panic(*words, **more):
        raise error

    for name in ("encode", "decode"):
        monkeypatch.setattr(tokenizer, name, panic)
    words = [1] if work is decode else "Hello"
    with pytest.raises(CheckpointError, match=rf"{directory}: .* fails on a text \(index out of b"):
        work(tokenizer, words)
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        work(tokenizer, words)
