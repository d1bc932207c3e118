"""Points, fronts and choices, against rules written out by hand."""

import csv
import dataclasses
import io
import itertools

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from nt_jax.config.registry import PICKS
from nt_jax.sweep.points import Point, kept_row, numbered, pick, points_of, rule
from nt_jax.sweep.write import csv_text, head, page, plot, rows, screen
from nt_jax.train.validate import LIMITS, Look, rise, rises, score

ASKED = {
    "attack": 40,
    "direct": 40,
    "harmless": 1000,
    "sounds_harmful": 60,
    "attacked_harmless": 60,
    "nested_harmless": 60,
}


def point(attack, direct, harmless, strength=1.0, cell="c", kept=False, **rates) -> Point:
    """A point whose untuned model refuses nothing."""
    found = {
        "refusal_attack": attack, "refusal_direct": direct, "refusal_harmless": harmless,
        "refusal_sounds_harmful": 0.0, "refusal_attacked_harmless": 0.0,
        "refusal_nested_harmless": 0.0,
        "entropy_harmful": 4.0, "entropy_harmless": 4.5, "perplexity": 2.0,
        "perplexity_ratio": 1.0, "score": 0.0,
    } | rates  # fmt: skip
    for kind in LIMITS:
        n = ASKED[kind]
        refused = np.arange(n) < round(found[f"refusal_{kind}"] * n)
        found[f"rise_{kind}"], found[f"rise_{kind}_bound"] = rise(np.zeros(n), refused)
    return Point(cell, {"neurons.safety": "9"}, strength, kept, "", found, ASKED)


def test_balanced_is_what_tuning_itself_would_choose():
    """The score of validate.py, of the looks that the points are made from."""
    rng = np.random.default_rng(0)

    def look(level: float) -> Look:
        shares = dict.fromkeys(ASKED, 0.1) | {"attack": 1.0, "direct": 1.0}
        refused = {
            kind: (rng.random(n) < level * shares[kind]).astype(float) for kind, n in ASKED.items()
        }
        rates = {f"refusal_{kind}": float(values.mean()) for kind, values in refused.items()}
        return Look(rates | {"perplexity": 2.0 + level / 3, "entropy_harmless": 4.0}, refused)

    base = look(0.0)
    looks = [look(level) for level in np.linspace(0.1, 0.9, 15)]
    made = [
        Point("c", {}, float(n), False, "", now.rates | rises(now, base), ASKED)
        for n, now in enumerate(looks)
    ]
    best = max(range(len(looks)), key=lambda n: score(looks[n], base, 0.03))
    assert pick(made, "balanced", 0.03).strength == best


def test_the_dial_goes_from_gentle_to_firm():
    gentle, middle, firm = (
        point(0.4, 0.5, 0.0), point(0.6, 0.7, 0.015), point(0.8, 0.9, 0.04),
    )  # fmt: skip
    reckless = point(1.0, 1.0, 0.9)
    found = [reckless, firm, middle, gentle]
    for order in itertools.permutations(found):
        chosen = {name: pick(order, name, 0.03) for name in PICKS}
        assert chosen == {"security": firm, "balanced": middle, "utility": gentle}


def test_of_equals_none_is_chosen_that_another_beats():
    """Both have the same lesser rate and the same plain refusals; one refuses more attacks."""
    more, less = point(0.63, 0.48, 0.0, strength=0.8), point(0.48, 0.48, 0.0, strength=0.7)
    for order in ([more, less], [less, more]):
        assert all(pick(order, name, 0.03) is more for name in PICKS)
    gentle = point(0.63, 0.48, 0.0, strength=0.6)
    assert pick([more, gentle], "balanced", 0.03) is gentle


def test_where_nothing_lies_within_the_nearest_is_chosen():
    far, near = point(0.9, 0.9, 0.5), point(0.3, 0.3, 0.2)
    assert all(pick([far, near], name, 0.03) is near for name in PICKS)


def test_other_kinds_and_perplexity_have_limits_of_their_own():
    plain = point(0.5, 0.5, 0.0)
    for harm in ({"refusal_sounds_harmful": 0.4}, {"refusal_attacked_harmless": 0.4},
                 {"refusal_nested_harmless": 0.4}, {"perplexity_ratio": 1.4}, {"fall_direct": 0.2},
                 {"fall_attack": 0.2}):  # fmt: skip
        assert pick([point(0.9, 0.9, 0.0, **harm), plain], "security", 0.03) is plain


def test_how_far_refusals_of_harm_may_fall_is_of_the_dial_too():
    plain = point(0.5, 0.5, 0.0)
    for fall, allowed in ((0.04, {"balanced", "security"}), (0.08, {"security"})):
        fallen = point(0.9, 0.9, 0.0, fall_direct=fall)
        assert {name for name in PICKS if pick([fallen, plain], name, 0.03) is fallen} == allowed


def test_the_rule_prints_the_limits_that_it_uses():
    text = rule("security", 0.03)
    assert "harmful -10, by estimates" in text
    assert "harmless +6" in text and "perplexity x 1.3" in text
    assert f"sounds harmful +{200 * LIMITS['sounds_harmful']:g}" in text
    assert "0.5 x the limits" in rule("utility", 0.03) and "+1.5" in rule("utility", 0.03)


def test_the_front_holds_what_nothing_beats_by_brute_force():
    rng = np.random.default_rng(1)
    made = [point(a, a, h) for a, h in rng.integers(0, 8, (60, 2)) / 8]
    found = numbered(made)
    assert [p.number for p in found] == [*range(1, 61)]
    for one in found:
        beaten = any(
            (o.place[0] > one.place[0] and o.place[1] <= one.place[1])
            or (o.place[0] >= one.place[0] and o.place[1] < one.place[1])
            for o in found
        )
        assert one.front != beaten


@pytest.mark.parametrize(
    ("epochs", "strengths", "keep", "best"),
    [
        ([], [0.2, 0.5, 0.5], "best", ("strengths", 1)),
        ([0.3, 0.6], [0.6, 0.1], "best", ("epochs", 1)),  # the first of equals stays
        ([0.9, 0.1], [0.2], "last", ("strengths", 0)),
        ([0.9, 0.3], [0.2], "last", ("epochs", 1)),
    ],
)
def test_what_was_kept_is_found_as_tuning_keeps_it(epochs, strengths, keep, best):
    lists = {
        "epochs": [{"score": value, "epoch": n} for n, value in enumerate(epochs)],
        "strengths": [{"score": value, "strength": n} for n, value in enumerate(strengths)],
    }
    found = kept_row(lists["epochs"], lists["strengths"], keep)
    assert found is lists[best[0]][best[1]]


def test_an_epoch_that_was_kept_is_a_point_without_a_strength(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"epoch": 0, "refusal_attack": 0}\n{"epoch": 1, "loss": 1}\n{"epoch": 2, "score": 0.7}\n'
    )
    (tmp_path / "strengths.jsonl").write_text('{"epoch": 2, "strength": 0.5, "score": 0.4}\n')
    found = points_of("c", {}, tmp_path, "best", ASKED)
    assert [(p.strength, p.kept) for p in found] == [(0.5, False), (None, True)]


def test_intervals_are_wilsons():
    found = point(0.25, 0.5, 0.0).rate("attack")
    oracle = stats.binomtest(10, 40).proportion_ci(method="wilson")
    assert found == pytest.approx((0.25, oracle.low, oracle.high), abs=1e-9)


def test_the_files_hold_every_point():
    made = numbered([point(0.5, 0.5, 0.0, kept=True), point(0.4, 0.4, 0.1, 0.5)])
    untuned = point(0.2, 0.2, 0.0, 0.0, cell="")
    picks = {name: pick(made, name, 0.03) for name in PICKS}
    lines = list(csv.DictReader(io.StringIO(csv_text([untuned, *made]))))
    assert [line["number"] for line in lines] == ["0", "1", "2"]
    assert lines[1]["neurons.safety"] == "9" and lines[1]["attack_n"] == "40"
    assert [line["front"] for line in lines[1:]] == ["1", "0"]
    table = rows(made, untuned, picks)
    assert head(made)[1] == "safety" and [len(line) for line in table] == [len(head(made))] * 2
    out = io.StringIO()
    Console(file=out, width=80).print(screen(made, untuned, picks))
    assert "…" not in out.getvalue() and "attacked" in out.getvalue()
    assert table[0][1] == "untuned" and "security, balanced, utility" in table[1][-1]
    assert "| untuned |" in page(made, untuned, picks, ["a rule"])
    assert plot(made, untuned, picks)[:4] == b"\x89PNG"


def test_points_of_an_earlier_version_without_nested_prompts_are_chosen_among():
    def old(*rates: float, **more: float) -> Point:
        made = point(*rates, **more)
        known = {name: v for name, v in made.rates.items() if "nested" not in name}
        return dataclasses.replace(made, rates=known)

    good, bad = old(0.5, 0.5, 0.0), old(0.9, 0.9, 0.0, refusal_attacked_harmless=0.4)
    assert pick([good, bad], "balanced", 0.03) is good
    assert good.rate("nested_harmless") is None and good.rate("attacked_harmless") is not None
