"""No program of a long prompt makes anything for every pair of its tokens: memory is linear."""

import dataclasses
import math
import re

import pytest

from benchmarks import h100_answers as answers
from benchmarks import h100_gradients as gradients
from benchmarks.models import SHAPES
from nt_jax.mesh import make_mesh
from nt_jax.models import attention

TOKENS = 512
PROGRAMS = {
    "prefix": lambda mesh: gradients.prefix("narrow", mesh, TOKENS, 5),
    "attribution": lambda mesh: gradients.attribution("narrow", mesh, 5, 2, TOKENS),
    "slopes": lambda mesh: gradients.slopes("narrow", mesh, 1, True, TOKENS),
    "stored slopes": lambda mesh: gradients.slopes("narrow", mesh, 1, False, TOKENS),
    "meta-step": lambda mesh: gradients.meta("narrow", mesh, length=TOKENS),
    "prefill": lambda mesh: next(answers.filling("narrow", mesh, TOKENS, TOKENS, 1)),
    "score": lambda mesh: answers.scoring("narrow", mesh, (1, TOKENS, 16)),
}


def largest(program: str) -> int:
    """Elements of the largest array in the program, as it is given to the compiler."""
    text = PROGRAMS[program](make_mesh()).lowered().as_text()
    shapes = re.findall(r"tensor<((?:\d+x)+)", text)
    return max(math.prod(map(int, shape.split("x")[:-1])) for shape in shapes)


@pytest.fixture
def narrow(monkeypatch):
    """A model whose weights and activations are smaller than one number a pair of tokens."""
    sizes = {"layers": 2, "neurons": 96, "vocab_size": 256}
    monkeypatch.setitem(SHAPES, "narrow", dataclasses.replace(SHAPES["tiny"], **sizes))


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_has_an_element_for_each_pair_of_tokens(program, narrow, monkeypatch):
    monkeypatch.setattr(attention, "WHOLE", 64)
    monkeypatch.setattr(attention, "PART", 16)
    assert largest(program) < TOKENS**2


def test_a_short_prompt_is_attended_as_a_whole(narrow, monkeypatch):
    shorter = lambda mesh: answers.scoring("narrow", mesh, (1, TOKENS - 16, 16))  # noqa: E731
    monkeypatch.setitem(PROGRAMS, "shorter", shorter)  # a size that was not traced in parts
    assert largest("shorter") >= TOKENS**2
