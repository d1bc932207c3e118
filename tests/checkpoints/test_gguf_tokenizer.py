"""Tokenizers as GGUF files hold them."""

import json

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.gguf_tokenizer import build_tokenizer, merges_from_scores
from nt_jax.checkpoints.tokenizer import (
    decode,
    encode_chat,
)
from nt_jax.errors import CheckpointError
from nt_jax.generate.chat import ChatText
from tests import tiny
from tests.checkpoints.texts import TEXTS, tokenizer_of


def test_what_a_gguf_lacks_is_not_to_be_put_into_files_beside_it(tmp_path):
    path = tiny.write_gguf(
        tiny.checkpoint("llama2"), tmp_path / "m.gguf", metadata={"tokenizer.chat_template": None}
    )
    with pytest.raises(CheckpointError, match=r"no chat template.* Use another conversion"):
        encode_chat(tokenizer_of(path), "Hello")


def test_a_gguf_stops_at_the_end_of_a_turn_that_its_metadata_leave_out(tmp_path):
    """As llama.cpp does; conversions of LLaMA-3 named <|end_of_text|> alone."""
    metadata = {"tokenizer.ggml.eos_token_id": 0}
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf", metadata=metadata)
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.config.eos_ids == (0, 2)
    assert ChatText(checkpoint).end_id == 2
    other = metadata | {"tokenizer.ggml.eot_token_id": 7}
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "n.gguf", metadata=other)
    with pytest.raises(CheckpointError, match=r"stops at 0, 7 alone\. Use another conversion"):
        _ = ChatText(open_checkpoint(str(path))).end_id


def test_a_byte_level_tokenizer_survives_the_conversion(tmp_path):
    directory = tiny.checkpoint("llama2")
    ours = tokenizer_of(tiny.write_gguf(directory, tmp_path / "m.gguf"))
    theirs = tokenizer_of(directory)
    for text in [*TEXTS, "a  5 b", "  3"]:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, add_special_tokens=False) == ids, text
        assert decode(ours, ids) == decode(theirs, ids), text
    assert encode_chat(ours, "hi 12") == encode_chat(theirs, "hi 12")
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "all_special_ids", "chat_template")
    assert [getattr(ours, n) for n in names] == [getattr(theirs, n) for n in names]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "ab  1234 c\n\nd", ["ab", "Ġ", "Ġ1234", "Ġc", "Ċ", "Ċ", "d"]),
        ("smollm", "ab  123", ["ab", "ĠĠ", "1", "2", "3"]),
        ("llama-bpe", "Ab'LL  1234 c\n\nd", ["Ab", "'LL", "Ġ", "Ġ", "123", "4", "Ġc", "ĊĊ", "d"]),
        ("qwen2", "ab  123 c!\n", ["ab", "Ġ", "Ġ", "1", "2", "3", "Ġc", "!Ċ"]),
        ("tekken", "abCd 12", ["ab", "Cd", "Ġ", "1", "2"]),
    ],
)
def test_text_is_cut_as_the_model_was_trained(pre, text, pieces):
    tokenizer = build_tokenizer(_byte_level_metadata(pre), "here")
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == pieces
    whole = "".join(tokenizer.decode(tokenizer.encode(text).ids))
    assert whole == text


def _byte_level_metadata(pre: str | None) -> dict:
    vocab = json.loads((tiny.tokenizer_directory() / "tokenizer.json").read_text())["model"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": sorted(vocab["vocab"], key=vocab["vocab"].get),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in vocab["merges"]],
    }


def test_llama3_prefers_whole_tokens_and_qwen_composes_accents():
    metadata = _byte_level_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"].append("zqj")  # reachable by no merge
    ids = build_tokenizer(metadata, "here").encode("zqj").ids
    assert ids == [len(metadata["tokenizer.ggml.tokens"]) - 1]
    metadata["tokenizer.ggml.pre"] = "qwen2"
    qwen = build_tokenizer(metadata, "here")
    assert len(qwen.encode("zqj").ids) == 3
    assert qwen.encode("e\u0301").ids == qwen.encode("\u00e9").ids  # NFC


@pytest.mark.parametrize(
    ("pre", "starts"),
    [("llama-bpe", True), ("llama3", True), ("tekken", True), ("gpt-2", False), ("qwen2", False)],
)
def test_a_text_starts_with_bos_where_llama_cpp_adds_it_unasked(pre, starts):
    metadata = _byte_level_metadata(pre) | {"tokenizer.ggml.bos_token_id": 1}
    assert (build_tokenizer(metadata, "here").encode("a").ids[0] == 1) == starts
    for said in (False, True):
        asked = build_tokenizer(metadata | {"tokenizer.ggml.add_bos_token": said}, "here")
        assert (asked.encode("a").ids[0] == 1) == said


def test_special_unused_and_user_tokens(tmp_path):
    metadata = _byte_level_metadata("gpt-2") | {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
    }
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens += ["<tool>", "[PAD1]"]
    metadata["tokenizer.ggml.token_type"] = [3] * 3 + [1] * (len(tokens) - 5) + [4, 5]
    tokenizer = build_tokenizer(metadata, "here")
    ids = tokenizer.encode("a<tool>b<|im_end|>").ids
    assert ids[0] == 1 and ids[2] == len(tokens) - 2 and ids[-1] == 2
    assert tokenizer.token_to_id("[PAD1]") is None
    assert tokenizer.decode(ids) == "a<tool>b"  # user tokens are text, control tokens are not


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer.ggml.pre": "smolm"}, ["'smolm' is unknown", "nearest: 'smollm'", "qwen2"]),
        ({"tokenizer.ggml.pre": None}, ["none given", "newer conversion"]),
        ({"tokenizer.ggml.model": "bert"}, ["'bert'", "gpt2, llama"]),
        ({"tokenizer.ggml.tokens": []}, ["0 tokens"]),
        ({"tokenizer.ggml.merges": None}, ["tokenizer.ggml.merges, by which", "is missing"]),
        ({"tokenizer.ggml.merges": "a b"}, ["tokenizer.ggml.merges, by which", "conversion"]),
        ({"tokenizer.ggml.model": "llama"}, ["tokenizer.ggml.scores, by which", "is missing"]),
    ],
)
def test_a_gguf_tokenizer_we_cannot_rebuild_is_refused(changes, words):
    metadata = {k: v for k, v in (_byte_level_metadata("gpt-2") | changes).items() if v is not None}
    with pytest.raises(CheckpointError) as error:
        build_tokenizer(metadata, "file.gguf")
    for word in ("file.gguf: ", *words):
        assert word in str(error.value)


def test_a_sentencepiece_tokenizer_gives_the_ids_of_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([tiny._TEXT, *TEXTS[:1], *TEXTS[4:9]] * 3), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "sp"), vocab_size=400, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    size = theirs.vocab_size()
    kinds = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1
        for i in range(size)
    ]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
    }
    ours = build_tokenizer(metadata, "here")
    for text in [t for t in TEXTS if t and "<|" not in t]:
        ids = ours.encode(text).ids
        assert ids[0] == 1  # BOS by default, as llama.cpp does
        assert ids[1:] == theirs.encode(text), text
        assert ours.decode(ids) == text
    no_prefix = build_tokenizer(metadata | {"tokenizer.ggml.add_space_prefix": False}, "here")
    assert no_prefix.encode("Mix", add_special_tokens=False).ids != theirs.encode("Mix")
    assert no_prefix.decode(no_prefix.encode("Mix").ids) == "Mix"


def test_merges_rank_by_the_score_of_what_they_make():
    tokens, scores = ["a", "b", "c", "ab", "bc", "abc", "<s>"], [0, 0, 0, -2, -1, -3, 0]
    merges = merges_from_scores(tokens, scores, [1] * 6 + [3])
    assert merges == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]
