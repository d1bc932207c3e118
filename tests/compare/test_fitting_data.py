"""What other methods are fitted on: whole refusals, and whole answers of the base model."""

import dataclasses
import types

import numpy as np
import pytest

from nt_jax.compare import fitting_data as module
from nt_jax.compare.fitting_data import WHOLE, FittingData
from nt_jax.config.schema import RunConfig
from nt_jax.data.records import AttackTemplate, HarmfulRequest
from nt_jax.data.shipped import shipped_refusal
from nt_jax.data.training import Records
from nt_jax.errors import DataError
from nt_jax.models.neurons import NeuronSet
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS, OWN
from nt_jax.train.pools import Pair, make_pools
from nt_jax.train.validate import (
    ATTACK,
    DIRECT,
    HARMLESS,
    IN_ATTACK,
    NESTED,
    SOUNDS_HARMFUL,
    Validation,
)

EOS, CONTEXT = 2, WHOLE + 30
OPENING = [99]
PAIRS = [Pair(f"request {n}" + "!" * 20 * (n == 0), OPENING) for n in range(4)]
ATTACKS = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(2)]


class Scripted:
    """A chat model with a token for each letter, which answers with `length` tokens."""

    eos_id = EOS
    checkpoint = types.SimpleNamespace(config=types.SimpleNamespace(max_positions=CONTEXT))

    def __init__(self, length: int):
        self.length, self.asked, self.widths = length, [], []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def answer_ids(self, text: str) -> list[int]:
        return [*text.encode(), EOS]

    def text(self, ids) -> str:
        return str(ids)

    answer_text = text

    def answer(self, texts, width):
        self.asked += texts
        self.widths.append(width)
        return [[9] * min(width, self.length) for _ in texts]


def test_thresholds_are_read_off_the_prompts_that_settings_are_tried_on(data):
    """Plain ones alone would let "stands in an attack" tell harmful from harmless prompts."""
    kinds = (ATTACK, DIRECT, HARMLESS, SOUNDS_HARMFUL, IN_ATTACK, NESTED)
    prompts = {kind: [f"{kind} {n}" for n in range(3)] for kind in kinds}
    made = data()
    made.whole_validation = Validation(prompts, prompts)
    made.config = made.config.model_copy(
        update={"compare": made.config.compare.model_copy(update={"validation": 2})}
    )
    found = made.validation_examples
    texts = [[bytes(ids).decode() for ids in side] for side in (found.harmful, found.harmless)]
    assert [text.rpartition(" ")[0] for text in texts[0]] == [ATTACK] * 2 + [DIRECT] * 2
    harmless = [kind for kind in kinds[2:] for _ in range(2)]
    assert [text.rpartition(" ")[0] for text in texts[1]] == harmless


@pytest.fixture
def data(monkeypatch):
    """Makes the fitting data of a scripted model and of a judge that knows what is refused."""

    def made(length: int = 40, refused: tuple[str, ...] = ()) -> FittingData:
        judge = types.SimpleNamespace(
            verdicts=lambda texts, _: [text in refused for text in texts]  # without attacks
        )
        monkeypatch.setattr(module, "open_judge", {"phrases": judge}.__getitem__)
        config = RunConfig.model_validate({"name": "x", "model": {"source": "m"}})
        rows = [HarmfulRequest(str(n), p.request, chr(n + 3)) for n, p in enumerate(PAIRS)]
        parts = {"train": Records(rows, [], ATTACKS)}
        found = FittingData(
            config, types.SimpleNamespace(model=Scripted(length), records=parts), None
        )  # type: ignore[arg-type]
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


def test_methods_that_learn_answers_get_whole_refusals_where_openings_are_tuned(data):
    made = data()
    rows = made.records["train"].harmful
    rows[1] = dataclasses.replace(rows[1], refusal=None)  # the shipped one takes its place
    expected = {row.prompt: [*(row.refusal or "").encode(), EOS] for row in rows}
    expected[rows[1].prompt] = [*shipped_refusal(rows[1].request).encode(), EOS]
    for pools, answers in (
        (made.whole_pools, expected), (made.pools, dict.fromkeys(expected, OPENING)),
    ):  # fmt: skip
        direct = [*pools.local_safety.direct, *pools.global_safety.direct]
        assert {pair.request: pair.answer for pair in direct} == answers
    assert len(made.harmful) == 4
    for prompt, answer in made.harmful:
        assert answer == next(expected[asked] for asked in expected if asked in prompt)


@pytest.mark.parametrize(("score", "measured"), [("contrastive", True), ("integrated", False)])
def test_slopes_are_taken_over_where_the_run_has_measured_them(data, tmp_path, score, measured):
    made, draw = data(), np.random.default_rng(0)
    words = {"attribution": {"score": score}, "neurons": {"first_layer": 2}}
    base = {"name": "x", "model": {"source": "m"}}
    made.config = RunConfig.model_validate(base | words)
    values = {name: draw.standard_normal(3) for name in CELLS}
    whole = CellSlopes({name: draw.standard_normal((3, 10)) for name in (*CELLS, OWN)}, values)
    whole.save(tmp_path / "slopes.npz")
    made.run = types.SimpleNamespace(read=lambda name: tmp_path)
    made.model.checkpoint = types.SimpleNamespace(config=types.SimpleNamespace(neurons=5))
    neurons = NeuronSet(np.array([3, 2, 2]), np.array([1, 4, 0]), np.ones(3, bool))
    found = made.slopes(neurons)
    assert (found is not None) is measured
    if found is not None:  # layers 2 and 3, five neurons each
        np.testing.assert_array_equal(found.cells[OWN], whole.cells[OWN][:, [6, 4, 0]])
