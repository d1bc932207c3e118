"""What DINM is fitted on: whole answers of the base model, asked for once."""

import types

import pytest

from nt_jax.compare.fitting_data import WHOLE, Material
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.train.pools import Pair, make_pools

EOS, CONTEXT = 2, WHOLE + 30
PAIRS = [Pair(f"request {n}" + "!" * 20 * (n == 0), [n + 3, EOS]) for n in range(4)]
ATTACKS = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(2)]


class Scripted:
    """A session with a token for each letter, whose model answers with `length` tokens."""

    eos_id = EOS
    checkpoint = types.SimpleNamespace(config=types.SimpleNamespace(max_positions=CONTEXT))

    def __init__(self, length: int, refused: tuple[str, ...]):
        self.length, self.asked, self.widths = length, [], []
        self.judge = types.SimpleNamespace(
            verdicts=lambda texts, _: [text.split(" ", 1)[1] in refused for text in texts]
        )

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, ids) -> str:
        return str(ids)

    def answer(self, texts, width):
        self.asked += texts
        self.widths.append(width)
        return [[9] * min(width, self.length) for _ in texts]


def material(length: int = 40, refused: tuple[str, ...] = ()) -> Material:
    made = Material(Scripted(length, refused), {}, None)  # type: ignore[arg-type]
    made.pools = make_pools(PAIRS, ATTACKS, PAIRS, [], 0.25)
    return made


def test_the_unsafe_answer_is_whole_and_to_a_prompt_that_leaves_room_for_it():
    made = material(refused=("request 1",))
    message, safe, unsafe = made.unsafe_answer
    assert message.split(" ", 1)[1] == "request 2" and safe == [5, EOS] and unsafe == [9] * 40
    assert made.session.widths == [WHOLE]
    assert not any("request 0" in text for text in made.session.asked)  # too long beside an answer


def test_a_model_that_refuses_everything_is_asked_once():
    made = material(refused=tuple(pair.request for pair in PAIRS))
    for _ in range(3):
        with pytest.raises(DataError, match="refuses every attacked training request"):
            _ = made.unsafe_answer
    assert len(made.session.asked) == 3


@pytest.mark.parametrize(("length", "end"), [(40, [EOS]), (WHOLE + 5, [])])
def test_the_answer_to_keep_is_whole_and_ends_where_the_model_ended_it(length, end):
    made = material(length)
    text, answer = made.kept_answer
    assert text == made.harmless[0][0] and answer == [9] * min(length, WHOLE) + end
