"""Fits the phrase judge's classifier of disclaimers (nt_jax/eval/judges/disclaimer.json).

    python benchmarks/fit_judge.py --labels shared/data/refusal_labels

It learns from that folder's *.jsonl (prompt, response, tone: "rejected" against "complied"; MIT)
and from the answers labelled for this project, tests/eval/judges/*.jsonl; only from those that the
rules leave open. A logistic regression with an L2 penalty on presence of signs and words.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import optimize, sparse

from nt_jax.eval.judges import disclaimer
from nt_jax.eval.judges.phrase_judge import explain

OURS = Path(__file__).resolve().parents[1] / "tests" / "eval" / "judges"
FITTED_ON = ("labelled_answers", "real_answers", "written_answers")  # others only measure
PENALTY = 0.5
RARE_WORD, RARE_SIGN = 15, 5  # what fewer answers have is not learned
LEAN = 0.5  # added to the log-odds: a disclaimer that is a refusal is the rarer and costs more
KINDS = {"rejected": True, "complied": False}


@dataclass(frozen=True)
class Labelled:
    """One answer that people labelled."""

    source: str
    request: str
    answer: str
    kind: str  # refusal, partial, compliance, ...
    request_sha256: str = ""  # its beginning, where the request itself may not stand here

    @property
    def refused(self) -> bool:
        """Whether they took it for a refusal."""
        return self.kind == "refusal"


def our_labels() -> list[Labelled]:
    """The answers labelled for this project, by file and set, other languages left out."""
    rows = []
    for path in sorted(OURS.glob("*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            old = "refusal" if row.get("refused") else "compliance"
            source = f"{path.stem}/{row['set']}" if "set" in row else path.stem
            rows.append(
                Labelled(
                    source,
                    row.get("request", ""),
                    row["answer"],
                    row.get("class") or row.get("label") or old,
                    row.get("request_sha256", ""),
                )
            )
    return [row for row in rows if row.kind not in ("cannot tell", "other")]


def published_labels(folder: Path) -> list[Labelled]:
    """The answers of refusal_labels that people took for rejecting or complying."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if row["tone"] in KINDS:
                kind = "refusal" if KINDS[row["tone"]] else "compliance"
                rows.append(Labelled("refusal_labels", row["prompt"], row["response"], kind))
    return rows


def signs_of(row: Labelled) -> set[str] | None:
    """What the classifier would see of an answer; None where the rules decide."""
    seen: list[set[str]] = []
    explain(row.request, row.answer, lambda signs: bool(seen.append(signs)))
    return seen[-1] if seen else None


def fit(signs: Sequence[set[str]], refused: Sequence[bool]) -> dict[str, float]:
    """The weights by sign."""
    counts = Counter(sign for row in signs for sign in row)
    learned = (s for s, n in counts.items() if n >= (RARE_WORD if s[0] == "'" else RARE_SIGN))
    column = {sign: number for number, sign in enumerate(sorted(learned))}
    places = [[column[sign] for sign in sorted(row) if sign in column] for row in signs]
    values = [1 / max(1, len(row)) ** 0.5 for row in places for _ in row]
    starts = np.cumsum([0, *map(len, places)])
    columns = [place for row in places for place in row]
    x_NS = sparse.csr_matrix((values, columns, starts), shape=(len(signs), len(column)))
    y_N = np.array(refused, np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds_N = x_NS @ weights[:-1] + weights[-1]
        value = (
            np.logaddexp(0, odds_N).sum() - y_N @ odds_N + PENALTY / 2 * (weights[:-1] ** 2).sum()
        )
        error_N = 1 / (1 + np.exp(-odds_N)) - y_N
        return value, np.append(x_NS.T @ error_N + PENALTY * weights[:-1], error_N.sum())

    found = optimize.minimize(loss, np.zeros(len(column) + 1), jac=True, method="L-BFGS-B").x
    weights = {sign: round(float(found[place]), 3) for sign, place in column.items()}
    return weights | {"bias": round(float(found[-1]) + LEAN, 3)}


def main() -> None:
    """Writes the weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=Path, required=True, help="the folder refusal_labels")
    parser.add_argument("--out", type=Path, default=disclaimer.WEIGHTS)
    options = parser.parse_args()
    rows = [*published_labels(options.labels), *our_labels()]
    rows = [row for row in rows if row.source in ("refusal_labels", *FITTED_ON)]
    signs = [signs_of(row) for row in rows]
    left = [(seen, row.refused) for seen, row in zip(signs, rows, strict=True) if seen is not None]
    weights = fit(*zip(*left, strict=True))
    options.out.write_text(json.dumps(weights, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(
        json.dumps({"answers": len(rows), "left by the rules": len(left), "weights": len(weights)})
    )


if __name__ == "__main__":
    main()
