"""The records of a run: each question once, every template used, no prompt without room."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.config.schema import DataConfig
from nt_jax.data import training
from nt_jax.data.attacks import far_apart
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.training import Records
from nt_jax.errors import DataError

TEMPLATES = [
    AttackTemplate(f"t{n}", f"{n} says {{request}}", (kind,))
    for n, kind in enumerate(["pretending", "emotion", "pretending", "attention shifting"])
]
RECORDS = Records(
    [HarmfulRequest(f"h{n}", f"harm {n}", f"No {n}.", "") for n in range(3)],
    [HarmlessRequest(f"u{n}", f"ask {n}", f"Yes {n}." if n else None, n == 2) for n in range(3)],
    TEMPLATES,
)


def encode(text: str) -> list[int]:
    """A token for every letter."""
    return [*text.encode()]


def test_a_question_that_a_file_repeats_for_each_attack_is_tuned_on_once():
    paired = [HarmfulRequest(str(n), f"q{n % 2}", "No.", "", None, f"attack {n}") for n in range(5)]
    assert [row.id for row in training.each_question_once(paired)] == ["0", "1"]
    assert training.each_question_once(RECORDS.harmful * 2) == RECORDS.harmful
    bare = [HarmfulRequest(f"b{n}", "q0", "No.", "", s) for n, s in enumerate(["train", "test"])]
    rows = [*bare, HarmfulRequest("a", "q0", "No.", "", "train", "attack 0")]
    assert [row.id for row in training.each_question_once(rows)] == ["b1", "a"]


def test_conversations_that_end_alike_are_several_requests():
    before = [(("user", about), ("assistant", "Yes.")) for about in ("bread", "planes")]
    rows = [
        HarmlessRequest(str(n), "Tell me more.", "Sure.", before=before[n % 2]) for n in range(3)
    ]
    assert [row.id for row in training.each_request_once(rows)] == ["0", "1"]


def test_records_are_read_with_each_question_once(monkeypatch):
    rows = [HarmfulRequest(str(n), "q", "No.", "", "train", f"attack {n}") for n in range(3)]
    monkeypatch.setattr(training, "load_harmful", lambda *_, **__: rows)
    monkeypatch.setattr(training, "divide", lambda given, part, kind: list(given))
    data = DataConfig(attacks="templates")
    assert [row.id for row in training.read_records(data)["train"].harmful] == ["0"]


def test_rows_are_spread_evenly():
    rows = [str(n) for n in range(10)]
    assert training.evenly(rows, 3) == ["0", "3", "6"] and training.evenly(rows, 99) == rows
    assert training.evenly([], 5) == []


def test_without_templates_nothing_is_put_into_attacks():
    none = dataclasses.replace(RECORDS, templates=[])
    assert none.in_attacks([]) == []
    with pytest.raises(DataError, match=r"no attack templates .*data\.templates"):
        none.in_attacks(["q"])


@given(st.integers(1, 60))
def test_neighbours_are_far_apart_and_every_place_is_visited(count):
    stride = far_apart(count)
    assert stride >= 5 and len({place * stride % count for place in range(count)}) == count


def test_neighbouring_requests_get_different_templates():
    texts = RECORDS.attacked([f"q{n}" for n in range(8)])
    assert len({text.split()[0] for text in texts[:4]}) == 4
    assert all(text.endswith(f"q{n}") for n, text in enumerate(texts))


def test_the_data_hash_hears_of_every_field():
    first = training.data_hash({"train": RECORDS})
    assert first == training.data_hash({"train": RECORDS})
    other = dataclasses.replace(RECORDS, templates=TEMPLATES[:3])
    hashes = {first, training.data_hash({"train": other}), training.data_hash({"test": RECORDS})}
    assert len(hashes) == 3


def test_a_prompt_that_leaves_no_room_is_named_before_any_work():
    longest = len("2 says 1 says 0 says harm 0")  # validation asks templates inside each other
    training.check_prompts(encode, {"train": RECORDS}, longest + 4, 4)
    with pytest.raises(DataError, match=r"row t\d\+t\d\+t\d around the longest request") as error:
        training.check_prompts(encode, {"train": RECORDS}, longest + 3, 4)
    assert f"has {longest} tokens; with 4 of its answer" in str(error.value)
    with pytest.raises(DataError, match="row t0 around the longest request"):
        training.check_prompts(encode, {"train": RECORDS}, len("0 says harm 0") + 3, 4)
    with pytest.raises(DataError, match=r"data\.harmful, row h0: the prompt has 6 tokens"):
        training.check_prompts(encode, {"train": RECORDS}, 9, 4)
