"""The model's own answers: what is kept of them, and the targets that are made of them."""

import collections
import dataclasses
import json
import types

import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.training import Records
from nt_jax.errors import DataError, RunError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.train.own_answers import (
    own_pools,
    read_own_answers,
    safety_pairs,
    utility_pairs,
    write_own_answers,
)
from nt_jax.train.pools import Pair
from nt_jax.train.safety_targets import GIVEN, SafetyTargets, refusals_only
from tests.data.test_training import RECORDS, TEMPLATES, encode

EOS = 2
TUNE = TuneConfig(answer_tokens=4, metric_requests=0)
DATA, SELF = DataConfig(safety_targets="given"), DataConfig(safety_targets="self")


def scripted(answers=None):
    """A chat model without weights: one token a character, answers by request."""
    texts = {} if answers is None else answers
    return types.SimpleNamespace(
        eos_id=EOS,
        encode=encode,
        answer_ids=lambda text: [*text.encode(), EOS],
        text=lambda ids: bytes(ids).decode(),
        answer=lambda asked, width, label, openings=None: [
            [*texts[text].encode()][:width] for text in asked
        ],
    )


def written(model, folder, train=RECORDS, data=DATA, **changes):
    """The own answers of `model` to `train`, through their file."""
    tune = TUNE.model_copy(update=changes)
    write_own_answers(model, PhraseJudge(), train, data, tune, folder)
    return read_own_answers(folder, EOS)


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


# --- the model's own answers ---------------------------------------------------------------------

ASKED = [f"ask {n}" for n in range(3)] + RECORDS.attacked(["ask 0", "ask 2"])


def test_own_answers_are_kept_with_their_verdict_and_end(tmp_path):
    answers = dict.fromkeys(ASKED, "Sure, why not.") | {"ask 1": "No.", "ask 2": ""}
    own = written(scripted(answers), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "own_answers.jsonl").read_text().splitlines()]
    assert [row["set"] for row in rows] == ["harmless"] * 3 + ["attacked"] * 2
    useful, refused = own["harmless"]
    assert useful == [Pair("ask 0", [*b"Sure"])]  # cut at four tokens, so no end is to be learned
    assert refused == [Pair("ask 1", [*b"No.", EOS])]  # and an empty answer is none at all
    assert len(own["attacked"][0]) == 2


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
    model = scripted(dict.fromkeys([*ASKED, *(f"harm {n}" for n in range(3))], "No."))
    own = written(model, tmp_path, data=SELF)
    targets = SafetyTargets.read(tmp_path)
    pairs = safety_pairs(model, RECORDS, own, targets)
    assert pairs == [Pair(f"harm {n}", [*b"No.", EOS]) for n in range(3)]
    with pytest.raises(DataError, match="refused 0 of 3"):
        safety_pairs(model, RECORDS, {"harmful": (pairs, [])}, targets)


def test_refusals_of_harmless_requests_open_like_the_safety_targets(tmp_path):
    model = scripted(dict.fromkeys(ASKED, "Sure."))
    own = written(model, tmp_path, metric_requests=3)
    useful, _ = own["harmless"]
    found = [pair.declined for pair in useful]
    assert found == [[*b"No S"], [*b"No S"], []]  # three tokens of "No 0.", then the model's own
    attacked, _ = own["attacked"]
    assert [pair.declined for pair in attacked] == [[*b"No S"], []]


def test_refusals_of_harmless_requests_open_like_the_models_own_where_it_learns_those(tmp_path):
    harm = {f"harm {n}": "No!" if n == 1 else "Sure." for n in range(3)}
    model = scripted(dict.fromkeys(ASKED, "Sure.") | harm)
    rows = [dataclasses.replace(row, refusal=None) for row in RECORDS.harmful]
    train = dataclasses.replace(RECORDS, harmful=rows)
    useful, _ = written(model, tmp_path, train, SELF, metric_requests=2)["harmless"]
    assert [pair.declined for pair in useful if pair.declined] == [[*b"No!S"]] * 2


def test_a_preconditioner_without_refusals_to_begin_with_is_refused(tmp_path):
    model = scripted(dict.fromkeys([f"ask {n}" for n in range(3)], "Sure."))
    bare = dataclasses.replace(RECORDS, harmful=[HarmfulRequest("h9", "harm", None, "")])
    with pytest.raises(
        DataError, match=r"no training row of data\.harmful has a refusal .*metric_requests=3"
    ):
        written(model, tmp_path, bare, metric_requests=3, attacked_harmless_fraction=0.0)
    assert not (tmp_path / "own_answers.jsonl").exists()


@pytest.mark.parametrize("text", ["{", '{"set": "harmless"}\n', None])
def test_damaged_own_answers_say_what_to_delete(tmp_path, text):
    if text is not None:
        (tmp_path / "own_answers.jsonl").write_text(text)
    with pytest.raises(RunError, match=r"own_answers\.jsonl is damaged .* Delete its folder"):
        read_own_answers(tmp_path, EOS)


def test_targets_from_the_data():
    model, given = scripted(), DataConfig(utility_targets="given")
    assert utility_pairs(model, RECORDS, {}, given) == [
        Pair("ask 1", [*b"Yes 1.", EOS]), Pair("ask 2", [*b"Yes 2.", EOS])
    ]  # fmt: skip
    own = {"harmless": ([], [Pair("ask 2", [9, EOS], declined=[7, 8])])}
    assert [p.declined for p in utility_pairs(model, RECORDS, own, given)] == [[], [7, 8]]
    targets = SafetyTargets(GIVEN)
    assert safety_pairs(model, RECORDS, {}, targets)[1] == Pair("harm 1", [*b"No 1.", EOS])
    bare = dataclasses.replace(RECORDS, harmful=[HarmfulRequest("h9", "harm", None, "")])
    with pytest.raises(DataError, match=r"1 of 1 training rows have no refusal \(first: h9\)"):
        safety_pairs(model, bare, {}, targets)
    none = dataclasses.replace(RECORDS, harmless=[HarmlessRequest("u9", "ask", None, False)])
    with pytest.raises(DataError, match="no harmless training row has an answer"):
        utility_pairs(model, none, {}, given)
