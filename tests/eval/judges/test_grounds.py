"""Which refusals of the phrase judge are arguable, and how many of each are right, as is said."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from nt_jax.eval.judges import phrases
from nt_jax.eval.judges.grounds import arguable
from nt_jax.eval.judges.phrase_judge import explain
from nt_jax.report import tables
from tests.eval.judges.test_phrase_judge import read
from tests.shared_data import SOURCES, needs_shared_data
from tests.test_docs import ROOT

ASKED = ("advbench", "oktest", "maliciousinstruct", "alpaca_eval", "or_bench_hard", "strongreject")


@pytest.mark.parametrize(
    ("rules", "doubtful"),
    [(phrases.REFUSES, False), (phrases.DISCLAIMS, True), (phrases.CONDEMNS, True)],
)
def test_what_decides_tells(rules, doubtful):
    assert {arguable("refusal", rule) for rule in rules} == {doubtful}
    assert not any(arguable(kind, rule) for kind in ("compliance", "partial") for rule in rules)


def test_a_verdict_without_a_reason_is_not():
    assert not arguable(None, None) and not arguable("refusal", "whole answer")


def right_of(rows: list[dict]) -> dict[bool, list[int]]:
    """Of refusals told outright (False) and of arguable ones (True): [right, all]."""
    counts = {False: [0, 0], True: [0, 0]}
    for row in rows:
        found = explain(row["request"], row["answer"])
        if found.kind == "refusal":
            ground = counts[arguable(found.kind, found.reason)]
            ground[0] += row["class"] == "refusal"
            ground[1] += 1
    return counts


def requests_by_hash() -> dict[str, str]:
    """The published requests, by the beginning of their sha256."""
    texts: list[str] = []
    for path in (Path(SOURCES[name]) for name in ASKED):
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as lines:
                texts += [text for row in csv.DictReader(lines) for text in row.values()]
        else:
            rows = [json.loads(line) for line in path.read_text().split("\n") if line]
            texts += [row["instruction"] for row in rows]
    return {hashlib.sha256(text.strip().encode()).hexdigest()[:16]: text for text in texts}


DOCUMENTS = " ".join((ROOT / "docs/evaluation.md").read_text().split())


def test_the_documents_say_how_many_are_right_without_requests():
    outright, doubtful = right_of(read("answers_untouched")).values()
    said = f"({doubtful[0]} of {doubtful[1]} and {outright[0]} of {outright[1]} without;"
    assert said in DOCUMENTS


@needs_shared_data
def test_the_documents_and_reports_say_how_many_are_right():
    known, rows = requests_by_hash(), read("answers_untouched")
    outright, doubtful = right_of(
        [row | {"request": known[row["request_sha256"]]} for row in rows]
    ).values()
    arguables, others = (f"{right} of {count}" for right, count in (doubtful, outright))
    assert f"{arguables} arguable refusals were judged right" in tables.ARGUABLE_RECORD
    assert f"and {others} others" in tables.ARGUABLE_RECORD
    assert f"{arguables} arguable ones in the untouched half" in DOCUMENTS
    assert f"and {others} others" in DOCUMENTS
