"""How far, how fast, how long still: by a clock that the test turns itself."""

import threading

import pytest

from nt_jax import pace
from nt_jax.pace import KEPT, OFF, SURE, Pace, pulse


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves it."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_a_task_tells_what_how_far_how_fast_and_how_long_still(clock):
    found = Pace()
    with found.task("tune", 24, "epochs") as task:
        clock.now += 45
        assert found.line() == ("tune", "0 of 24 epochs   0:45 so far")
        task.advance(6, "safety 2.31")
        clock.now += 15
        assert found.line() == ("tune", "6 of 24 epochs   safety 2.31   6.0/min   3:00 left")
    assert found.line() is None


def test_what_was_there_before_is_no_pace(clock):
    with Pace().task("tune", 24, "epochs", done=20) as task:
        assert task.left() is None
        clock.now += 10
        task.advance(1)
        assert task.left() == 30.0 and "21 of 24 epochs   6.0/min" in str(task)


def test_fast_things_are_counted_by_the_second(clock):
    with Pace().task("eval", 1000, "answers") as task:
        clock.now += 10
        task.advance(250)
        assert str(task) == "250 of 1,000 answers   25.0/s   0:30 left"


def test_the_innermost_task_is_told_and_a_stage_without_one_by_its_name(clock):
    found = Pace()
    with found.stage("train"):
        clock.now += 90
        assert found.line() == ("train", "at work, 1:30 so far")
        with found.task("tune", 2, "epochs"), found.task("strength", 3, "strengths"):
            label, text = found.line() or ("", "")
            assert label == "strength" and text.startswith("0 of 3 strengths")
    assert found.line() is None


def test_the_rest_of_a_run_is_corrected_by_how_its_stages_went(clock):
    found = Pace()
    assert found.left() is None
    found.expect({"attribute": 100.0, "train": 200.0, "eval": 50.0})
    assert found.left() == 350.0
    with found.stage("attribute"):
        clock.now += 30
        assert found.left() == 320.0
        clock.now += 170  # twice as long as expected: not known before it is over
        assert found.left() == 250.0
    assert found.left() == 2 * 250.0
    with found.stage("train"):
        assert found.left() == 500.0
        with found.task("tune", 10, "epochs") as task:
            clock.now += 100
            task.advance(1)  # at this pace 900 seconds more, whatever was expected
            assert found.left() == 900.0 + 100.0
        clock.now += 400
    assert found.left() == pytest.approx(50 * 700 / 300)


def test_a_stage_that_was_kept_elsewhere_says_nothing_of_the_machine(clock):
    found = Pace()
    found.expect({"answers": 100.0, "train": 200.0})
    with found.stage("answers"):
        clock.now += 100 * KEPT - 1
    assert found.left() == 200.0


def test_a_short_stage_and_an_accident_correct_little(clock):
    found = Pace()
    found.expect({"select": SURE / 2, "export": SURE, "train": 100.0})
    with found.stage("select"):
        clock.now += 60
    assert found.left() == 100.0 + SURE
    with found.stage("export"):
        clock.now += 10_000
    assert found.left() == 100.0 * OFF


def test_a_pulse_beats_until_the_block_ends_and_leaves_no_thread():
    beaten, told = threading.Event(), []

    def tell() -> None:
        told.append(1)
        if len(told) == 3:
            beaten.set()

    with pulse(0.01, tell):
        assert beaten.wait(20)
    after = len(told)
    assert not beaten.wait(0) or after == len(told)
    assert "pulse" not in {thread.name for thread in threading.enumerate()}
