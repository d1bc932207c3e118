"""What DINM is fitted on: whole answers of the base model, asked for once."""

import types

import pytest

from nt_jax.compare import fitting_data as module
from nt_jax.compare.fitting_data import WHOLE, FittingData
from nt_jax.config.schema import RunConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.train.pools import Pair, make_pools

EOS, CONTEXT = 2, WHOLE + 30
PAIRS = [Pair(f"request {n}" + "!" * 20 * (n == 0), [n + 3, EOS]) for n in range(4)]
ATTACKS = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(2)]


class Scripted:
    """A chat model with a token for each letter, which answers with `length` tokens."""

    eos_id = EOS
    checkpoint = types.SimpleNamespace(config=types.SimpleNamespace(max_positions=CONTEXT))

    def __init__(self, length: int):
        self.length, self.asked, self.widths = length, [], []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, ids) -> str:
        return str(ids)

    def answer(self, texts, width):
        self.asked += texts
        self.widths.append(width)
        return [[9] * min(width, self.length) for _ in texts]


@pytest.fixture
def data(monkeypatch):
    """Makes the fitting data of a scripted model and of a judge that knows what is refused."""

    def made(length: int = 40, refused: tuple[str, ...] = ()) -> FittingData:
        judge = types.SimpleNamespace(
            verdicts=lambda texts, _: [text.split(" ", 1)[1] in refused for text in texts]
        )
        monkeypatch.setattr(module, "open_judge", {"phrases": judge}.__getitem__)
        config = RunConfig.model_validate({"name": "x", "model": {"source": "m"}})
        found = FittingData(config, Scripted(length), {}, None)  # type: ignore[arg-type]
        found.pools = make_pools(PAIRS, ATTACKS, PAIRS, [], 0.25)
        return found

    return made


def test_the_unsafe_answer_is_whole_and_to_a_prompt_that_leaves_room_for_it(data):
    made = data(refused=("request 1",))
    message, safe, unsafe = made.unsafe_answer
    assert message.split(" ", 1)[1] == "request 2" and safe == [5, EOS] and unsafe == [9] * 40
    assert made.model.widths == [WHOLE]
    assert not any("request 0" in text for text in made.model.asked)  # too long beside an answer


def test_a_model_that_refuses_everything_is_asked_once(data):
    made = data(refused=tuple(pair.request for pair in PAIRS))
    for _ in range(3):
        with pytest.raises(DataError, match="refuses every attacked training request"):
            _ = made.unsafe_answer
    assert len(made.model.asked) == 3


@pytest.mark.parametrize(("length", "end"), [(40, [EOS]), (WHOLE + 5, [])])
def test_the_answer_to_keep_is_whole_and_ends_where_the_model_ended_it(data, length, end):
    made = data(length)
    text, answer = made.kept_answer
    assert text == made.harmless[0][0] and answer == [9] * min(length, WHOLE) + end
