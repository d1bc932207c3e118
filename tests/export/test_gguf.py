"""GGUF exports: read back, compared with the hf export, and served by llama.cpp itself."""

import json
import shutil
from unittest import mock

import gguf as gguf_package
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import encode_chat, load_tokenizer
from nt_jax.errors import CheckpointError, RunError
from nt_jax.export import gguf, gguf_lora
from nt_jax.export.folder import Wanted
from nt_jax.export.gguf_vocab import PROBES, vocabulary
from nt_jax.generate.chat import open_model
from tests import tiny
from tests.checkpoints import families
from tests.export.llama_cpp import Server
from tests.export.test_adapters import factors_of, scale_of
from tests.plain import padded_logits

FAMILIES = (
    "llama2",
    "llama3",
    "llama_linear",
    "smollm2",
    "qwen2",
    "qwen2_tied",
    "qwen3",
    "mistral",
)
PROMPT = [5, 9, 30, 11, 7]


def tensors_of(path) -> dict[str, tuple[str, bytes]]:
    return {
        t.name: (t.tensor_type.name, t.data.tobytes())
        for t in gguf_package.GGUFReader(path).tensors
    }


def expected_of(checkpoint, factors, name: str) -> np.ndarray:
    weight = checkpoint.read(name).astype(np.float32)
    down = name.endswith("down_proj.weight")
    return weight * scale_of(factors)[int(name.split(".")[2])] if down else weight


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_becomes_a_gguf_with_the_same_model_in_it(tmp_path, family):
    model, factors = open_model(str(tiny.checkpoint(family))), factors_of()
    report = gguf.write(model, factors, tmp_path / "out", Wanted())
    assert report.max_logit_difference < 1e-5 and len(report.changed) == 2
    again = open_checkpoint(str(tmp_path / "out" / "model.gguf"))
    old = model.checkpoint
    assert again.config.sizes == old.config.sizes and again.config.rope == old.config.rope
    assert again.config.eos_ids == old.config.eos_ids and again.config.tied == old.config.tied
    for name in again.tensors:
        np.testing.assert_array_equal(again.read(name), expected_of(old, factors, name))
    theirs, ours = load_tokenizer(again), load_tokenizer(old)
    assert encode_chat(theirs, "Hi 12!") == encode_chat(ours, "Hi 12!")
    assert theirs.chat_template == ours.chat_template
    assert (tmp_path / "out" / "Modelfile").read_text() == "FROM ./model.gguf\n"


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_matrices_keep_their_type_and_float32_widens_them(tmp_path, stored):
    model, factors = open_model(str(tiny.checkpoint("qwen2", dtype=stored))), factors_of()
    kinds = {}
    for wanted in (Wanted(), Wanted("float32")):
        folder = tmp_path / wanted.dtype
        gguf.write(model, factors, folder, wanted)
        again = open_checkpoint(str(folder / "model.gguf"))
        kinds[wanted.dtype] = {info.dtype for info in again.tensors.values() if len(info.shape) > 1}
        for name in again.tensors:
            exact = expected_of(model.checkpoint, factors, name)
            down = name.endswith("down_proj.weight") and wanted.dtype == "source"
            kept = exact.astype(model.checkpoint.read(name).dtype).astype("f4") if down else exact
            np.testing.assert_array_equal(again.read(name), kept)
    assert kinds == {"source": {{"bfloat16": "BF16", "float16": "F16"}[stored]}, "float32": {"F32"}}


@pytest.mark.parametrize("storage", ["F32", "F16", "Q8_0", "Q4_0"])
def test_of_a_gguf_everything_but_changed_tensors_keeps_its_bytes(tmp_path, storage):
    source = tiny.checkpoint("llama2")
    extra = {"general.alignment": 64, "llama.vocab_size": tiny.VOCAB}
    if storage.startswith("Q"):  # blocks of 32 along an axis of 48 do not fit
        source = checkpoint_with(tmp_path / "m", intermediate_size=64)
    path = tiny.write_gguf(source, tmp_path / "m.gguf", storage, metadata=extra)
    model = open_model(str(path))
    config = model.checkpoint.config
    factors = factors_of((0, 5))
    report = gguf.write(model, factors, tmp_path / "out", Wanted())
    before, after = tensors_of(path), tensors_of(tmp_path / "out" / "model.gguf")
    assert before.keys() == after.keys()
    assert {n for n in before if before[n] != after[n]} == {"blk.1.ffn_down.weight"}
    exact = model.checkpoint.read(report.changed[0]) * factors.scale_LF(2, config.neurons)[1]
    assert after["blk.1.ffn_down.weight"] == ("F32", exact.astype("f4").tobytes())
    fields = [
        {n: f.contents() for n, f in gguf_package.GGUFReader(p).fields.items()}
        for p in (path, tmp_path / "out" / "model.gguf")
    ]
    assert fields[0] == fields[1] and fields[0]["general.alignment"] == 64


def test_float32_of_a_gguf_widens_nothing_and_it_is_said(tmp_path):
    model = open_model(str(tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf", "F16")))
    factors = factors_of()
    reports = [gguf.write(model, factors, tmp_path / d, Wanted(d)) for d in ("source", "float32")]
    source, wide = (tensors_of(tmp_path / d / "model.gguf") for d in ("source", "float32"))
    assert source == wide
    told = ["--dtype float32 widens nothing here" in " ".join(r.notes) for r in reports]
    assert told == [False, True]
    plain = gguf.write(
        open_model(str(tiny.checkpoint("llama2"))), factors, tmp_path / "hf", Wanted("float32")
    )
    assert "widens nothing" not in " ".join(plain.notes)  # there it does


def checkpoint_with(folder, **sizes):
    """A random LLaMA of other sizes, with the tiny tokenizer."""
    with mock.patch.dict(tiny._COMMON, sizes):
        tiny.torch_model("llama2").save_pretrained(folder)
    for file in tiny.tokenizer_directory().iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def test_a_gguf_lora_is_the_exact_change(tmp_path):
    model, factors = open_model(str(tiny.checkpoint("llama2"))), factors_of((7, 40))
    gguf_lora.write(model, factors, tmp_path / "out", Wanted())
    reader = gguf_package.GGUFReader(tmp_path / "out" / "lora.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama" and fields["adapter.lora.alpha"] == 32
    parts = {t.name: np.array(t.data).reshape(*reversed(t.shape)) for t in reader.tensors}
    assert len(parts) == 4
    for layer, rank in ((0, 7), (1, 32)):
        a, b = (parts[f"blk.{layer}.ffn_down.weight.lora_{x}"] for x in "ab")
        assert (a.shape, b.shape) == ((rank, tiny.NEURONS), (tiny.WIDTH, rank))
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        merged = model.checkpoint.read(name) + 32 / rank * b.astype("f8") @ a.astype("f8")
        expected = model.checkpoint.read(name).astype("f8") * scale_of(factors)[layer]
        np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "out" / "Modelfile").read_text() == "FROM BASE\nADAPTER ./lora.gguf\n"


# --- served --------------------------------------------------------------------------------------


def ours(model, prompt, tokens: int, scale_LF=None) -> tuple[list[int], float]:
    """Our greedy tokens by the plain model, and the log-probability of the first one."""
    ids, first = list(prompt), 0.0
    for step in range(tokens):
        row_V = padded_logits(model.lm, ids, scale_LF)[-1].astype(np.float64)
        ids.append(int(row_V.argmax()))
        if step == 0:
            first = float(row_V.max() - np.logaddexp.reduce(row_V))
    return ids[len(prompt) :], first


@pytest.mark.parametrize("family", ["llama2", "llama3", "qwen2", "qwen3", "mistral"])
def test_llama_cpp_answers_as_we_do(tmp_path, family):
    model, factors = open_model(str(tiny.checkpoint(family))), factors_of()
    gguf.write(model, factors, tmp_path / "tuned", Wanted())
    gguf.write(model, factors.at_strength(0), tmp_path / "base", Wanted())
    gguf_lora.write(model, factors, tmp_path / "lora", Wanted())
    base, tuned = (ours(model, PROMPT, 6, scale) for scale in (None, scale_of(factors)))
    assert base[0] != tuned[0]
    for file, lora, expected in (
        ("base", None, base),
        ("tuned", None, tuned),
        ("base", tmp_path / "lora" / "lora.gguf", tuned),
    ):
        server = Server(tmp_path / file / "model.gguf", lora)
        tokens, first = server.greedy(PROMPT, 6)
        assert tokens == expected[0] and first == pytest.approx(expected[1], abs=2e-5)


@pytest.mark.parametrize("family", ["llama2", "llama3.1", "qwen2.5"])
def test_llama_cpp_cuts_text_as_the_models_own_tokenizer(tmp_path, family):
    tokenizer = families.compact(family)
    folder = checkpoint_with(tmp_path / "m", vocab_size=len(tokenizer) + 5)
    tokenizer.save_pretrained(folder)
    model = open_model(str(folder))
    gguf.write(model, factors_of(), tmp_path / "out", Wanted())
    metadata = open_checkpoint(str(tmp_path / "out" / "model.gguf")).gguf.metadata
    assert metadata.get("tokenizer.ggml.pre") == {"llama3.1": "llama-bpe", "qwen2.5": "qwen2"}.get(
        family
    )
    assert metadata["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    server = Server(tmp_path / "out" / "model.gguf")
    for text in filter(str.strip, PROBES):
        expected = model.tokenizer.encode(text, add_special_tokens=False)
        assert server.tokens(text) == expected, repr(text)


@tiny.needs_smollm2
def test_the_tokenizer_of_smollm2_is_known_again():
    checkpoint = tiny.smollm2()
    found = vocabulary(load_tokenizer(checkpoint), checkpoint.config)
    for name, value in found.items():
        if name != "tokenizer.ggml.token_type":
            assert value.value == checkpoint.gguf.metadata[name], name


def described(folder) -> dict:
    """The metadata that the tokenizer of a checkpoint becomes."""
    checkpoint = open_checkpoint(str(folder))
    found = vocabulary(load_tokenizer(checkpoint), checkpoint.config)
    return {name: value.value for name, value in found.items()}


@pytest.mark.parametrize("default", [True, False])
def test_several_chat_templates_are_all_kept_the_default_one_as_the_template(tmp_path, default):
    folder = tiny.copy("llama2", tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    named = {"default": tiny.CHAT_TEMPLATE} if default else {}
    named |= {"tool_use": "{{ tools }}", "rag-2": "{{ documents }}"}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    tiny.edit_json(folder / "tokenizer_config.json", chat_template=listed)
    found = described(folder)
    assert found.get("tokenizer.chat_template") == (tiny.CHAT_TEMPLATE if default else None)
    assert found["tokenizer.chat_templates"] == ["tool_use", "rag_2"]
    assert found["tokenizer.chat_template.tool_use"] == "{{ tools }}"
    assert found["tokenizer.chat_template.rag_2"] == "{{ documents }}"
    if default:
        model = open_model(str(folder))
        gguf.write(model, factors_of(), tmp_path / "out", Wanted())
        again = load_tokenizer(open_checkpoint(str(tmp_path / "out" / "model.gguf")))
        assert encode_chat(again, "Hi") == model.encode("Hi")


def with_pad(folder):
    """The checkpoint with a [PAD] past its vocabulary, as fine-tunes of LLaMA-2 have it."""
    entry = {"id": tiny.VOCAB, "content": "[PAD]", "special": True, "normalized": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    fields = json.loads((folder / "tokenizer.json").read_text())
    tiny.edit_json(folder / "tokenizer.json", added_tokens=[*fields["added_tokens"], entry | flags])
    return folder


def test_an_added_token_past_the_vocabulary_is_left_out(tmp_path):
    plain = described(tiny.checkpoint("llama2"))
    folder = with_pad(tiny.copy("llama2", tmp_path / "m"))
    assert load_tokenizer(open_checkpoint(str(folder))).encode("[PAD]") == [tiny.VOCAB]
    assert described(folder) == plain and len(plain["tokenizer.ggml.tokens"]) == tiny.VOCAB
    model = open_model(str(folder))
    gguf.write(model, factors_of(), tmp_path / "out", Wanted())
    again = load_tokenizer(open_checkpoint(str(tmp_path / "out" / "model.gguf")))
    assert encode_chat(again, "a [PAD] b") == model.encode("a [PAD] b")


@pytest.mark.parametrize("ids", [[7, 2, 7], [0, 7, 2, 0, 9, 11, 2, 12, 13, 14, 15, 16]])
def test_ends_of_an_answer_are_written_once_that_of_the_template_first(tmp_path, ids):
    folder = tiny.copy("llama2", tmp_path / "m")
    tiny.edit_json(folder / "generation_config.json", eos_token_id=ids)
    model = open_model(str(folder))
    report = gguf.write(model, factors_of(), tmp_path / "out", Wanted())
    again, once = open_checkpoint(str(tmp_path / "out" / "model.gguf")), [*dict.fromkeys(ids)]
    once.remove(model.eos_id)
    assert model.eos_id == 2 and again.config.eos_ids == (2, *once[:2])
    assert load_tokenizer(again).eos_token_id == 2
    said = [note for note in report.notes if "left out" in note]
    assert len(said) == (len(once) > 2)
    if said:
        token = model.tokenizer.convert_ids_to_tokens(9)
        assert f"left out {token} (9), " in said[0] and "(14) and 2 more, which" in said[0]


def test_ends_keep_their_order_where_no_template_shows_one(tmp_path):
    folder = tiny.copy("llama2", tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    tiny.edit_json(folder / "generation_config.json", eos_token_id=[7, 7, 2])
    found = described(folder)
    ends = [found.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    assert ends == [7, 2, None]


# --- what cannot be written ----------------------------------------------------------------------


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(tmp_path):
    folder = tiny.copy("llama2", tmp_path / "m")
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"convert_hf_to_gguf\.py"):
        gguf.write(open_model(str(folder)), factors_of(), tmp_path / "out", Wanted())
    assert {path.name for path in tmp_path.iterdir()} == {"m"}


def test_ordinary_tokens_past_the_vocabulary_are_refused_by_name(tmp_path):
    folder = tiny.copy("llama2", tmp_path / "m")
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["model"]["vocab"] |= {"~": 400, "zqj": 401}
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError) as caught:
        gguf.write(open_model(str(folder)), factors_of(), tmp_path / "out", Wanted())
    said = str(caught.value)
    assert "320 tokens (vocab_size), but its tokenizer has '~' (400), 'zqj' (401) beyond" in said
    assert "\n" not in said and not (tmp_path / "out").exists()


def test_a_file_that_does_not_answer_like_the_model_is_not_kept(tmp_path, monkeypatch):
    written = gguf.write_gguf

    def wrong(path, architecture, metadata, tensors, alignment):
        spoilt = {
            n: t._replace(read=lambda t=t: 2 * t.read()) if "attn_q" in n else t
            for n, t in tensors.items()
        }
        written(path, architecture, metadata, spoilt, alignment)

    monkeypatch.setattr(gguf, "write_gguf", wrong)
    with pytest.raises(RunError, match=r"other weights than were written: blocks\.attn\.q"):
        gguf.write(open_model(str(tiny.checkpoint())), factors_of(), tmp_path / "out", Wanted())
    assert not list(tmp_path.iterdir())
