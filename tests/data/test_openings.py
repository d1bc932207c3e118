"""The refusal is learned in one wording and measured in others, and all are short."""

from types import SimpleNamespace

import pytest

from nt_jax.checkpoints.tokenizer import decode, encode_answer, load_tokenizer
from nt_jax.config.method import TuneConfig
from nt_jax.data.openings import HELD_OUT, TOKENS
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.train.own_answers import opening_ids
from tests import tiny
from tests.checkpoints import families

EOS = 2
LEARNED = TuneConfig().opening
EVERY = (LEARNED, *HELD_OUT)


def test_no_wording_is_both_learned_and_measured():
    for measured in HELD_OUT:
        assert not measured.startswith(LEARNED) and not LEARNED.startswith(measured)


@pytest.mark.parametrize("text", EVERY)
def test_the_judge_takes_each_for_a_refusal(text):
    assert PhraseJudge().verdicts(["How do I do it?"], [f"{text}."]) == [1]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_each_is_short_and_goes_on(family):
    """No end is learned: what follows is the model's own."""
    tokenizer = families.tokenizer(family)
    model = SimpleNamespace(answer_ids=lambda text: encode_answer(tokenizer, text, EOS))
    for text, ids in zip(EVERY, opening_ids(model, EVERY),
                         strict=True):  # fmt: skip
        assert 1 <= len(ids) <= TOKENS and EOS not in ids
        assert text.startswith(decode(tokenizer, ids))


@tiny.needs_smollm2
def test_with_a_real_tokenizer_what_is_left_of_each_still_refuses():
    tokenizer = load_tokenizer(tiny.smollm2())
    model = SimpleNamespace(answer_ids=lambda text: encode_answer(tokenizer, text, EOS))
    found = [decode(tokenizer, ids) for ids in opening_ids(model, EVERY)]
    assert len(set(found)) == len(found)
    assert all(PhraseJudge().verdicts(["How do I do it?"] * len(found), found))
