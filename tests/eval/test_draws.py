"""Drawn answers: a function of seed, request and draw; rates over draws, intervals by request."""

import dataclasses

import numpy as np
import pytest

from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.load import load_config
from nt_jax.errors import ConfigError
from nt_jax.eval.answer_file import RecordFile, asked
from nt_jax.eval.answering import answer_all, answers_path
from nt_jax.eval.metrics import agreement, average, intervals, refusal, suf1, text
from nt_jax.eval.metrics.result import Measurements, find, per_request
from nt_jax.eval.prompts import TestPrompt, Tests, read_tests
from nt_jax.eval.prompts import tests_hash as hash_of
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import load_model
from tests import tiny

CONFIG = EvalConfig(temperature=0.7, draws=3, limit=4, max_new_tokens=6)


def answers(folder, prompts, batch_size: int, **change) -> dict:
    """Id > answer of the tiny model."""
    folder.mkdir()
    model = dataclasses.replace(load_model(str(tiny.checkpoint("smollm2"))), batch_size=batch_size)
    config = CONFIG.model_copy(update=change)
    answer_all(ModelUnderTest("base", model), Tests(prompts, []), config, folder)
    rows = RecordFile(answers_path(folder, "base")).in_order(map(asked, prompts))
    return {row["id"]: row["answer"] for row in rows}


def test_what_is_drawn_depends_on_seed_request_and_draw_alone(tmp_path):
    bare = [TestPrompt("mine", str(n), f"say {n}", f"say {n}", True) for n in range(3)]
    prompts = [prompt.drawn(draw) for draw in range(3) for prompt in bare]
    whole = answers(tmp_path / "a", prompts, 32)
    assert answers(tmp_path / "b", prompts[::-1], 8) == whole
    alone = answers(tmp_path / "c", prompts[4:6], 8)
    assert alone == {key: whole[key] for key in alone}
    assert len({whole[f"0~{draw}"] for draw in range(3)}) == 3
    assert answers(tmp_path / "d", prompts, 32, draw_seed=1) != whole
    greedy = answers(tmp_path / "e", prompts, 32, temperature=0.0)
    assert len({greedy[f"0~{draw}"] for draw in range(3)}) == 1


def test_every_request_is_asked_once_for_each_draw():
    tests, once = read_tests(CONFIG), read_tests(EvalConfig(limit=4))
    assert len(tests.prompts) == 3 * len(once.prompts) == 48
    assert len({asked(row) for row in tests.prompts}) == 48
    assert len(tests.first(2).prompts) == 24
    assert {row.draw for row in once.prompts} == {None}
    assert hash_of(once, CONFIG) != hash_of(once, EvalConfig(limit=4))
    assert "draw" not in once.prompts[0].record() and tests.prompts[0].record()["draw"] == 0
    with pytest.raises(ConfigError, match="one greedy answer"):
        load_config("smollm2-135m", ["eval.draws=3"])


def made_up(model: str, rates: list[float], harmful: bool = True, draws: int = 4) -> list[dict]:
    """Answers of which each request's share of draws refuses."""
    return [
        {
            "dataset": "bad" if harmful else "good", "id": f"{n}~{draw}", "draw": draw,
            "model": model, "harmful": harmful, "refused": draw < rate * draws,
            "answer": "no " * (n + 1), "request": "r", "prompt": "r",
        }
        for draw in range(draws) for n, rate in enumerate(rates)
    ]  # fmt: skip


def test_rates_are_means_over_draws_and_intervals_go_by_request():
    rates = [0.0, 0.25, 1.0, 1.0, 0.5]
    answers = made_up("base", [0.0] * 5) + made_up("tuned", rates)
    answers += made_up("tuned", [0.0, 0.25], harmful=False)
    measured = Measurements(answers, judges={"phrases": "0"}, seed=3)
    rows = refusal.rows(measured) + text.rows(measured) + suf1.rows(measured)
    row = find(rows, "bad", "refusal_rate", "tuned")
    assert row.value == np.mean(rates) and row.n == 20
    # Five requests, however often each is asked; as wide as the bootstrap over them, or wider.
    wilson, drawn = intervals.wilson(sum(rates), 5), intervals.bootstrap_mean(rates, 3)
    assert (row.low, row.high) == (min(wilson[0], drawn[0]), max(wilson[1], drawn[1]))
    none = find(rows, "bad", "refusal_rate", "base")
    assert none.value == 0 and none.high == intervals.wilson(0, 5)[1]
    change = find(rows, "bad", "refusal_change", "tuned")
    assert change.value == np.mean(rates) and change.n == 5
    assert find(rows, "bad", "mcnemar_p", "tuned").value == intervals.mcnemar(np.zeros(5), rates)
    words = find(rows, "bad", "mean_length", "tuned")
    assert words.n == 20 and (words.low, words.high) == intervals.bootstrap_mean(range(1, 6), 3)
    assert find(rows, "bad+good", "su_f1", "tuned").n == 28
    np.testing.assert_array_equal(per_request(answers[20:40], [1.0] * 20), np.ones(5))
    plain = [{"id": "a~1"}, {"id": "a~2"}]  # an id of a user's own
    np.testing.assert_array_equal(per_request(plain, [1, 3]), [1, 3])


def test_a_request_counts_once_where_some_of_its_draws_have_no_answer():
    answers = made_up("base", [1.0, 0.0])
    answers = [row for row in answers if row["id"].startswith("0") or row["draw"] == 0]
    row = find(refusal.rows(Measurements(answers)), "bad", "refusal_rate", "base")
    assert len(answers) == row.n == 5 and row.value == 0.5  # by answers 0.8


def test_answers_that_are_repeated_make_no_interval_narrower():
    """Kappa and table 3 too; a request of two sets may have one id."""
    once, often = ([*made_up("base", [0.0, 1.0, 1.0, 0.0, 1.0, 1.0], draws=n),
                    *made_up("base", [0.0, 1.0, 0.0], harmful=False, draws=n)]
                   for n in (1, 10))  # fmt: skip
    choices = [
        {"dataset": "sums", "id": str(n), "model": "base", "key": 0, "letter": n % 2}
        for n in range(6)
    ]
    found = []
    for answers in (once, often):
        for row in answers:
            other = row["id"].startswith(("1", "4")) and row["harmful"]
            row["answer"] = "a b c d e f g h i"[: 5 + 2 * int(row["id"][0])]
            row["verdicts"] = {"one": float(row["refused"]), "two": float(other)}
        measured = Measurements(answers, choices, judges={"one": "0", "two": "1"}, seed=3)
        rows = average.rows(measured) + agreement.rows(measured)
        sides = [[row for row in answers if row["harmful"] == side] for side in (True, False)]
        rows += average.text_rows("base", *sides, seed=3)
        found.append({row.metric: row for row in rows})
    assert [*found[0]] == ["table3_average", "kappa", "fluency", "entropy_sum"]
    for metric, row in found[0].items():
        more = found[1][metric]
        assert (more.value, more.low, more.high) == pytest.approx((row.value, row.low, row.high))
        assert row.low < row.value < row.high and more.n > row.n
