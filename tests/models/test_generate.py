"""Decoding equals the plain loop of whole passes, ends at EOS, and samples what it should."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import nt_jax.models.generate as module
from nt_jax.data.batching import pad_left
from nt_jax.models.generate import generate
from tests import plain

NEVER = (plain.CONFIG.vocab_size + 1,)  # no token has this number, so nothing ends
PROMPTS = [[5, 9, 3, 30, 12], [7], [21, 4, 4]]
ODD = dataclasses.replace(plain.CONFIG, family="qwen3", kv_heads=1, qk_norm=True, qkv_bias=True)


@functools.cache
def model(config=plain.CONFIG, eos_ids=NEVER):
    return plain.random_model(dataclasses.replace(config, eos_ids=eos_ids))


def run(lm, prompts=PROMPTS, *, max_new=6, width=8, batch=None, scale_LF=None, **options):
    token_BP, mask_BP = pad_left(prompts, width, batch)
    scale_LF = lm.ones_LF if scale_LF is None else scale_LF
    new_BM = generate(lm, scale_LF, token_BP, mask_BP, max_new=max_new, **options)
    assert new_BM.shape == (len(token_BP), max_new) and new_BM.dtype == jnp.int32
    return np.asarray(new_BM)


@functools.cache
def free_run() -> list[list[int]]:
    """Six greedy tokens a prompt where nothing ends."""
    return [plain.plain_answer(model(), prompt, 6) for prompt in PROMPTS]


# --- greedy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [plain.CONFIG, ODD], ids=["llama", "biases and norms"])
def test_greedy_answers_equal_whole_passes(config):
    lm = model(config)
    expected = [plain.plain_answer(lm, prompt, 6) for prompt in PROMPTS]
    assert run(lm).tolist() == expected
    assert len({tuple(row) for row in expected}) == 3 and len(set(np.ravel(expected))) > 5


def test_the_scale_acts_on_the_prompt_and_on_every_new_token():
    lm = model()
    scale_LF = np.random.default_rng(0).uniform(0, 2, lm.ones_LF.shape).astype(np.float32)
    expected = [plain.plain_answer(lm, prompt, 6, scale_LF) for prompt in PROMPTS]
    assert run(lm, scale_LF=scale_LF).tolist() == expected != free_run()


def test_width_and_neighbours_do_not_change_an_answer():
    assert run(model(), PROMPTS[::-1], width=13, batch=5).tolist()[:3] == free_run()[::-1]


def test_one_program_serves_every_batch_of_a_shape():
    lm = model()
    run(lm)
    before = generate._cache_size()
    run(lm, [[1, 2], [3], [4]], scale_LF=lm.ones_LF * 0.5)
    assert generate._cache_size() == before


# --- the end of an answer ------------------------------------------------------------------------


def cut_by_hand(eos_ids) -> list[list[int]]:
    """The free run with every place after a row's first EOS holding that EOS."""
    rows = []
    for row in free_run():
        ends = [place for place, token in enumerate(row) if token in eos_ids]
        rows.append(row[: ends[0]] + [row[ends[0]]] * (6 - ends[0]) if ends else row)
    return rows


def test_ended_rows_hold_their_eos_while_others_go_on():
    eos_ids = (free_run()[0][2],)
    expected = cut_by_hand(eos_ids)
    assert expected[0] != free_run()[0] and any(row[-1] not in eos_ids for row in expected)
    assert run(model(eos_ids=eos_ids)).tolist() == expected


def test_each_row_holds_its_own_of_several_eos():
    # One EOS per row, so that all have ended before the last step.
    eos_ids = tuple(row[place] for row, place in zip(free_run(), (1, 2, 0), strict=True))
    expected = cut_by_hand(eos_ids)
    assert len(set(eos_ids)) == 3 and all(row[-1] in eos_ids for row in expected)
    assert len({row[-1] for row in expected}) > 1
    assert run(model(eos_ids=eos_ids)).tolist() == expected


@pytest.mark.parametrize("ended", [True, False])
def test_decoding_stops_once_every_row_has_ended(monkeypatch, ended):
    steps = []

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return decode_step(*args)

    decode_step = module.decode_step
    monkeypatch.setattr(module, "decode_step", counted)
    eos_ids = tuple({row[1] for row in free_run()}) if ended else NEVER
    lm = model(eos_ids=eos_ids)
    token_BP, mask_BP = pad_left(PROMPTS, 8, 4)  # one row without tokens must not keep it going
    fresh = jax.jit(generate.__wrapped__, static_argnames="max_new")
    fresh(lm, lm.ones_LF, token_BP, mask_BP, max_new=6).block_until_ready()
    jax.effects_barrier()
    assert len(steps) == (2 if ended else 6)


def test_rows_without_tokens_are_ended_from_the_start():
    eos_ids = (free_run()[0][2],)
    assert run(model(eos_ids=eos_ids), batch=5)[3:].tolist() == [[eos_ids[0]] * 6] * 2


def test_a_model_without_eos_goes_on_to_the_last_step():
    assert run(model(eos_ids=()), batch=4).tolist() == [*free_run(), [0] * 6]


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_are_drawn_from_the_tempered_softmax(temperature):
    lm, rows = model(), 4096
    drawn_B = run(
        lm, [PROMPTS[0]] * rows, max_new=1, temperature=temperature, key=jax.random.key(0)
    )[:, 0]
    logits_V = plain.padded_logits(lm, PROMPTS[0])[-1].astype(np.float64)
    expected_V = rows * special.softmax(logits_V / temperature)
    common = expected_V >= 5  # where the chi-square approximation holds; the rest is one class
    found_V = np.bincount(drawn_B, minlength=len(expected_V))
    observed = np.append(found_V[common], found_V[~common].sum())
    expected = np.append(expected_V[common], expected_V[~common].sum())
    assert len(observed) > 8 and stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_key_decides_the_draws():
    lm, rows = model(), [PROMPTS[0]] * 16
    one, again, other = (
        run(lm, rows, temperature=1.0, key=jax.random.key(seed)).tolist() for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len({tuple(row) for row in one}) > 8  # rows draw on their own
    assert one[0] != one[0][:1] * 6  # and so do steps


def test_sampled_rows_end_at_eos_too():
    eos_ids = tuple(range(0, plain.CONFIG.vocab_size, 3))
    for row in run(model(eos_ids=eos_ids), [PROMPTS[0]] * 64, temperature=1.0):
        ends = np.flatnonzero(np.isin(row, eos_ids))
        assert not ends.size or (row[ends[0] :] == row[ends[0]]).all()
