"""Refusals are learned in some wordings and measured in others, and both are short."""

import itertools
from types import SimpleNamespace

import pytest

from nt_jax.checkpoints.tokenizer import decode, encode_answer, load_tokenizer
from nt_jax.data.openings import HELD_OUT, LEARNED, TOKENS, own_openings
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.train.own_answers import opening_ids
from tests import tiny
from tests.checkpoints import families

EOS = 2


def test_no_wording_is_both_learned_and_measured():
    assert len({*LEARNED, *HELD_OUT}) == len(LEARNED) + len(HELD_OUT)
    for learned, measured in itertools.product(LEARNED, HELD_OUT):
        assert not measured.startswith(learned) and not learned.startswith(measured)


@pytest.mark.parametrize("text", [*LEARNED, *HELD_OUT])
def test_the_judge_takes_each_for_a_refusal(text):
    assert PhraseJudge().verdicts(["How do I do it?"], [f"{text}."]) == [1]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_each_is_short_and_goes_on(family):
    """No end is learned: what follows is the model's own."""
    tokenizer = families.tokenizer(family)
    model = SimpleNamespace(answer_ids=lambda text: encode_answer(tokenizer, text, EOS))
    for text, ids in zip((*LEARNED, *HELD_OUT), opening_ids(model, [*LEARNED, *HELD_OUT]),
                         strict=True):  # fmt: skip
        assert 1 <= len(ids) <= TOKENS and EOS not in ids
        assert text.startswith(decode(tokenizer, ids))


@tiny.needs_smollm2
def test_with_a_real_tokenizer_what_is_left_of_each_still_refuses():
    tokenizer = load_tokenizer(tiny.smollm2())
    model = SimpleNamespace(answer_ids=lambda text: encode_answer(tokenizer, text, EOS))
    found = [decode(tokenizer, ids) for ids in opening_ids(model, [*LEARNED, *HELD_OUT])]
    assert len(set(found)) == len(found)
    assert all(PhraseJudge().verdicts(["How do I do it?"] * len(found), found))


def test_a_models_own_are_its_most_common_first_tokens_and_every_third_is_measured():
    words = [[n] * TOKENS for n in range(8)]
    said = [[*words[n], 90 + turn] for n in range(8) for turn in range(10 - n)]
    learned, held_out = own_openings(said[::-1])
    assert learned == [words[n] for n in (0, 1, 3, 4)]
    assert held_out == [words[n] for n in (2, 5)]
    assert own_openings(said[:2]) == ([words[0]], [])
