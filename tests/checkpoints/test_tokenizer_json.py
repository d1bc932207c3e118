"""tokenizer.json is read as it is, whatever class its folder names."""

import json

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import load_tokenizer, rules_replaced
from nt_jax.errors import CheckpointError
from tests import tiny
from tests.checkpoints.texts import TEXTS


@pytest.fixture
def directory(tmp_path):
    return tiny.copy("llama2", tmp_path / "m")


def tokenizer_of(path):
    return load_tokenizer(open_checkpoint(str(path)))


# AutoTokenizer of transformers 5 puts rules of the class that is named in place of a file's own.


def test_byte_level_rules_of_tokenizer_json_are_kept(directory):
    """As of SmolLM2, whose class is GPT2Tokenizer and whose model is of LLaMA's type."""
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), bytes_]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.VOCAB, special_tokens=tiny.SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(["a   12", "Steps:\n\n1. Mix"] * 9, trainer)
    backend.save(str(directory / "tokenizer.json"))
    tiny.edit_json(directory / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    found = tokenizer_of(directory)
    for text in [*TEXTS, "Steps:\n\n1. Mix", "a   12"]:
        expected = backend.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False) == expected, text
    assert found.convert_ids_to_tokens(found.encode("a   12")) == ["a", "ĠĠĠ", "1", "2"]


def test_sentencepiece_rules_of_tokenizer_json_are_kept(directory):
    """As of LLaMA-2, which reads a blank before a text, behind <s> as well."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(
        vocab_size=60, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    backend.train_from_iterator(["[INST] What is it? [/INST]"] * 9, trainer)
    backend.save(str(directory / "tokenizer.json"))
    fields = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
    found = tokenizer_of(directory)
    expected = backend.encode("<s>[INST] What", add_special_tokens=False).ids
    assert found.encode("<s>[INST] What", add_special_tokens=False) == expected
    assert found.convert_ids_to_tokens(expected)[1].startswith("▁[")
    # No file of the tokenizer speaks of these two, as the class has them; config.json has 1 and 2.
    assert (found.bos_token, found.eos_token) == ("<s>", "</s>")
    fields |= {"bos_token": None, "eos_token": "<s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
    assert (tokenizer_of(directory).bos_token, tokenizer_of(directory).eos_token) == (None, "<s>")


@pytest.mark.parametrize(
    ("named", "replaced"),
    [
        ("GPT2Tokenizer", True),
        ("LlamaTokenizerFast", True),
        ("Qwen2Tokenizer", False),
        (None, False),
    ],
)
def test_where_transformers_may_replace_rules_is_known(directory, named, replaced):
    tiny.edit_json(directory / "tokenizer_config.json", tokenizer_class=named)
    assert rules_replaced(directory) == replaced
    (directory / "tokenizer.json").unlink()
    assert not rules_replaced(directory)


def test_a_sentencepiece_model_alone_says_what_reads_it(directory, monkeypatch):
    (directory / "tokenizer.json").rename(directory / "tokenizer.model")
    monkeypatch.setattr("nt_jax.checkpoints.tokenizer.find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=r"sentencepiece, which is not installed\. Install it"
    ):
        tokenizer_of(directory)
