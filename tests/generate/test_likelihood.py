"""Likelihoods, letters and KL against torch, one unpadded row at a time, on tiny random models."""

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.generate.likelihood import answer_kl, answer_nll, score_letters
from nt_jax.mesh import make_mesh
from tests import tiny, torch_twin

torch = pytest.importorskip("torch")
PROMPTS = [[1, 5, 9], [1, 7], [4, 8, 15, 16, 23], [1, 2, 3]]
ANSWERS = [[11, 12], [13, 14, 15, 16], [17], [18, 19, 20]]


def test_answer_nll_equals_torch_cross_entropy():
    folder = tiny.checkpoint("llama2")
    lm = load_weights(str(folder), "float32", make_mesh())
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, tiny.VOCAB, n).tolist() for n in (5, 9, 3)]
    answers = [rng.integers(3, tiny.VOCAB, n).tolist() for n in (4, 2, 7)]
    scores = answer_nll(lm, jnp.ones_like(lm.ones_LF), prompts, answers, batch_size=2)
    model = tiny.torch_model("llama2")
    for prompt, answer, (nats, tokens) in zip(prompts, answers, scores, strict=True):
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            log_probs = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1], dim=-1)
        expected = -log_probs[range(len(answer)), answer].sum().item()
        assert nats == pytest.approx(expected, rel=1e-5)
        assert tokens == len(answer)


@pytest.mark.parametrize("family", ["llama2", "qwen2"])
def test_log_probabilities_of_letters_equal_torch(family):
    lm = load_weights(str(tiny.checkpoint(family)), "float32", make_mesh(data=2))
    scale_LF = lm.ones_LF.at[0, :20].set(2.0)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, tiny.VOCAB, n).tolist() for n in (120, 90, 121, 30, 96)]
    letters = [34, 35, 36, 37]
    found = np.zeros((len(prompts), len(letters)))

    def keep(rows, log_prob_RC):
        found[rows] = log_prob_RC

    score_letters(lm, scale_LF, prompts, letters, batch_size=2, on_batch=keep)
    with torch_twin.scaled(torch_twin.load(family), torch.from_numpy(np.array(scale_LF))):
        for row, prompt in enumerate(prompts):
            with torch.no_grad():
                logits_V = torch_twin.load(family)(torch.tensor([prompt])).logits[0, -1]
            expected = logits_V.log_softmax(-1)[letters].numpy()
            np.testing.assert_allclose(found[row], expected, atol=1e-4)


@pytest.mark.parametrize("data", [1, 2])
def test_kl_between_two_models_equals_torch(data):
    mesh = make_mesh(data=data)
    base = load_weights(str(tiny.checkpoint("llama2")), "float32", mesh)
    other = load_weights(str(tiny.checkpoint("llama2", seed=1)), "float32", mesh)
    scale_LF = other.ones_LF.at[1, 3].set(5.0)
    said = []
    found = answer_kl((base, base.ones_LF), (other, scale_LF), PROMPTS, ANSWERS, said.append)
    assert sum(said) == len(PROMPTS)
    assert found[:, 1].tolist() == [len(answer) for answer in ANSWERS]
    twins = [tiny.torch_model("llama2", seed=seed) for seed in (0, 1)]
    with torch_twin.scaled(twins[1], torch.from_numpy(np.array(scale_LF))), torch.no_grad():
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            p, q = (
                twin(torch.tensor([prompt + answer]))
                .logits[0, len(prompt) - 1 : -1]
                .log_softmax(-1)
                for twin in twins
            )
            kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")
            np.testing.assert_allclose(found[row, 0], float(kl), rtol=1e-4)


def test_a_model_does_not_diverge_from_itself():
    lm = load_weights(str(tiny.checkpoint("llama2")), "float32", make_mesh())
    model = (lm, lm.ones_LF)
    assert np.abs(answer_kl(model, model, PROMPTS, ANSWERS)[:, 0]).max() < 1e-5


def test_no_answers_give_no_rows():
    lm = load_weights(str(tiny.checkpoint("llama2")), "float32", make_mesh())
    model = (lm, lm.ones_LF)
    assert answer_kl(model, model, [], []).shape == (0, 2)
    assert answer_nll(*model, [], [], batch_size=2).shape == (0, 2)
