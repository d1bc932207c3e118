"""Scores and methods that are refused: what each message advises is done, and they work."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest

from nt_jax.attribution.own_score import load_score, own_scores
from nt_jax.attribution.select import aggregate
from nt_jax.attribution.signal import halves, low_overlap, split_half
from nt_jax.baselines.dpo import Preferences
from nt_jax.baselines.examples import Examples, best_threshold
from nt_jax.baselines.lora import Lora
from nt_jax.baselines.scans import ScansOptions, fit_scans
from nt_jax.baselines.states import gather_states
from tests import plain
from tests.advice import followed
from tests.attribution.test_own_score import EXAMPLES, LM, SHAPE
from tests.baselines import made_up

GOOD = {"harmful": [[3], [4]], "refusals": [[5], [6]], "harmless": [[7]], "answers": [[8]]}


# --- a score of the user's own -------------------------------------------------------------------


def a_score_that_cannot_be_imported(folder: Path):
    said = "cannot be imported .* Correct it; modules are looked for in the working directory and"
    yield lambda: load_score("advised_score:f"), said
    (folder / "advised_score.py").write_text("def f(lm, examples): ...\n")
    importlib.invalidate_caches()


def a_score_that_is_not_in_its_module(folder: Path):
    (folder / "named_so_score.py").write_text("def f(lm, examples): ...\n")
    importlib.invalidate_caches()
    yield lambda: load_score("named_so_score:g"), "has no function 'g'. It has f"
    yield lambda: load_score("named_so_score:f")


def a_score_of_another_type(folder: Path):
    del folder
    scores: dict[str, np.ndarray] = {"now": np.zeros(SHAPE[::-1])}
    said = rf"Return float32 \[{SHAPE[0]}, {SHAPE[1]}\]: a number for every neuron"
    yield lambda: own_scores(lambda *_: scores["now"], LM, EXAMPLES), said
    scores["now"] = np.zeros(SHAPE, np.float32)


def a_score_that_is_not_finite(folder: Path):
    del folder
    score_LF = np.full(SHAPE, np.inf, np.float32)
    yield lambda: own_scores(lambda *_: score_LF, LM, EXAMPLES), "Return finite numbers"
    score_LF[:] = 1


# --- other methods -------------------------------------------------------------------------------


def prompts_without_answers(folder: Path):
    del folder
    wrong = GOOD | {"refusals": [[5]]}
    yield lambda: Examples(**wrong), "2 prompts, but .* 1 answers. Give one for each prompt"
    wrong["refusals"] = [[5], [6]]


def rows_without_tokens(folder: Path):
    del folder
    wrong = GOOD | {"harmless": [[7], []], "answers": [[8], [9]]}
    yield lambda: Examples(**wrong), "Leave such rows out and give at least one"
    wrong |= {"harmless": [[7]], "answers": [[8]]}


def a_threshold_of_one_kind_of_prompt(folder: Path):
    del folder
    harmful_R, harmless_R = np.array([1.0, 2.0]), np.array([0.0, 0.5])
    yield lambda: best_threshold(harmful_R, harmless_R[:0]), "there are 2 and 0. Give both"
    yield lambda: best_threshold(harmful_R, harmless_R)


def a_rank_of_nothing(folder: Path):
    del folder
    said = "Choose a rank of 1 or more, and among "
    yield lambda: dataclasses.replace(Lora(), rank=0), said
    yield lambda: dataclasses.replace(Lora(), rank=1)


def a_preference_without_weight(folder: Path):
    del folder
    yield lambda: Preferences(beta=0), "cannot learn with beta 0. Choose one above 0"
    yield lambda: Preferences(beta=0.1)


def layers_to_steer_that_are_not_there(folder: Path):
    del folder
    lm, examples = plain.random_model(), made_up.examples(vocab=40)

    def fit(steer: tuple[int, int]) -> object:
        return fit_scans(lm, lm.ones_LF, examples, [7], ScansOptions(steer=steer))

    yield lambda: fit((1, 4)), "layers 1 to 3 of a model with 3, .* Correct them"
    yield lambda: fit((1, 3))


def a_prompt_without_states(folder: Path):
    del folder
    lm, prompts = plain.random_model(), [[3, 4], []]
    said = "prompt 2 of 2 has 0 tokens; .* Leave it out or shorten it"
    yield lambda: gather_states(lm, lm.ones_LF, prompts), said
    del prompts[1]


@pytest.mark.parametrize(
    "case",
    [
        a_score_that_cannot_be_imported, a_score_that_is_not_in_its_module,
        a_score_of_another_type, a_score_that_is_not_finite, prompts_without_answers,
        rows_without_tokens, a_threshold_of_one_kind_of_prompt, a_rank_of_nothing,
        a_preference_without_weight, layers_to_steer_that_are_not_there,
        a_prompt_without_states,
    ],
    ids=lambda case: case.__name__,
)  # fmt: skip
def test_what_the_message_advises_works(case, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    followed(case(tmp_path))


def test_more_examples_end_the_warning_about_two_halves():
    """As it advises: what their scores have in common grows, what is by chance does not."""
    rng = np.random.default_rng(0)
    common_LF = np.zeros((2, 50))
    common_LF[0, :10] = 1
    score_ELF = common_LF + 3 * rng.standard_normal((400, 2, 50))

    def said(count: int) -> str | None:
        parts = halves([*score_ELF[:count]])
        assert parts is not None
        return low_overlap(split_half(*(aggregate(np.stack(part)) for part in parts)), "the x")

    few = said(4)
    assert few is not None and few.endswith("other examples would choose other neurons. Give more.")
    assert said(400) is None
