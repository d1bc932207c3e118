"""Work on many items goes on when one fails, and stops trying when all do."""

import json

import pytest

from nt_jax.errors import ConfigError, DataError, RunError, SomeFailedError
from nt_jax.eval.failures import IN_A_ROW, Marks, in_parts
from nt_jax.eval.measure import judge_all


def run(tmp_path, items, bad, marks=True):
    """(done, how often work was called) of work that fails on any of `bad`."""
    done, calls = [], []

    def work(some):
        calls.append(list(some))
        if bad.intersection(some):
            raise ValueError("no\nanswer")
        done.extend(some)

    kept = Marks(tmp_path) if marks else None
    in_parts(items, lambda some: [i for i in some if i not in done], work, kept, lambda i: {"i": i})
    return sorted(done), calls, kept


def test_the_one_that_fails_is_found_and_marked(tmp_path):
    done, calls, marks = run(tmp_path, range(64), {17})
    assert done == [n for n in range(64) if n != 17]
    assert len(calls) <= 2 * 6 + 1 and marks.count == 1
    (line,) = marks.path.read_text().splitlines()
    assert json.loads(line) == {"i": 17, "error": "ValueError: no answer"}
    assert not Marks(tmp_path).path.exists()  # the next run starts without


def test_what_always_fails_is_not_tried_for_ever(tmp_path):
    done, calls, marks = run(tmp_path, range(1000), set(range(1000)))
    assert done == [] and marks.count == 1000
    assert len(calls) < 4 * IN_A_ROW + 12


@pytest.mark.parametrize("bad", [range(IN_A_ROW), range(40, 40 + 2 * IN_A_ROW), range(0, 200, 3)])
def test_many_that_fail_side_by_side_keep_none_of_the_others_from_being_tried(tmp_path, bad):
    done, _, marks = run(tmp_path, range(200), set(bad))
    assert done == [n for n in range(200) if n not in bad] and marks.count == len(bad)


def test_a_second_judge_is_asked_although_the_first_failed_at_the_end(tmp_path):
    answers = [{"id": str(n), "dataset": "d", "model": "m", "request": str(n), "answer": str(n),
                "harmful": True} for n in range(40)]  # fmt: skip

    class First:
        name, sha256 = "first", "1"

        def verdicts(self, requests, answers):
            if any(int(answer) >= 40 - 2 * IN_A_ROW for answer in answers):
                raise ValueError("no verdict")
            return [0.0] * len(answers)

    class Second:
        name, sha256 = "second", "1"

        def verdicts(self, requests, answers):
            return [1.0] * len(answers)

    marks = Marks(tmp_path)
    judge_all([("1", First), ("2", Second)], answers, None, tmp_path, marks)
    second = (tmp_path / "verdicts-1.jsonl").read_text().splitlines()
    assert marks.count == 2 * IN_A_ROW and len(second) == 40


def test_without_marks_it_raises(tmp_path):
    with pytest.raises(ValueError):
        run(tmp_path, range(4), {2}, marks=False)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ConfigError("asked for what is not there")]
)
def test_a_full_disk_and_a_mistake_are_no_prompts_that_failed(tmp_path, error):
    def work(some):
        raise error

    with pytest.raises(type(error)):
        in_parts([1, 2], list, work, Marks(tmp_path), lambda i: {"i": i})


def test_those_that_a_server_names_are_marked_and_not_tried_again(tmp_path):
    calls, done = [], [4, 5]

    def work(some):
        calls.append(list(some))
        done.extend(some[1:-1])
        raise SomeFailedError({len(some) - 1: RunError("no answer"), 0: DataError("too long")})

    marks = Marks(tmp_path)
    missing = lambda some: [i for i in some if i not in done]  # noqa: E731
    in_parts(range(10), missing, work, marks, lambda i: {"i": i})
    assert calls == [[0, 1, 2, 3, 6, 7, 8, 9]] and marks.count == 2
    rows = [json.loads(line) for line in marks.path.read_text().splitlines()]
    assert {row["i"]: row["error"] for row in rows} == {
        0: "DataError: too long", 9: "RunError: no answer",
    }  # fmt: skip
    with pytest.raises(SomeFailedError, match=r"2 prompts failed\. The first: too long"):
        in_parts([1, 2, 3], lambda some: some, work, None, lambda i: {"i": i})


def test_nothing_to_do_is_nothing_done(tmp_path):
    assert run(tmp_path, [], set())[1] == []
