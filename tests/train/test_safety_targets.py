"""One source of refusals a run: the data's, the model's own, or the shipped."""

import dataclasses
import json

import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.records import HarmfulRequest
from nt_jax.data.shipped import shipped_refusal
from nt_jax.data.training import Records, read_records
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.train.own_answers import attacked_safety_pairs, own_pools, safety_pairs
from nt_jax.train.safety_targets import (
    FILE,
    SafetyTargets,
    refusals_only,
    settle,
    usable,
)
from tests.data.test_attacks import safe_edit_data
from tests.data.test_training import RECORDS
from tests.train.test_own_answers import EOS, TUNE, scripted, written

NO, CRIME = "I'm sorry, but I can't help with that.", "It lies on the Seine."
JUDGE = PhraseJudge()


def train(*answers: str | None) -> Records:
    rows = [HarmfulRequest(f"h{n}", f"harm {n}", text) for n, text in enumerate(answers)]
    return dataclasses.replace(RECORDS, harmful=rows)


@pytest.mark.parametrize(
    ("answers", "refused", "source"),
    [
        ([NO] * 50 + [CRIME] * 30 + [None] * 20, None, "given"),
        ([NO] * 8, None, "given"),  # few, but none is missing
        ([NO] * 7 + [None], 8, "self"),  # all that there are
        ([NO] * 49 + [CRIME] * 51, 50, "self"),
        ([NO] * 49 + [CRIME] * 51, 49, "shipped"),
        ([None] * 100, 49, "shipped"),
        ([None] * 8, 7, "shipped"),
    ],
)
def test_auto_takes_the_first_source_that_refuses_often_enough(answers, refused, source):
    rows = train(*answers)
    early = settle(JUDGE, rows, "auto", None)
    assert (early.source if early else None) == ("given" if source == "given" else None)
    if refused is not None:
        late = settle(JUDGE, rows, "auto", [n < refused for n in range(len(answers))])
        given, stated = answers.count(NO), len(answers) - answers.count(None)
        assert late is not None and late.source == source
        assert late.why == (
            f"{given} of {stated} given answers refuse, "
            f"the model refused {refused} of {len(answers)}"
        )
        assert set(late.refusals) == (
            {r.request for r in rows.harmful} if source == "shipped" else set()
        )


def test_rows_that_do_not_refuse_go_where_the_data_are_learned_and_stay_elsewhere():
    many = train(*[NO] * 50, *[CRIME] * 30, *[None] * 20)
    left = usable(JUDGE, many, "auto")
    assert left.harmful == many.harmful[:50]
    again = settle(JUDGE, left, "auto", None)  # what a stage finds in the records of a run
    assert again is not None and again.source == "given" and usable(JUDGE, left, "auto") == left
    few = train(*[NO] * 10, CRIME, None)
    for wanted in ("auto", "given", "self", "shipped"):
        assert usable(JUDGE, few, wanted) == few
    assert len(usable(JUDGE, few, "refusals").harmful) == 11


def test_the_demo_learns_what_it_always_learned():
    before = read_records()["train"]
    assert usable(JUDGE, before, "auto") == refusals_only(JUDGE, before)
    assert len(usable(JUDGE, before, "auto").harmful) >= 50
    settled = settle(JUDGE, usable(JUDGE, before, "auto"), "auto", None)
    assert settled is not None and settled.source == "given"


def test_shipped_refusals_are_learned_where_nobody_refuses(tmp_path):
    texts = {f"ask {n}": "Sure." for n in range(3)} | {f"harm {n}": "Sure." for n in range(3)}
    texts |= dict.fromkeys(RECORDS.attacked(["ask 0", "ask 2"]), "Sure.")
    model, bare = scripted(texts), train(None, None, None)
    own = written(model, tmp_path, bare, DataConfig())
    targets = SafetyTargets.read(tmp_path)
    assert targets.source == "shipped" and targets.why.endswith("the model refused 0 of 3")
    pairs = safety_pairs(model, bare, own, targets)
    expected = [shipped_refusal(f"harm {n}") for n in range(3)]
    assert [bytes(pair.answer[:-1]).decode() for pair in pairs] == expected


@pytest.mark.parametrize("wanted", ["auto", "refusals", "given", "self", "shipped"])
def test_where_an_opening_is_learned_no_other_source_counts(wanted):
    tune = TuneConfig(opening="No, never")
    found = settle(JUDGE, train(NO, CRIME, None), wanted, None, tune)
    assert found == SafetyTargets("opening", "'No, never'", opening="No, never")
    whole = settle(JUDGE, train(NO, CRIME, None), "shipped", None, TuneConfig(target="answer"))
    assert whole is not None and whole.opening == ""


def test_a_stage_reads_the_source_that_was_settled_and_no_other(tmp_path):
    texts = {f"ask {n}": "Sure." for n in range(3)} | {f"harm {n}": "No." for n in range(3)}
    texts |= dict.fromkeys(RECORDS.attacked(["ask 0", "ask 2"]), "Sure.")
    model, bare = scripted(texts), train(None, None, None)
    written(model, tmp_path, bare, DataConfig())
    assert SafetyTargets.read(tmp_path).source == "self"
    made = own_pools(model, bare, tmp_path, DataConfig(), TUNE)
    learned = [*made.local_safety.direct, *made.global_safety.direct]
    assert [pair.answer for pair in learned] == [[*b"No.", EOS]] * 3
    facts = json.loads((tmp_path / FILE).read_text())
    facts |= {"source": "shipped", "refusals": {f"harm {n}": f"N{n}" for n in range(3)}}
    (tmp_path / FILE).write_text(json.dumps(facts))
    made = own_pools(model, bare, tmp_path, DataConfig(), TUNE)
    learned = [*made.local_safety.direct, *made.global_safety.direct]
    assert sorted(pair.answer for pair in learned) == [[*f"N{n}".encode(), EOS] for n in range(3)]


# ---- attacks that records hold


@pytest.mark.parametrize("choice", ["records", "both"])
def test_local_and_global_sets_share_neither_attacks_nor_requests(tmp_path, choice):
    records = read_records(safe_edit_data(tmp_path, attacks=choice))["train"]
    asked = [row.request for row in records.harmless]
    model = scripted(dict.fromkeys([*asked, *records.attacked(asked[::2])], "Sure."))
    written(model, tmp_path, records, DataConfig())
    pools = own_pools(model, records, tmp_path, DataConfig(), TUNE)
    local, outer = pools.local_safety, pools.global_safety
    for name in ("attack", "about"):
        mine, theirs = ({getattr(p, name) for p in pool.attacked} for pool in (local, outer))
        assert mine and theirs and not mine & theirs
    for pool in (local, outer):
        assert {p.about for p in pool.attacked} <= {p.request for p in pool.direct}
        assert all(p.about in p.request != p.about for p in pool.attacked)
        held = [p for p in pool.attacked if p.attack in {row.attack for row in records.paired}]
        assert len(held) * (2 if choice == "both" else 1) == len(pool.attacked)
        given = {row.attacked: row.refusal for row in records.paired}
        assert all(p.answer == model.answer_ids(given[p.request]) for p in held)
    assert not {p.request for p in local.direct} & {p.request for p in outer.direct}


def test_a_request_keeps_a_safe_answer_that_refuses_though_its_first_one_does_not(tmp_path):
    records = read_records(safe_edit_data(tmp_path))["train"]
    first = dataclasses.replace(records.paired[0], refusal=CRIME)
    mixed = dataclasses.replace(
        records, harmful=[first, *records.harmful[1:]], paired=[first, *records.paired[1:]]
    )
    left = refusals_only(JUDGE, mixed)
    assert {r.request for r in left.harmful} == {r.request for r in records.harmful}
    assert len(left.paired) == len(records.paired) - 1
    assert all(row.refusal != CRIME for row in (*left.harmful, *left.paired))
    targets = SafetyTargets("given")
    pairs = attacked_safety_pairs(scripted(), left, {}, targets)
    assert len(pairs) == len(left.paired) and {p.attack for p in pairs} == {
        r.attack for r in left.paired
    }
