"""The model's own answers: what is kept of them, and the targets that are made of them."""

import collections
import dataclasses
import json
import types
from unittest import mock

import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.openings import TOKENS
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.training import Records
from nt_jax.errors import DataError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.train import own_answers
from nt_jax.train.own_answers import (
    ATTACKED_SHARE,
    cut_opening,
    own_pools,
    read_own_answers,
    safety_pairs,
    utility_pairs,
    write_own_answers,
)
from nt_jax.train.pools import Pair
from nt_jax.train.safety_targets import (
    GIVEN,
    OPENING,
    SafetyTargets,
    refusals_only,
    settle,
    usable,
)
from tests.data.test_training import RECORDS, TEMPLATES, encode

EOS = 2
TUNE = TuneConfig(answer_tokens=4, target="answer")
DATA, SELF = DataConfig(safety_targets="given"), DataConfig(safety_targets="self")


def scripted(answers=None, after=None):
    """A chat model without weights: one token a character, answers by request.

    `after`: what it goes on with where words of its answer are given; `asked` is who was asked so.
    """
    texts, more, asked_again = {} if answers is None else answers, after or {}, []

    def own_answers(asked, width, label=None, *, openings=None):
        if openings is None:
            return [[*texts[text].encode()][:width] for text in asked]
        asked_again.extend(zip(asked, map(bytes, openings), [width] * len(asked), strict=True))
        return [[*more[text].encode()][:width] for text in asked]

    return types.SimpleNamespace(
        eos_id=EOS,
        encode=encode,
        answer_ids=lambda text: [*text.encode(), EOS],
        text=lambda ids: bytes(ids).decode(),
        answer_text=lambda ids: bytes(ids).decode(),
        own_answers=own_answers,
        asked_again=asked_again,
    )


def written(model, folder, train=RECORDS, data=DATA, **changes):
    """The own answers of `model` to `train`, through their file."""
    tune = TUNE.model_copy(update=changes)
    write_own_answers(model, PhraseJudge(), train, data, tune, folder)
    return read_own_answers(folder, EOS)


def test_answers_inside_attacks_are_judged_by_the_request_in_them(tmp_path):
    seen = []

    class Listening(PhraseJudge):
        def verdicts(self, requests, answers):
            seen.extend(requests)
            return super().verdicts(requests, answers)

    bare = [record.prompt for record in RECORDS.harmless]
    inside = RECORDS.attacked(bare[::ATTACKED_SHARE])
    model = scripted(dict.fromkeys([*bare, *inside], "Yes."))
    tune = TUNE.model_copy(update={"attacked_harmless_fraction": 0.5})
    write_own_answers(model, Listening(), RECORDS, DATA, tune, tmp_path)
    assert seen[-len(bare) - len(inside) :] == bare + bare[::ATTACKED_SHARE]


def own_file(folder) -> None:
    """The files of the model's own answers to the harmless requests of RECORDS."""
    written(scripted(dict.fromkeys(ASKED, "Bread.")), folder)


# --- what is learned as a refusal -----------------------------------------------------------------


def harmful(*answers: str | None) -> Records:
    rows = [HarmfulRequest(f"h{n}", f"harm {n}", text, "") for n, text in enumerate(answers)]
    return dataclasses.replace(RECORDS, harmful=rows)


def test_of_the_given_answers_those_that_refuse_are_learned():
    judge = PhraseJudge()
    sorry, crime = "I'm sorry, but I can't help with that.", "Paris lies on the Seine."
    kept = refusals_only(judge, harmful(sorry, crime, None, sorry))
    assert [row.id for row in kept.harmful] == ["h0", "h2", "h3"]  # one without answer stays
    assert kept.harmless == RECORDS.harmless and kept.templates == TEMPLATES
    with pytest.raises(DataError, match=r"of 3 safe answers .* 1 for refusals .*: row h1\)"):
        refusals_only(judge, harmful(sorry, crime, crime))
    assert usable(judge, harmful(sorry, crime, crime), "auto").harmful  # as advised


# --- the model's own answers ---------------------------------------------------------------------

ASKED = [f"ask {n}" for n in range(3)] + RECORDS.attacked(["ask 0", "ask 2"])


def test_a_write_that_is_interrupted_leaves_no_file_that_looks_whole(tmp_path, monkeypatch):
    lines = mock.Mock(side_effect=["{}", KeyboardInterrupt])
    monkeypatch.setattr(own_answers, "json", types.SimpleNamespace(dumps=lines))
    with pytest.raises(KeyboardInterrupt):
        own_file(tmp_path)
    assert lines.call_count == 2 and not (tmp_path / own_answers.FILE).exists()


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "own_answers.jsonl").read_text().splitlines()]


def test_own_answers_are_kept_with_their_verdict_end_and_attack(tmp_path):
    answers = dict.fromkeys(ASKED, "Sure, why not.") | {"ask 0": "Yes.", "ask 2": ""}
    own = written(scripted(answers), tmp_path, answer_tokens=5)
    assert [row["set"] for row in rows_of(tmp_path)] == ["harmless"] * 3 + ["attacked"] * 2
    useful, refused = own["harmless"]
    # Cut at five tokens, so no end is to be learned; and an empty answer is none at all.
    assert useful == [Pair("ask 0", [*b"Yes.", EOS]), Pair("ask 1", [*b"Sure,"])]
    assert refused == []
    around = {template.id: template for template in TEMPLATES}
    for pair, asked in zip(own["attacked"][0], ("ask 0", "ask 2"), strict=True):
        assert around[pair.attack].apply(asked) == pair.request
    assert len({pair.attack for pair in own["attacked"][0]}) == 2


def test_harmless_requests_that_are_refused_are_asked_again_after_words_of_consent(tmp_path):
    refused = [ASKED[1], ASKED[2], ASKED[3]]
    said = {ASKED[1]: " it is bread.", ASKED[2]: " but I can't help with that.", ASKED[3]: " so"}
    answers = dict.fromkeys(ASKED, "Bread.") | dict.fromkeys(refused, "I can't help with that.")
    model = scripted(answers, said)
    own = written(model, tmp_path, answer_tokens=40)
    assert model.asked_again == [(text, b"Sure,", 40 - len(b"Sure,")) for text in refused]
    useful, still = own["harmless"]
    assert useful == [
        Pair(ASKED[0], [*b"Bread.", EOS]), Pair(ASKED[1], [*b"Sure, it is bread.", EOS])
    ]  # fmt: skip
    assert still == [Pair(ASKED[2], [*b"Sure, but I can't help with that.", EOS])]
    assert own["attacked"][0][0].answer == [*b"Sure, so", EOS]
    short = scripted(answers, said)  # the words of consent count among the answer's tokens
    written(short, tmp_path, answer_tokens=23)
    (found,) = (row for row in rows_of(tmp_path) if row["request"] == ASKED[1])
    assert (bytes(found["answer"]), found["ended"]) == (b"Sure, it is bread.", True)


def test_refused_harmful_requests_are_never_asked_again(tmp_path):
    model = scripted(dict.fromkeys(ASKED, "Bread.") | {f"harm {n}": "No." for n in range(3)})
    written(model, tmp_path, data=SELF)
    assert model.asked_again == []


@pytest.mark.parametrize(("share", "local"), [(0.05, 1), (0.25, 3), (0.5, 5)])
def test_the_inner_loop_keeps_the_share_of_the_data_it_was_given(share, local, tmp_path):
    train = Records(
        [HarmfulRequest(f"h{n}", f"harm {n}", "No.", "") for n in range(10)],
        [HarmlessRequest(f"u{n}", f"ask {n}", "Yes.") for n in range(10)],
        [AttackTemplate(f"t{n}", f"{n} says {{request}}", ()) for n in range(10)],
    )
    model = scripted(collections.defaultdict(lambda: "Yes."))
    tune = TUNE.model_copy(update={"local_fraction": share})
    write_own_answers(model, PhraseJudge(), train, DATA, tune, tmp_path)
    made = own_pools(model, train, tmp_path, DATA, tune)
    assert len(made.local_safety.direct) == len(made.local_safety.templates) == local
    assert len(made.global_safety.direct) == len(made.global_safety.templates) == 10 - local
    assert len(made.local_utility.direct) == local
    assert len(made.global_utility.direct) == 10 - local


def test_refusals_of_harmful_requests_are_asked_for_only_where_they_are_targets(tmp_path):
    harm = [f"harm {n}" for n in range(3)]
    model = scripted(dict.fromkeys(ASKED, "Yes.") | dict.fromkeys(harm, "No."))
    assert "harmful" not in written(model, tmp_path)
    own = written(model, tmp_path, data=SELF)
    targets = SafetyTargets.read(tmp_path)
    pairs = safety_pairs(model, RECORDS, own, targets)
    assert pairs == [Pair(f"harm {n}", [*b"No.", EOS]) for n in range(3)]
    answering = scripted(dict.fromkeys([*ASKED, *harm], "Yes."))
    own = written(answering, tmp_path, data=SELF)
    with pytest.raises(DataError, match=r"refused 0 of 3\. Leave it at auto"):
        safety_pairs(answering, RECORDS, own, SafetyTargets.read(tmp_path))
    own = written(answering, tmp_path, data=DataConfig())
    assert len(safety_pairs(answering, RECORDS, own, SafetyTargets.read(tmp_path))) == 3


def test_refusals_that_are_wanted_and_missing_are_named_before_the_model_is_asked(tmp_path):
    bare = dataclasses.replace(RECORDS, harmful=[HarmfulRequest("h9", "harm", None, "")])
    with pytest.raises(DataError, match=r"given with tune\.target=answer, .* has a refusal"):
        written(scripted(), tmp_path, bare)
    assert not (tmp_path / "own_answers.jsonl").exists()
    model = scripted(dict.fromkeys(ASKED, "Yes."))  # both left at their defaults, as advised
    own = written(model, tmp_path, bare, DataConfig(), target="opening")
    (pair,) = safety_pairs(model, bare, own, SafetyTargets.read(tmp_path))
    assert pair.request == "harm" and pair.answer


def test_one_opening_is_learned_everywhere_and_nobody_is_asked_for_refusals(tmp_path):
    rows = [HarmfulRequest(f"h{n}", f"harm {n}", None, "") for n in range(11)]
    train = dataclasses.replace(RECORDS, harmful=rows)
    model = scripted(dict.fromkeys(ASKED, "Yes."))
    own = written(model, tmp_path, train, DataConfig(), target="opening", opening="No way, Jose!")
    targets = SafetyTargets.read(tmp_path)
    assert (targets.source, targets.opening) == (OPENING, "No way, Jose!") and "harmful" not in own
    pairs = safety_pairs(model, train, own, targets)
    assert [pair.request for pair in pairs] == [row.prompt for row in rows]
    expected = [list(b"No way, Jose!")[:TOKENS]] * 11
    assert [pair.answer for pair in pairs] == expected  # and no end: the rest is the model's own
    told = [cut_opening(model, text, 99) for text in ("No way, Jose!", "No way, Joe")]
    assert told == ["No way, Jose", ""] and cut_opening(model, "Never", 3) == "Nev"


def test_targets_from_the_data():
    model, given = scripted(), DataConfig(utility_targets="given")
    assert utility_pairs(model, RECORDS, {}, given) == [
        Pair("ask 1", [*b"Yes 1.", EOS]), Pair("ask 2", [*b"Yes 2.", EOS])
    ]  # fmt: skip
    targets = SafetyTargets(GIVEN)
    assert safety_pairs(model, RECORDS, {}, targets)[1] == Pair("harm 1", [*b"No 1.", EOS])
    bare = dataclasses.replace(RECORDS, harmful=[HarmfulRequest("h9", "harm", None, "")])
    said = (
        r"1 of 1 training rows have no refusal \(first: h9\)\. Leave data\.safety_targets at auto"
    )
    with pytest.raises(DataError, match=said):
        safety_pairs(model, bare, {}, targets)
    at_auto = settle(PhraseJudge(), bare, "auto", [False])
    assert at_auto is not None and len(safety_pairs(model, bare, {}, at_auto)) == 1
    none = dataclasses.replace(RECORDS, harmless=[HarmlessRequest("u9", "ask", None, False)])
    with pytest.raises(DataError, match=r"no harmless .* or set data\.utility_targets=self"):
        utility_pairs(model, none, {}, given)
    own = {"harmless": ([Pair("ask", [7, EOS])], [])}
    assert utility_pairs(model, none, own, DataConfig(utility_targets="self"))
