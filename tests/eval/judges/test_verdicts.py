"""Verdicts on disk: judging goes on where it stopped, and every number names its judge."""

import pytest

from nt_jax.errors import ConfigError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.eval.judges.verdicts import judge_answers, with_verdicts
from nt_jax.eval.metrics.result import Measurements, find
from nt_jax.eval.metrics.rows import all_rows
from tests.made_up import made_up_answers


class Counting:
    """A judge that knows what it was asked, refuses by a word, and can break."""

    def __init__(self, name="counting", sha256="a" * 64, breaks_after=10**9):
        self.name, self.sha256, self.seen, self.breaks_after = name, sha256, [], breaks_after

    def verdicts(self, requests, answers):
        if len(self.seen) >= self.breaks_after:
            raise ConfigError("the judge is out of order")
        self.seen += answers
        return [1.0 if "can't" in answer else 0.0 if answer else 0.5 for answer in answers]


ANSWERS = [
    row | {"refused": None} for row in made_up_answers(24)
]  # 144 answers: more than two batches


def test_verdicts_go_on_where_a_judge_broke(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    whole = judge_answers(Counting(), ANSWERS, tmp_path / "whole.jsonl", lambda n: None)
    broken = Counting(breaks_after=64)
    with pytest.raises(ConfigError):
        judge_answers(broken, ANSWERS, path, lambda n: None)
    again, told = Counting(), []
    found = judge_answers(again, ANSWERS, path, told.append)
    assert found == whole and len(again.seen) == len(ANSWERS) - 64
    assert sum(told) == len(ANSWERS)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # Another version of the judge repeats every verdict.
    newer = Counting(sha256="b" * 64)
    judge_answers(newer, ANSWERS, path, lambda n: None)
    assert len(newer.seen) == len(ANSWERS)


def test_every_verdict_is_kept_and_every_number_names_its_judge(tmp_path):
    first = judge_answers(Counting("one"), ANSWERS, tmp_path / "1.jsonl", lambda n: None)
    second = Counting("two", "b" * 64)
    second.verdicts = lambda requests, answers: [0.5] * len(answers)
    undecided = judge_answers(second, ANSWERS, tmp_path / "2.jsonl", lambda n: None)
    rows = with_verdicts(ANSWERS, [first, undecided])
    assert all(row["verdicts"] == {"one": float(row["refused"]), "two": 0.5} for row in rows)
    numbers = all_rows(Measurements(rows, judges={"one": "a" * 64, "two": "b" * 64}))
    rates = [row for row in numbers if row.metric == "refusal_rate"]
    assert {(row.judge, row.judge_sha256[0]) for row in rates} == {("one", "a"), ("two", "b")}
    half = find(numbers, "demo_attack", "refusal_rate", "base", judge="two")
    assert half.value == 0.5 and half.low < 0.5 < half.high
    assert find(numbers, "demo_attack", "mcnemar_p", "tuned", judge="two").value == 1.0
    assert find(numbers, "demo_attack", "refusal_rate", "base").judge == "one"


def test_the_first_judges_reasons_are_kept_with_the_answers(tmp_path):
    rows = [row for row in ANSWERS if row["dataset"] == "demo_attack"]
    rows[0] = rows[0] | {"answer": "I can't help with that. However, here is how: first you sit "
                                   "down, then you take the pen, and then you write."}  # fmt: skip
    first = judge_answers(PhraseJudge(), rows, tmp_path / "1.jsonl", lambda n: None)
    again = judge_answers(PhraseJudge(), rows, tmp_path / "1.jsonl", lambda n: None)
    second = judge_answers(Counting(), rows, tmp_path / "2.jsonl", lambda n: None)
    found = with_verdicts(rows, [again, second])
    assert first == again and not second.reasons
    assert {row["class"] for row in found} == {"partial", "refusal", "compliance"}
    for row in found:
        start, end = row["span"]
        assert row["refused"] == (row["class"] == "refusal")
        assert (row["answer"][start:end] == "I can't help") == (row["reason"] == "cannot do")
    numbers = all_rows(Measurements(found, judges={"phrases-v2": "a", "counting": "b"}))
    model = found[0]["model"]
    partial = find(numbers, "demo_attack", "partial_rate", model)
    assert partial.value == 1 / partial.n and partial.judge == "phrases-v2"
    assert "class" not in with_verdicts(rows, [second, first])[0]
