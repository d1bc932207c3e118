"""Adapters: PEFT loads them, its merge is our export, and what PEFT writes is read back."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints.adapter import merged_adapter, open_adapter
from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.export import ia3, lora
from nt_jax.export.folder import Wanted
from nt_jax.export.hf import export_hf
from nt_jax.generate.chat import open_model
from nt_jax.mesh import make_mesh
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.models.transformer import logits
from nt_jax.run.export import export_run
from tests import tiny
from tests.export import peft_twin

TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, (2, 12)).astype(np.int32)
FAMILIES = ("llama2", "smollm2", "qwen2")
DTYPES = ("float32", "bfloat16", "float16")


def factors_of(counts=(7, 40), seed: int = 0) -> Factors:
    """So many neurons of each layer, scaled; the width is 32 and there are 48 neurons."""
    rng = np.random.default_rng(seed)
    layer_P = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    index_P = np.concatenate([rng.permutation(tiny.NEURONS)[:n] for n in counts])
    neurons = NeuronSet(layer_P, index_P.astype(np.int32), layer_P == 0)
    return Factors(neurons, rng.uniform(0, 4, len(layer_P)).astype(np.float32))


def scale_of(factors: Factors) -> np.ndarray:
    return factors.scale_LF(tiny.LAYERS, tiny.NEURONS)


def scaled_logits(source, factors: Factors) -> np.ndarray:
    """Ours, in float32, from the source with its factors at work."""
    lm = load_weights(str(source), "float32", make_mesh())
    return np.asarray(logits(lm, TOKENS, TOKENS >= 0, scale_of(factors)))


def apart(ours, theirs) -> float:
    """Largest difference over the largest logit."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# --- written for PEFT ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_merges_ia3_into_our_export_bit_for_bit(tmp_path, family, dtype):
    source, factors = tiny.checkpoint(family, dtype=dtype), factors_of()
    report = ia3.write(open_model(str(source)), factors, tmp_path / "ia3", Wanted())
    export_hf(open_checkpoint(str(source)), scale_of(factors), tmp_path / "hf")
    theirs, ours = (
        peft_twin.bits(model)
        for model in (
            peft_twin.merged(source, tmp_path / "ia3"),
            peft_twin.torch_model(tmp_path / "hf"),
        )
    )
    plain = peft_twin.bits(peft_twin.torch_model(source))
    assert theirs.keys() == ours.keys()
    for name, expected in ours.items():
        np.testing.assert_array_equal(theirs[name], expected, err_msg=name)
    moved = {name for name in plain if (plain[name] != ours[name]).any()}
    assert moved == set(report.changed) and len(moved) == 2


def test_the_files_are_those_that_peft_writes(tmp_path):
    source, factors = tiny.checkpoint("llama2"), factors_of()
    for kind, module in (("ia3", ia3), ("lora", lora)):
        module.write(open_model(str(source)), factors, tmp_path / kind, Wanted())
        again = tmp_path / f"{kind}-again"
        peft_twin.adapted(source, tmp_path / kind).save_pretrained(
            again, save_embedding_layers=False
        )
        folders = (tmp_path / kind, again)
        ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        ours, theirs = (json.loads((f / "adapter_config.json").read_text()) for f in folders)
        assert ours.items() <= theirs.items()
        assert ours["base_model_name_or_path"] == source.name  # no local path
        assert (tmp_path / kind / "adapter_model.safetensors").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("counts", [(7, 40), (48, 3), (0, 5), (32, 33)])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_is_exact_at_the_rank_of_its_layers(tmp_path, family, counts):
    source, factors = tiny.checkpoint(family), factors_of(counts)
    report = lora.write(open_model(str(source)), factors, tmp_path / "lora", Wanted())
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    ranks = {n.split(".")[4]: len(x) for n, x in tensors.items() if n.endswith("lora_A.weight")}
    assert ranks == {str(at): min(n, tiny.WIDTH) for at, n in enumerate(counts) if n}
    assert "vllm serve BASE" in report.notes[0]
    assert report.notes[1:] == lora.sglang_note([*ranks.values()])
    whole = peft_twin.merged(source, tmp_path / "lora").state_dict()
    old = peft_twin.torch_model(source).state_dict()
    for name, weight in whole.items():
        expected = old[name].double().numpy()
        if name.endswith("down_proj.weight"):
            expected = expected * scale_of(factors)[int(name.split(".")[2])].astype(np.float64)
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6, atol=1e-6, err_msg=name)
    expected = scaled_logits(source, factors)
    for model in (peft_twin.adapted(source, tmp_path / "lora"), _plain(whole, source)):
        assert apart(peft_twin.logits(model, TOKENS), expected) < 1e-5


def _plain(state, source):
    model = peft_twin.torch_model(source)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lora_of_16_bits_is_within_their_rounding(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    source, factors = tiny.checkpoint("qwen2", dtype=dtype), factors_of()
    expected = scaled_logits(source, factors)
    for wanted, most in ((Wanted(), 2e-2), (Wanted("float32"), 1e-5)):
        folder = tmp_path / wanted.dtype
        lora.write(open_model(str(source)), factors, folder, wanted)
        stored = {str(x.dtype) for x in load_file(folder / "adapter_model.safetensors").values()}
        assert stored == {dtype if wanted.dtype == "source" else "float32"}
        model = peft_twin.merged(source, folder, torch.float32)
        assert apart(peft_twin.logits(model, TOKENS), expected) < most


def test_a_lower_rank_is_the_best_one_and_says_what_it_lost(tmp_path):
    source, factors = tiny.checkpoint("llama2"), factors_of((7, 40))
    model = open_model(str(source))
    report = lora.write(model, factors, tmp_path / "lora", Wanted(rank=8))
    name = "model.layers.1.mlp.down_proj.weight"
    change = (model.checkpoint.read(name) * (scale_of(factors)[1] - 1)).astype(np.float64)
    u, values, v = np.linalg.svd(change)
    merged = peft_twin.merged(source, tmp_path / "lora").state_dict()[name].double().numpy()
    best = model.checkpoint.read(name) + (u[:, :8] * values[:8]) @ v[:8]
    np.testing.assert_allclose(merged, best, atol=2e-6)
    lost = (values[8:] ** 2).sum() / (values**2).sum()
    assert report.lost.startswith(f"rank 8 leaves out {lost**0.5:.1%} of the change")
    assert "in the worst of 1 layers" in report.lost  # 7 neurons of the other are exact
    assert report.notes[0] == (
        "vllm serve BASE --enable-lora --max-lora-rank 8 --lora-modules tuned=DIR"
    )
    assert "--rank 7" in report.notes[1]
    assert len(lora.write(model, factors, tmp_path / "even", Wanted(rank=7)).notes) == 1


def test_a_rank_that_no_format_has_is_told_before_any_work(tmp_path):
    for formats in (("hf",), ("ia3", "gguf")):
        with pytest.raises(ConfigError, match="--rank is of the formats lora and gguf-lora"):
            export_run(tmp_path / "no run", tmp_path / "out", formats, Wanted(rank=8))
    with pytest.raises(RunError):  # as far as the run, which is not there
        export_run(tmp_path / "no run", tmp_path / "out", ("ia3", "lora"), Wanted(rank=8))


def test_vllm_is_told_the_next_rank_that_it_takes():
    said = [
        lora.vllm_note(rank).split("--max-lora-rank ")[1].split()[0] for rank in (1, 2, 200, 512)
    ]
    assert said == ["1", "8", "256", "512"]
    assert lora.vllm_note(513) == ("rank 513: not for vLLM, which stops at 512: use hf or --rank N")


def test_sglang_is_told_of_ranks_that_differ():
    """Its memory pool asserts that A of every layer has the rank of the config (0.5.23)."""
    assert lora.sglang_note([7]) == lora.sglang_note([7, 7]) == ()
    (said,) = lora.sglang_note([32, 7, 9])
    assert said.startswith("ranks 7 to 32: not for SGLang") and said.endswith("--rank 7")


@pytest.mark.parametrize("module", [ia3, lora])
def test_factors_of_one_are_no_adapter(tmp_path, module):
    model, factors = open_model(str(tiny.checkpoint())), factors_of().at_strength(0)
    with pytest.raises(ConfigError, match="would change nothing"):
        module.write(model, factors, tmp_path / "out", Wanted())
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_a_gguf_says_what_its_base_is(tmp_path):
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf")
    model, factors = open_model(str(path)), factors_of()
    ia3.write(model, factors, tmp_path / "ia3", Wanted())
    fields = json.loads((tmp_path / "ia3" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"].startswith("m.gguf: PEFT cannot open a GGUF file; ")
    export_hf(model.checkpoint, np.ones_like(scale_of(factors)), tmp_path / "base")
    export_hf(model.checkpoint, scale_of(factors), tmp_path / "hf")
    theirs = peft_twin.bits(peft_twin.merged(tmp_path / "base", tmp_path / "ia3"))
    ours = peft_twin.bits(peft_twin.torch_model(tmp_path / "hf"))
    assert all(np.array_equal(theirs[name], ours[name]) for name in ours)


# --- read back, and adapters that others made ----------------------------------------------------


def made_by_peft(source, folder, kind: str, **fields):
    """An adapter of PEFT's own with random parameters; (its config, logits of its model)."""
    peft, torch = peft_twin.peft(), pytest.importorskip("torch")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **fields)
    with peft_twin.as_it_is():
        model = peft.get_peft_model(peft_twin.torch_model(source, torch.float32), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "ia3_" in name:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(0.3 * noise + ("ia3_" in name))
    model.eval().save_pretrained(folder)
    return peft_twin.logits(model, TOKENS)


EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OTHERS = {
    "lora": ("LoraConfig", {"target_modules": EVERY, "r": 4, "lora_alpha": 6}),
    "rslora": ("LoraConfig", {"target_modules": ["v_proj"], "r": 4, "use_rslora": True}),
    "patterns": (
        "LoraConfig",
        {"target_modules": ["q_proj", "down_proj"], "r": 4, "rank_pattern": {"down_proj": 9},
         "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
    ),
    "ia3": (
        "IA3Config",
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3"])
def test_an_adapter_of_peft_gives_its_logits_in_ours(tmp_path, family, name):
    source = tiny.checkpoint(family)
    kind, fields = OTHERS[name]
    expected = made_by_peft(source, tmp_path, kind, **fields)
    lm = load_weights(str(source), "float32", make_mesh())
    new = merged_adapter(lm, open_adapter(tmp_path, lm.config))
    ours = np.asarray(logits(new, TOKENS, TOKENS >= 0))
    assert apart(ours, expected) < 1e-5
    assert apart(np.asarray(logits(lm, TOKENS, TOKENS >= 0)), expected) > 1e-2


@pytest.mark.parametrize("how", ["gaussian", "orthogonal"])
def test_how_lora_began_is_nothing_to_its_end(tmp_path, how):
    source, fields = tiny.checkpoint("llama2"), {"target_modules": ["v_proj"], "r": 4}
    expected = made_by_peft(source, tmp_path, "LoraConfig", init_lora_weights=how, **fields)
    lm = load_weights(str(source), "float32", make_mesh())
    new = merged_adapter(lm, open_adapter(tmp_path, lm.config))
    assert apart(np.asarray(logits(new, TOKENS, TOKENS >= 0)), expected) < 1e-5


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_lora_on_a_base_that_peft_changes_is_refused(tmp_path, how):
    source, fields = tiny.checkpoint("llama2"), {"target_modules": ["v_proj"], "r": 4}
    made_by_peft(source, tmp_path, "LoraConfig", init_lora_weights=how, **fields)
    lm = load_weights(str(source), "float32", make_mesh())
    with pytest.raises(CheckpointError, match=f"init_lora_weights = '{how}' is not computed"):
        open_adapter(tmp_path, lm.config)


def test_ia3_is_read_back_as_the_factors_it_was_made_of(tmp_path):
    model, factors = open_model(str(tiny.checkpoint())), factors_of()
    ia3.write(model, factors, tmp_path / "ia3", Wanted())
    size = model.checkpoint.config
    again = open_adapter(tmp_path / "ia3", size).down_LF(size)
    np.testing.assert_array_equal(again, scale_of(factors))
    lora.write(model, factors, tmp_path / "lora", Wanted())
    with pytest.raises(CheckpointError, match="a LoRA adapter: only an"):
        open_adapter(tmp_path / "lora", size).down_LF(size)
    made_by_peft(tiny.checkpoint(), tmp_path / "full", *OTHERS["ia3"][:1], **OTHERS["ia3"][1])
    with pytest.raises(CheckpointError, match=r"vectors on self_attn\.k_proj, self_attn\.v_proj"):
        open_adapter(tmp_path / "full", size).down_LF(size)


def broken(folder, name, change) -> None:
    """Change one file of an adapter."""
    if name == "adapter_config.json":
        tiny.edit_json(folder / name, **change)
    else:
        tensors = load_file(folder / name)
        save_file(change(tensors), folder / name)


DOWN = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
NINTH = DOWN.replace(".0.", ".9.")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("adapter_config.json", {"peft_type": "VERA"}, "peft_type 'VERA' is not read"),
        ("adapter_config.json", {"peft_type": ...}, "peft_type None is not read"),
        ("adapter_config.json", {"use_dora": True}, "use_dora = True is not computed"),
        ("adapter_config.json", {"bias": "all"}, "bias = 'all' is not computed"),
        *(
            ("adapter_config.json", {"init_lora_weights": how}, "init_lora_weights = ")
            for how in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "eva")
        ),
        ("adapter_config.json", {"r": "x"}, "r = 'x' is not a positive number"),
        ("adapter_config.json", {"rank_pattern": [3]}, "rank_pattern is not an object"),
        ("adapter_config.json", {"r": 5, "rank_pattern": {}}, "rank 5 and its weight"),
        ("adapter_config.json", {"lora_alpha": 10**400}, "is not a positive number"),
        *(
            ("adapter_config.json", {"alpha_pattern": {key: 2}}, "no expression that is read")
            for key in ("[", "(.*)*x", ".?" * 60, "x{9999999999}", "(?i)a", "(" * 5000)
        ),
        ("adapter_model.safetensors", lambda t: t | {"a": t[DOWN]}, "tensor 'a' "),
        ("adapter_model.safetensors", lambda t: t | {DOWN: t[DOWN] * np.nan}, "NaN or infinity"),
        ("adapter_model.safetensors", lambda t: t | {DOWN: t[DOWN][:, 1:]}, r"shapes \[7, 47\]"),
        (
            "adapter_model.safetensors",
            lambda t: t | {DOWN.replace(".0.", ".9."): t[DOWN]},
            "layers.9",
        ),
        ("adapter_model.safetensors", lambda t: {}, "holds no tensor"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_said(tmp_path, name, change, message):
    model = open_model(str(tiny.checkpoint()))
    lora.write(model, factors_of(), tmp_path / "lora", Wanted())
    broken(tmp_path / "lora", name, change)
    with pytest.raises(CheckpointError, match=message):
        open_adapter(tmp_path / "lora", model.checkpoint.config)


def test_a_folder_that_holds_no_adapter_is_refused(tmp_path):
    config = open_model(str(tiny.checkpoint())).checkpoint.config
    with pytest.raises(CheckpointError, match=r"no PEFT adapter: adapter_config\.json and"):
        open_adapter(tmp_path, config)
    lora.write(open_model(str(tiny.checkpoint())), factors_of(), tmp_path / "lora", Wanted())
    (tmp_path / "lora" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        open_adapter(tmp_path / "lora", config)
    (tmp_path / "lora" / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        open_adapter(tmp_path / "lora", config)


def test_a_scaling_that_overflows_is_said(tmp_path):
    model = open_model(str(tiny.checkpoint()))
    lora.write(model, factors_of(), tmp_path / "lora", Wanted())
    broken(tmp_path / "lora", "adapter_config.json", {"lora_alpha": 3e38, "alpha_pattern": {}})
    broken(tmp_path / "lora", "adapter_model.safetensors", lambda t: t | {DOWN: t[DOWN] * 1000})
    with pytest.raises(CheckpointError, match=r"too large for the weights of 'model\.layers\.0"):
        open_adapter(tmp_path / "lora", model.checkpoint.config)
