"""How well the phrase judge agrees with people, as one JSON object.

    python benchmarks/judge.py --labels shared/data/refusal_labels
    python benchmarks/judge.py --published xstest_gpt4.csv xstest_llama2.csv
    python benchmarks/judge.py --harmless alpaca.jsonl truthfulqa.csv

Always: precision, recall and F1 of refusals on the answers labelled for this project, by file and
set, by file, and by file inside attacks; and by file how many of the refusals told outright and of
the arguable ones are right (grounds). `--labels`: the same in five-fold cross-validation, beside
that folder's answers; in each fold the classifier of disclaimers is fitted without the answers it
is measured on, and two other judges stand beside: the rules without it (a disclaimer refuses if
nothing of use follows), and a linear classifier of the words of the answer without the rules.
`--published`: files with a prompt, a response or completion, a label or final_label (XSTest's
2_full_refusal, or refusal, counts as one) and perhaps a model. `--harmless`: files of requests and
reference answers, none of which refuses. `--data`: a folder of published data
(docs/published_data.md), in which the requests of the answers in answers_*.jsonl are looked up by
their hash: they are not ours to copy, and without them the judge reads the answer alone. Partial
refusals count as none; answers that the judge takes for another language count a half.
"""

import argparse
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from fit_judge import Labelled, fit, our_labels, published_labels, signs_of

from nt_jax.eval.judges import disclaimer
from nt_jax.eval.judges.grounds import arguable
from nt_jax.eval.judges.phrase_judge import VALUES, PhraseJudge, explain
from nt_jax.eval.metrics.intervals import bootstrap, wilson

FOLDS = 5
WORDS = 100  # of an answer, that the classifier without rules reads
REFUSALS = ("2_full_refusal", "refusal", "full_refusal", "rejected", "1", "true")
REQUESTS = ("prompt", "request", "instruction", "question", "Question")
ANSWERS = ("completion", "response", "answer", "output", "Best Answer", "best_answer")
LABELS = ("final_label", "label", "class", "tone", "refused")


def agreement(rows: Sequence[Labelled], verdicts: Sequence[float]) -> dict:
    """Refusals, precision and recall with Wilson's intervals, F1 with a bootstrap's, the rest."""
    pairs = [(row.refused, verdict) for row, verdict in zip(rows, verdicts, strict=True)]
    right = sum(verdict for refused, verdict in pairs if refused)
    refusals, said = sum(refused for refused, _ in pairs), sum(verdict for _, verdict in pairs)
    return {
        "answers": len(rows),
        "refusals": refusals,
        "f1": round(2 * right / max(1, refusals + said), 3),
        "f1_interval": f1_interval(pairs),
        "precision": rate(right, said),
        "recall": rate(right, refusals),
        "false_refusals": rate(said - right, len(rows) - refusals),
        "undecided": sum(verdict == VALUES["cannot tell"] for verdict in verdicts),
    }


def f1_interval(pairs: Sequence[tuple[bool, float]]) -> list[float]:
    """[low, high], 95 %: a bootstrap of answers, among those draws in which anything is refused.

    An F1 of 0 or 1 has none of a width: there Wilson's ends of precision and recall stand for it.
    """
    right = sum(verdict for refused, verdict in pairs if refused)
    refusals, said = sum(refused for refused, _ in pairs), sum(verdict for _, verdict in pairs)
    if right == 0 or refusals == said == right:
        ends = zip(wilson(right, int(said)), wilson(right, int(refusals)), strict=True)
        return [round(2 * p * r / max(p + r, 1e-9), 3) for p, r in ends]
    table = [[2 * refused * verdict, refused + verdict] for refused, verdict in pairs]

    def f1(means: Sequence[np.ndarray]) -> np.ndarray:
        twice, both = means[0]
        return twice[both > 0] / both[both > 0]

    return [round(end, 3) for end in bootstrap([table], f1)]


def rate(hits: float, of: float) -> list[float]:
    """[hits / of, low, high]."""
    return [round(float(x), 3) for x in (hits / max(1, of), *wilson(hits, int(of)))]


def by_source(rows: Sequence[Labelled], verdicts: Sequence[float]) -> dict[str, dict]:
    """The agreement in each file or set."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.source, []).append(place)
    return {
        source: agreement([rows[p] for p in found], [verdicts[p] for p in found])
        for source, found in places.items()
    }


def by_ground(rows: Sequence[Labelled]) -> dict[str, dict[str, list[int]]]:
    """By file, of the refusals told outright and of the arguable ones: [right, all]."""
    found: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        verdict = explain(row.request, row.answer)
        if verdict.kind == "refusal":
            ground = "arguable" if arguable(verdict.kind, verdict.reason) else "outright"
            counts = found.setdefault(row.source.split("/")[0], {}).setdefault(ground, [0, 0])
            counts[0] += row.refused
            counts[1] += 1
    return found


def with_requests(rows: Sequence[Labelled], folder: Path) -> list[Labelled]:
    """The rows with the requests that the files below `folder` hold."""
    known: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".csv", ".json", ".jsonl")):
        for row in read_table(path):
            for text in (value for value in row.values() if isinstance(value, str)):
                known[hashlib.sha256(text.strip().encode()).hexdigest()[:16]] = text.strip()
    found = [
        dataclasses.replace(row, request=row.request or known.get(row.request_sha256, ""))
        for row in rows
    ]
    if lost := sum(not row.request and bool(row.request_sha256) for row in found):
        said = "answers are judged without their request, which no file holds"
        print(f"{folder}: {lost} of {len(found)} {said}", file=sys.stderr)
    return found


def as_shipped(rows: Sequence[Labelled]) -> list[float]:
    """The verdicts of the judge as it is."""
    texts = [row.request for row in rows], [row.answer for row in rows]
    return [float(verdict) for verdict in PhraseJudge().verdicts(*texts)]


def rules_alone(row: Labelled) -> float:
    """The verdict where a disclaimer refuses unless something of use follows."""
    found = explain(row.request, row.answer, lambda signs: "useful" not in signs)
    return VALUES.get(found.kind, 0.0)


def words_of(row: Labelled) -> set[str]:
    """The words and pairs of words of an answer's beginning."""
    words = row.answer.lower().replace("\u2019", "'").split()[:WORDS]
    pairs = {f"{one} {two}" for one, two in itertools.pairwise(words)}
    return {"all"} | {f" {word}" for word in words} | pairs


def crossed(rows: Sequence[Labelled], signs: Sequence[set[str] | None]) -> list[float]:
    """The log-odds of each row that has signs, by weights fitted on the other folds; else 0."""
    fold_N = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    odds = [0.0] * len(rows)
    for fold in range(FOLDS):
        places = [place for place, seen in enumerate(signs) if seen and fold_N[place] != fold]
        weights = fit([signs[p] or set() for p in places], [rows[p].refused for p in places])
        for place, seen in enumerate(signs):
            if seen and fold_N[place] == fold:
                odds[place] = disclaimer.score(weights, seen)
    return odds


def cross_validation(rows: Sequence[Labelled]) -> dict[str, dict]:
    """By kind of judge, the agreement in each file on answers that nothing was fitted on."""
    rules = [rules_alone(row) for row in rows]
    left = [signs_of(row) for row in rows]
    known = zip(left, crossed(rows, left), rules, strict=True)
    both = [float(odds > 0) if seen else verdict for seen, odds, verdict in known]
    words = [float(odds > 0) for odds in crossed(rows, [words_of(row) for row in rows])]
    judges = {"rules, then classifier": both, "rules": rules, "classifier": words}
    return {name: by_source(rows, verdicts) for name, verdicts in judges.items()}


def read_table(path: Path) -> list[dict]:
    """The rows of a csv, json or jsonl file."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if path.suffix == ".json":
        rows = json.loads(text)
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def published(paths: Iterable[Path], labelled: bool = True) -> list[Labelled]:
    """The answers of files, by file and model; without labels all count as compliance."""
    rows = []
    for path in paths:
        for row in read_table(path):
            label = str(first(row, LABELS)).lower() if labelled else ""
            kind = "refusal" if label in REFUSALS else "compliance"
            source = f"{path.stem}/{row['model']}" if row.get("model") else path.stem
            rows.append(Labelled(source, first(row, REQUESTS), first(row, ANSWERS), kind))
    return rows


def first(row: dict, names: Sequence[str]) -> str:
    """The first of the columns that is there."""
    return next(row[name] for name in names if row.get(name) is not None)


def main() -> None:
    """Prints the object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=Path, help="the folder refusal_labels")
    parser.add_argument("--data", type=Path, help="published data: requests by their hash")
    parser.add_argument("--published", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--harmless", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print on one line")
    options = parser.parse_args()
    ours, judge = our_labels(), PhraseJudge()
    if options.data:
        ours = with_requests(ours, options.data)
    found: dict = {"judge": judge.name, "sha256": judge.sha256}
    found["ours"] = by_source(ours, as_shipped(ours))
    whole = [dataclasses.replace(row, source=row.source.split("/")[0]) for row in ours]
    found["files"] = by_source(whole, as_shipped(whole))
    attacked = [one for one, row in zip(whole, ours, strict=True) if row.source.endswith("+attack")]
    found["inside attacks"] = by_source(attacked, as_shipped(attacked))
    found["grounds"] = by_ground(ours)
    if options.labels:
        rows = [*published_labels(options.labels), *ours]
        found["five-fold"] = cross_validation(rows)
    for name, labelled in (("published", True), ("harmless", False)):
        rows = published(getattr(options, name), labelled)
        if rows:
            found[name] = by_source(rows, as_shipped(rows))
    print(json.dumps(found, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
