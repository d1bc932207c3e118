import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nt_jax.checkpoints.checkpoint import load_model
from nt_jax.generate.likelihood import answer_nll
from nt_jax.mesh import make_mesh
from tests import tiny


def test_answer_nll_equals_torch_cross_entropy():
    folder = tiny.checkpoint("llama2")
    lm = load_model(str(folder), "float32", make_mesh())
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
