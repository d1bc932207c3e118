"""KL along whole answers against torch's kl_div, one unpadded row at a time."""

import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import load_model
from nt_jax.eval.divergence import answer_kl
from nt_jax.mesh import make_mesh
from tests import tiny, torch_twin

PROMPTS = [[1, 5, 9], [1, 7], [4, 8, 15, 16, 23], [1, 2, 3]]
ANSWERS = [[11, 12], [13, 14, 15, 16], [17], [18, 19, 20]]


@pytest.mark.parametrize("data", [1, 2])
def test_kl_between_two_models_equals_torch(data):
    torch = pytest.importorskip("torch")
    mesh = make_mesh(data=data)
    base = load_model(str(tiny.checkpoint("llama2")), "float32", mesh)
    other = load_model(str(tiny.checkpoint("llama2", seed=1)), "float32", mesh)
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
    lm = load_model(str(tiny.checkpoint("llama2")), "float32", make_mesh())
    model = (lm, lm.ones_LF)
    assert np.abs(answer_kl(model, model, PROMPTS, ANSWERS)[:, 0]).max() < 1e-5
