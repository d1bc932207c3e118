"""Which lifts are looked at: as high as each side's limits allow, in few looks."""

import itertools

import pytest

from nt_jax.config.schema import TuneConfig
from nt_jax.train.lift_search import past_rises, raised, searched
from nt_jax.train.validate import HARMLESS, IN_ATTACK, NESTED


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_the_highest_of_all_sides_is_found_wherever_the_limits_are(count):
    """Brute force: all limits there can be, below the lowest lift and above the highest as well."""
    lifts = [[size * n for n in range(count)] for size in (0.3, 0.3, 0.6)]

    def found(limits):
        def look(nats):
            return {"places": [mine.index(n) for mine, n in zip(lifts, nats, strict=True)]}

        def past(row):
            return tuple(place > m for place, m in zip(row["places"], limits, strict=True))

        return searched(lifts, look, past)

    for limits in itertools.product(range(-1, count), repeat=3):
        looked, highest = found(limits)
        assert len(looked) <= TuneConfig(lifts=tuple(lifts[0])).lift_looks and highest in looked
        assert highest == tuple(mine[max(m, 0)] for mine, m in zip(lifts, limits, strict=True))


@pytest.mark.parametrize("most", [0.6, 0.3])  # of the second the lower pair is past it as well
def test_where_the_two_together_are_past_a_limit_the_next_lower_is_looked_at_once(most):
    """Bare prompts bear 0.6 nats while attacked ones have as many, and `most` are too many else."""

    def past(row):
        bare, attacked = row["nats"]
        return bare > 0.6 or (attacked < 0.6 and bare >= most), attacked > 0.3

    looked, highest = searched([[0.0, 0.3, 0.6, 0.9]] * 2, lambda nats: {"nats": nats}, past)
    assert [*looked] == [(0.6, 0.6), (0.9, 0.3), (0.6, 0.3), (0.3, 0.3)]
    assert highest == (0.3, 0.3) and len(looked) == 4


def refusing(nats, direct=0.0):
    """A look at these nats: a refusal more for each, attacked ones first unless told otherwise."""
    rates = {"refusal_direct": nats[0] + direct, "refusal_attack": nats[1]}
    return rates | {"score": min(rates.values()), "nats": nats}


TOP = (0.9, 0.9, 0.3)
LIFTS = [[0.3, 0.6, 0.9]] * 2 + [[-0.3, 0.0, 0.3]]


@pytest.mark.parametrize(
    ("limits", "direct", "looks"),
    [
        ((3.0, 3.0, 3.0), 0.0, [(1.8, 1.8, 1.2), (2.7, 2.7, 2.1), (3.6, 3.6, 3.0)]),
        # Halves of the way: on the side that went too far, and on all that were raised.
        ((3.0, 1.0, 3.0), 0.0, [(1.8, 1.8, 1.2), (1.8, 1.35, 1.2)]),
        ((1.4, 1.4, 0.8), 0.0, [(1.8, 1.8, 1.2), (1.35, 1.35, 0.75)]),
        ((1.4, 9.0, 0.8), 0.0, [(1.8, 1.8, 1.2), (1.35, 1.8, 0.75)]),
        # Only what the score asks for.
        ((3.0, 3.0, 3.0), 2.0, [(0.9, 1.8, 1.2), (0.9, 2.7, 2.1), (0.9, 3.6, 3.0)]),
        ((3.0, 3.0, 3.0), -2.0, [(1.8, 0.9, 0.3), (2.7, 0.9, 0.3), (3.6, 0.9, 0.3)]),
        ((3.0, 3.0, 3.0), 0.5, [(0.9, 1.8, 1.2), (1.8, 1.8, 1.2), (1.8, 2.7, 2.1)]),
    ],
)
def test_beyond_the_highest_lift_the_lesser_side_goes_on_to_its_limit(limits, direct, looks):
    """Brute force: what is kept has the best score of all that was looked at within the limits."""

    def past(row):
        return tuple(nats > limit for nats, limit in zip(row["nats"], limits, strict=True))

    looked = {TOP: refusing(TOP, direct)}
    most = 1 + len(looks) if len(looks) == 3 else 9
    found = raised(LIFTS, TOP, looked, lambda nats: refusing(nats, direct), past, most)
    assert [*looked] == [TOP, *looks]
    within = [nats for nats, row in looked.items() if not any(past(row))]
    assert found == max(within, key=lambda nats: looked[nats]["score"])


def test_a_raise_that_brings_the_score_no_further_is_halved_and_not_kept():
    looked = {TOP: refusing(TOP)}
    none = (False, False, False)
    found = raised(LIFTS, TOP, looked, lambda nats: refusing((0, 0, 0)), lambda row: none, 9)
    assert found == TOP and [*looked] == [TOP, (1.8, 1.8, 1.2), (1.35, 1.35, 0.75)]


@pytest.mark.parametrize("lifts", [[0.5, 0.5], [0.5, 0.5 + 1e-9], [0.5]])
def test_lifts_of_one_size_are_not_gone_on_from(lifts):
    best = (lifts[-1],) * 3
    looked, once = {best: refusing(best)}, iter([refusing(best)])  # another would be one too many
    none = (False, False, False)
    found = raised([lifts] * 3, best, looked, lambda nats: next(once), lambda row: none, 5)
    assert found == pytest.approx(best) and len(looked) <= 2


def test_no_side_is_raised_from_below_the_highest_lift_or_past_a_limit():
    def never(nats):
        raise AssertionError(nats)

    low, far = (0.6, 0.6, 0.0), (0.9, 0.9, 0.3)
    assert raised(LIFTS, low, {low: refusing(low)}, never, lambda row: (False,) * 3, 9) == low
    assert raised(LIFTS, far, {far: refusing(far)}, never, lambda row: (True,) * 3, 9) == far
    one = (0.6, 0.9, 0.0)  # attacked is not the lesser: raising it would bring the score nowhere
    assert raised(LIFTS, one, {one: refusing(one)}, never, lambda row: (False,) * 3, 9) == one


def test_each_side_has_its_own_limits_and_goes_with_the_one_before_without_prompts():
    asked = {HARMLESS: 150, IN_ATTACK: 150, NESTED: 150}
    names = [f"rise_{kind}{end}" for kind in asked for end in ("", "_bound")]
    none, config = dict.fromkeys(names, 0.0) | {"perplexity_ratio": 1.0}, TuneConfig()
    assert past_rises(none, asked, config) == (False, False, False)
    for place, kind in enumerate(asked):
        row = none | {name: 0.3 for name in names if name.startswith(f"rise_{kind}")}
        assert past_rises(row, asked, config) == tuple(place == n for n in range(3))
        without = {k: count for k, count in asked.items() if k != NESTED}
        assert past_rises(row, without, config) == (place == 0, place == 1, place == 1)
        assert past_rises(row, {HARMLESS: 150}, config) == (place == 0,) * 3
    wordy = none | {"perplexity_ratio": 1.2}
    assert past_rises(wordy, asked, config) == (False, True, False)
    assert past_rises(wordy, {HARMLESS: 150}, config) == (True, True, True)
    fallen = none | {"fall_attack": 0.9, "fall_direct": 0.9}
    assert past_rises(fallen, asked, config) == (False, False, False)
