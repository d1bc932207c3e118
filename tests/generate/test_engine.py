"""Many prompts: each is answered as if it were alone, in order, and none is lost or too long."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.errors import DataError
from nt_jax.generate import decode as programs
from nt_jax.generate import slots
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.slots import empty_slots
from nt_jax.mesh import make_mesh
from tests import plain, tiny, torch_twin

NEW = 6
HEAD = [11, 3, 8, 25, 31, 6, 6, 14, 9, 22, 37, 5, 19, 28, 33, 4, 17, 12]  # 18: worth sharing
# Short and long ones, some that begin alike (twice over), one that is the beginning of another.
PROMPTS = [
    [5, 9, 3] * 11, [7], [21, 4, 4], [8] * 33, [30, 1], [12, 13, 14, 15],
    [*HEAD, 7], [*HEAD, *HEAD[::-1], 9], [*HEAD, *HEAD[::-1], 10, 3], HEAD, [*HEAD, 23, 24],
    [*HEAD, *HEAD[::-1], 9, 9], [9, *HEAD],
]  # fmt: skip
ODD = dataclasses.replace(plain.CONFIG, family="qwen3", kv_heads=1, qk_norm=True, qkv_bias=True)


@functools.cache
def model(config=plain.CONFIG, eos_ids=(), mesh=(1, 1)):
    return plain.random_model(dataclasses.replace(config, eos_ids=eos_ids), mesh=mesh)


@functools.cache
def endless(config=plain.CONFIG) -> list[list[int]]:
    """What each prompt is answered where nothing ends: whole passes, one prompt at a time."""
    return [plain.plain_answer(model(config), prompt, NEW, width=64) for prompt in PROMPTS]


def cut(answers, eos_ids) -> list[list[int]]:
    ends = [[place for place, token in enumerate(row) if token in eos_ids] for row in answers]
    return [row[: end[0] if end else None] for row, end in zip(answers, ends, strict=True)]


def run(lm, prompts=PROMPTS, *, max_new=NEW, batch_size=4, **options) -> list[list[int]]:
    scale_LF = options.pop("scale_LF", lm.ones_LF)
    return answer_prompts(lm, scale_LF, prompts, max_new=max_new, batch_size=batch_size, **options)


# --- greedy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "batch_size"),
    [(plain.CONFIG, 1), (plain.CONFIG, 4), (plain.CONFIG, 16), (ODD, 16)],
    ids=["alone", "four", "all", "biases and norms"],
)
def test_every_answer_is_what_its_prompt_gets_alone(config, batch_size):
    expected = endless(config)
    assert run(model(config), batch_size=batch_size) == expected
    assert len({tuple(row) for row in expected}) == len(PROMPTS) and len(set().union(*expected)) > 9


def test_no_new_tokens_are_empty_answers_all_of_which_are_heard_of():
    heard = []

    def on_batch(rows, answers):
        heard.extend(zip(rows, answers, strict=True))

    answers = run(model(), max_new=0, on_batch=on_batch)
    assert answers == [[] for _ in PROMPTS]
    assert heard == [(row, []) for row in range(len(PROMPTS))]
    assert run(model(), [], max_new=0) == []


def test_the_scale_acts_on_the_prompt_and_on_every_new_token():
    lm = model()
    scale_LF = np.random.default_rng(0).uniform(0, 2, lm.ones_LF.shape).astype(np.float32)
    expected = [plain.plain_answer(lm, prompt, NEW, scale_LF, 64) for prompt in PROMPTS]
    assert run(lm, scale_LF=jnp.asarray(scale_LF)) == expected != endless()


@pytest.mark.parametrize("batch_size", [4, 16])
def test_rows_end_at_different_steps_and_make_room_for_others(batch_size):
    eos_ids = (endless()[5][2], endless()[1][0], endless()[8][4])
    expected = cut(endless(), eos_ids)
    assert len({len(row) for row in expected}) >= 4 and [] in expected
    heard, calls = {}, []

    def on_batch(rows, answers):
        calls.append(rows)
        heard.update(zip(rows, answers, strict=True))

    assert run(model(eos_ids=eos_ids), batch_size=batch_size, on_batch=on_batch) == expected
    assert [heard[row] for row in range(len(PROMPTS))] == expected
    assert sum(map(len, calls)) == len(PROMPTS)  # nobody is reported twice


@pytest.mark.parametrize("mesh", [(1, 1), (4, 2)])
def test_weights_and_cache_in_several_stacks_give_the_same_tokens(mesh, monkeypatch):
    """As on a GPU, where each layer is one; here one of a layer and one of two."""
    for module in (programs, slots):
        monkeypatch.setattr(module, "stack_sizes", lambda lm: [1, 2])
    lm = model(mesh=mesh)
    assert [len(x) for x in empty_slots(lm, 8, 8, 4).keys] == [1, 2]
    assert run(lm, batch_size=8) == endless()


@pytest.mark.parametrize("family", ["llama3", "qwen2"])
def test_answers_equal_those_of_transformers(family):
    """Mixed lengths, shared beginnings, more prompts than slots, answers of many lengths."""
    torch_model = torch_twin.load(family)
    lm = load_weights(str(tiny.checkpoint(family)), "float32", make_mesh())
    draw, new = np.random.default_rng(3), 40
    head = draw.integers(3, tiny.VOCAB, 20).tolist()
    prompts = [draw.integers(3, tiny.VOCAB, n).tolist() for n in (1, 30, 3, 11, 5, 17, 2)]
    prompts += [head + draw.integers(3, tiny.VOCAB, n).tolist() for n in (4, 9, 1, 6, 15)]
    expected = []
    for prompt in prompts:
        token_BP = np.array([prompt])
        made = torch_twin.answers(torch_model, token_BP, np.ones_like(token_BP, bool), new)[0]
        expected.append(made[: len(made) - (made[-1] == 2)].tolist())
    assert run(lm, prompts, max_new=new, batch_size=3) == expected


@pytest.mark.parametrize("mesh", [(4, 2), (2, 1, 2)])
def test_slots_are_spread_over_the_mesh(mesh):
    assert run(model(mesh=mesh), batch_size=8) == endless()


def test_the_last_few_rows_go_on_in_fewer_slots(monkeypatch):
    """32 slots, of which only one lives on after its first token: 8 then do."""
    batches = []
    decode = programs.decode

    def counted(lm, scale_LF, now, *rest):
        batches.append(len(now.live_B))
        return decode(lm, scale_LF, now, *rest)

    monkeypatch.setattr(programs, "decode", counted)
    monkeypatch.setattr("nt_jax.generate.engine.STEPS", 2)
    monkeypatch.setattr("nt_jax.generate.engine.WORTHWHILE", 1)
    first = endless()[0][0]
    lm = model(eos_ids=(first,))
    others = [other for other in range(1, len(PROMPTS)) if first not in endless()[other]]
    prompts = [PROMPTS[0]] * 31 + [PROMPTS[others[0]]]
    assert run(lm, prompts, batch_size=32) == [[]] * 31 + [endless()[others[0]]]
    assert batches[0] == 32 and batches[-1] == 8


def test_few_programs_serve_many_prompts():
    lm, draw = model(), np.random.default_rng(0)
    prompts = [draw.integers(0, 40, n).tolist() for n in draw.integers(1, 50, 60)]
    jax.clear_caches()
    run(lm, prompts, batch_size=16)
    assert programs.prefill._cache_size() <= 4  # for 60 prompts of 49 lengths
    assert programs.decode._cache_size() <= 2
    before = programs.prefill._cache_size(), programs.decode._cache_size()
    run(lm, prompts[::-1], max_new=NEW - 2, batch_size=16, scale_LF=lm.ones_LF * 0.5)
    assert (programs.prefill._cache_size(), programs.decode._cache_size()) == before


def test_a_shared_beginning_is_run_once(monkeypatch):
    own = []
    prefill = programs.prefill

    def counted(lm, blocks, packed, *rest):
        own.append(sorted(set(packed.length_R.tolist())))
        return prefill(lm, blocks, packed, *rest)

    monkeypatch.setattr(programs, "prefill", counted)
    prompts = [[*HEAD, *HEAD[::-1], token] for token in range(16)]
    expected = [plain.plain_answer(model(), prompt, 2) for prompt in prompts]
    assert run(model(), prompts, max_new=2, batch_size=16) == expected
    assert own == [[37], [1], [1]]  # the one that leads, then one token of each of the others


def test_memory_of_keys_and_values_is_in_the_dtype_of_the_model():
    lm = plain.random_model(plain.CONFIG, jnp.bfloat16)
    assert empty_slots(lm, 2, 8, 4).keys[0].dtype == jnp.bfloat16
    answers = run(lm, [[5, 9, 3], [7]])
    logits = np.asarray(plain.padded_logits(lm, [5, 9, 3])[-1], np.float32)
    assert logits[answers[0][0]] >= logits.max() - 0.05 * np.abs(logits).max()


# --- limits --------------------------------------------------------------------------------------


def test_no_prompts_no_answers():
    assert run(model(), []) == []


def test_a_prompt_that_leaves_no_room_is_named():
    lm = model()
    room = lm.config.max_positions - NEW
    with pytest.raises(DataError, match=f"prompt 2 of 3 has {room + 1} tokens.*context of 64") as e:
        run(lm, [[1], [1] * (room + 1), [1]])
    assert "\n" not in str(e.value)
    assert run(lm, [[1] * room]) == [plain.plain_answer(lm, [1] * room, NEW, width=64)]


def test_an_empty_prompt_is_named():
    with pytest.raises(DataError, match="prompt 2 of 2 is empty"):
        run(model(), [[1], []])


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_drawn_from_the_tempered_softmax(temperature):
    """The second token of an answer, given its first, too."""
    lm, rows = model(), 4096
    prompts = [PROMPTS[0]] * rows
    drawn = run(lm, prompts, max_new=2, batch_size=512, sampling=Sampling(temperature))
    first = np.array([answer[0] for answer in drawn])
    common = int(np.bincount(first).argmax())
    second = np.array([answer[1] for answer in drawn if answer[0] == common])
    for prompt, found in ((PROMPTS[0], first), ([*PROMPTS[0], common], second)):
        logits_V = plain.padded_logits(lm, prompt)[-1].astype(np.float64)
        expected_V = len(found) * special.softmax(logits_V / temperature)
        enough = expected_V >= 5  # where the chi-square approximation holds; the rest is one class
        found_V = np.bincount(found, minlength=len(expected_V))
        observed = np.append(found_V[enough], found_V[~enough].sum())
        expected = np.append(expected_V[enough], expected_V[~enough].sum())
        assert len(observed) > 5 and stats.chisquare(observed, expected).pvalue > 1e-3


def test_a_draw_depends_on_seed_row_and_step_alone():
    lm = model()
    one, again, fewer, other = (
        run(lm, batch_size=size, sampling=Sampling(1.0, seed))
        for seed, size in ((1, 4), (1, 4), (1, 1), (2, 4))
    )
    assert one == again == fewer != other
    alike = run(lm, [PROMPTS[0]] * 16, sampling=Sampling(1.0))
    assert len({tuple(row) for row in alike}) > 8  # rows draw on their own
    assert all(len(set(row)) > 1 for row in alike)  # and so do steps


def test_sampled_rows_end_at_eos_too():
    eos_ids = tuple(range(0, plain.CONFIG.vocab_size, 3))
    answers = run(model(eos_ids=eos_ids), [PROMPTS[0]] * 64, sampling=Sampling(1.0))
    assert not set().union(*answers) & set(eos_ids)
    assert {len(row) for row in answers} > {0, 1, 2}


# --- steering ------------------------------------------------------------------------------------


@jax.jit
def steered_logits(lm, token_T, start, steer_LD):
    """logits_TV of a whole pass that moves every layer's output from position `start` on."""
    moves_T = (jnp.arange(len(token_T)) >= start).astype(jnp.float32)
    return plain.plain_logits(
        lm, token_T, move=lambda layer, x_TD: x_TD + moves_T[:, None] * steer_LD[layer]
    )


def steered_answer(lm, prompt, steer_LD, new: int) -> list[int]:
    """Greedy tokens, each from a whole new pass; padding comes after and cannot be seen."""
    ids = list(prompt)
    for _ in range(new):
        padded_T = np.array(ids + [0] * (64 - len(ids)), np.int32)
        logits_TV = steered_logits(lm, padded_T, len(prompt) - 1, steer_LD)
        ids.append(int(logits_TV[len(ids) - 1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def steer_RLD() -> np.ndarray:
    """Strong enough to change most answers; two rows are not steered at all."""
    shape = (len(PROMPTS), plain.CONFIG.layers, plain.CONFIG.width)
    steer = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    steer[[1, 8]] = 0
    return steer


@pytest.mark.parametrize("batch_size", [2, 16])
def test_steered_rows_equal_whole_passes_that_add_the_vectors(steer_RLD, batch_size):
    """Shared beginnings, one of which ends where another prompt's last, steered token stood."""
    lm = model()
    expected = [
        steered_answer(lm, prompt, steer, NEW)
        for prompt, steer in zip(PROMPTS, steer_RLD, strict=True)
    ]
    assert run(lm, batch_size=batch_size, steer_RLD=steer_RLD) == expected
    changed = [mine != plainly for mine, plainly in zip(expected, endless(), strict=True)]
    assert sum(changed) >= 8 and not changed[1] and not changed[8]


def test_steering_by_nothing_is_not_steering_and_the_mesh_does_not_matter(steer_RLD):
    lm = model()
    assert run(lm, steer_RLD=np.zeros_like(steer_RLD)) == endless()
    spread = run(model(mesh=(4, 2)), batch_size=8, steer_RLD=steer_RLD)
    assert spread == run(lm, steer_RLD=steer_RLD)


def test_steering_finds_its_layers_in_several_stacks(steer_RLD, monkeypatch):
    lm = model()
    one = run(lm, steer_RLD=steer_RLD)
    for module in (programs, slots):
        monkeypatch.setattr(module, "stack_sizes", lambda lm: [1, 2])
    assert one != endless() and run(lm, steer_RLD=steer_RLD) == one


def test_steered_rows_go_on_in_fewer_slots(steer_RLD, monkeypatch):
    monkeypatch.setattr("nt_jax.generate.engine.STEPS", 2)
    monkeypatch.setattr("nt_jax.generate.engine.WORTHWHILE", 1)
    lm, order = model(), [0] * 31 + [2]
    [first, other] = run(lm, [PROMPTS[0], PROMPTS[2]], steer_RLD=steer_RLD[[0, 2]])
    ends = model(eos_ids=(first[0],))
    assert first[0] not in other
    prompts = [PROMPTS[row] for row in order]
    found = run(ends, prompts, batch_size=32, steer_RLD=steer_RLD[order])
    assert found == [[]] * 31 + [other]


def test_steering_without_a_vector_for_each_layer_is_refused(steer_RLD):
    with pytest.raises(AssertionError, match="shape"):
        run(model(), steer_RLD=steer_RLD[:, :-1])


def test_without_steering_the_programs_know_nothing_of_it():
    lm = model()
    blocks = programs.stacks_of(lm, lm.ones_LF)

    def program(slots) -> str:
        limits = [jnp.int32(n) for n in (1, 0, 4)]
        return programs.decode.lower(lm, blocks, slots, *limits, 8, GREEDY).as_text()

    slots, steered = (empty_slots(lm, 2, 8, 4, steered=steered) for steered in (False, True))
    assert len(jax.tree.leaves(steered)) == len(jax.tree.leaves(slots)) + 1
    vectors = f"tensor<{lm.config.layers}x2x{lm.config.width}xf32>"
    assert vectors not in program(slots) and vectors in program(steered)
