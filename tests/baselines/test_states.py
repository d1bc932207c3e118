"""States read from padded batches are torch's, in the order of the prompts."""

import numpy as np
import pytest

from nt_jax.baselines.states import gather_states, states_of
from nt_jax.errors import DataError
from nt_jax.generate.intervention import Suffixed
from tests.baselines import made_up


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3"])
def test_states_are_those_of_torch_whatever_shares_the_batch(family):
    pytest.importorskip("torch")
    lm, prompts = made_up.model(family), made_up.rows(1, 5, longest=40, shortest=3)
    found_RPLD = gather_states(lm, lm.ones_LF, prompts, back=(2, 0), batch_size=3)
    assert found_RPLD.shape == (5, 2, lm.config.layers, lm.config.width)
    for ids, found_PLD in zip(prompts, found_RPLD, strict=True):
        expected_LTD = made_up.states(family, ids)
        for found_LD, back in zip(found_PLD, (2, 0), strict=True):
            np.testing.assert_allclose(found_LD, expected_LTD[:, -1 - back], rtol=1e-4, atol=1e-5)


def test_states_feel_the_scale():
    lm, prompts = made_up.model(), made_up.rows(2, 2)
    plain, scaled = (gather_states(lm, s, prompts) for s in (lm.ones_LF, lm.ones_LF * 0))
    assert np.abs(plain - scaled).max() > 0.1


@pytest.mark.parametrize("prompt", [[], [5], list(range(3, 140))])
def test_prompts_too_short_or_too_long_are_named(prompt):
    lm = made_up.model()
    with pytest.raises(DataError, match=r"prompt 2 of 2 has \d+ tokens; .* between 2 and 128"):
        next(states_of(lm, lm.ones_LF, [[4, 5], prompt], back=(1, 0)))


def test_a_suffix_goes_behind_every_message():
    lm = made_up.model()
    asked = Suffixed("Be kind.", lambda text: [len(text)])
    made = asked.prepare(lm, lm.ones_LF, [[1], [2]], ["ab", "abcd"])
    assert made.prompts == [[len("ab Be kind.")], [len("abcd Be kind.")]]
    assert made.steer_RLD is None and made.flagged_R is None
