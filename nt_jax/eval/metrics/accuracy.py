"""General ability: accuracy on choice questions, and the average of the paper's Table 3."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nt_jax.eval.metrics import entropy, intervals
from nt_jax.eval.metrics.rows import BASE, Answer, ResultRow, in_order

Choice = Mapping[str, Any]
ACCURACIES = {"letter": "letter_accuracy", "parsed": "generate_accuracy"}


def choice_rows(choices: Sequence[Choice]) -> list[ResultRow]:
    """Accuracies per dataset and model, with the paired test against the base model.

    A record has dataset, id, model, key and, where measured, letter (the likeliest letter's number)
    and answer with parsed (the number read from it, None where none was: that is wrong).
    """
    groups: dict[tuple[str, str], list[Choice]] = {}
    for row in choices:
        groups.setdefault((row["dataset"], row["model"]), []).append(row)
    rows = []
    for (dataset, model), group in groups.items():
        for field, metric in ACCURACIES.items():
            measured = [row for row in group if field in row]
            if not measured:
                continue
            rows.append(_rate(dataset, metric, model, [r[field] == r["key"] for r in measured]))
            base = {row["id"]: row for row in groups.get((dataset, BASE), ()) if field in row}
            pairs = [(base[row["id"]], row) for row in measured if row["id"] in base]
            if pairs and model != BASE:
                sides = [[pair[n][field] == pair[n]["key"] for pair in pairs] for n in (0, 1)]
                p = intervals.mcnemar(*sides)
                rows.append(ResultRow(dataset, f"{metric}_mcnemar_p", model, p, len(pairs)))
        answered = [row for row in group if "answer" in row]
        if answered:
            rows.append(
                _rate(dataset, "unparsed_rate", model, [r["parsed"] is None for r in answered])
            )
    return rows


def average_row(
    model: str,
    choices: Sequence[Choice],
    harmful: Sequence[Answer],
    harmless: Sequence[Answer],
    seed: int = 0,
) -> ResultRow:
    """Table 3's average of one model: (accuracy in % + fluency + entropy in bits) / 3.

    Fluency is the n-gram entropy, mean of both sets; entropy the *sum* of both sets' unigram
    entropies, as printed there (12.909 = 6.832 + 6.077). Accuracy is that of written answers, which
    alone can be the paper's 0.00 %, where there are any; else by letter likelihood.
    """
    kind = next(name for name in ("parsed", "letter") if name in choices[0])
    right = np.array([[row[kind] == row["key"]] for row in choices], dtype=np.float64)
    tables = [_texts(harmful), _texts(harmless)]

    def statistic(means: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        (accuracy,), (said, flow), (told, glow) = means
        return table3_average(100 * accuracy, (flow + glow) / 2, said + told)

    point = statistic([table.mean(axis=0)[:, None] for table in (right, *tables)])
    low, high = intervals.bootstrap([right, *tables], statistic, seed)
    sets = [choices[0]["dataset"], harmful[0]["dataset"], harmless[0]["dataset"]]
    n = len(choices) + len(harmful) + len(harmless)
    return ResultRow("+".join(sets), "table3_average", model, float(point[0]), n, low, high)


def average_rows(
    choices: Sequence[Choice],
    answers: Sequence[Answer],
    sets: tuple[str, str] | None,
    seed: int = 0,
) -> list[ResultRow]:
    """`average_row` of every model that has answered the first set of choices and both of `sets`.

    All of them in writing if any question was asked so, else all by letter.
    """
    rows = []
    kind = "parsed" if any("parsed" in row for row in choices) else "letter"
    lettered = [row for row in choices if kind in row]
    first = next(iter(in_order(row["dataset"] for row in lettered)), None)
    for model in in_order(row["model"] for row in lettered) if sets else []:
        groups = [
            [row for row in answers if (row["dataset"], row["model"]) == (name, model)]
            for name in sets or ()
        ]
        mine = [row for row in lettered if (row["dataset"], row["model"]) == (first, model)]
        if all((mine, *groups)):
            rows.append(average_row(model, mine, groups[0], groups[1], seed))
    return rows


def text_rows(
    model: str, harmful: Sequence[Answer], harmless: Sequence[Answer], seed: int = 0
) -> list[ResultRow]:
    """Table 3's fluency (mean of both sets' n-gram entropies) and entropy (sum of the unigram)."""
    tables = [_texts(harmful), _texts(harmless)]
    name = "+".join(group[0]["dataset"] for group in (harmful, harmless))
    rules = {
        "fluency": lambda means: (means[0][1] + means[1][1]) / 2,
        "entropy_sum": lambda means: means[0][0] + means[1][0],
    }
    rows = []
    for metric, rule in rules.items():
        point = float(rule([table.mean(axis=0)[:, None] for table in tables])[0])
        low, high = intervals.bootstrap(tables, rule, seed)
        n = len(harmful) + len(harmless)
        rows.append(ResultRow(name, metric, model, point, n, low, high))
    return rows


def table3_average(accuracy: Any, fluency: Any, entropy_sum: Any) -> Any:
    """The mean of three numbers of different units, as the paper prints it."""
    return (accuracy + fluency + entropy_sum) / 3


def _texts(group: Sequence[Answer]) -> NDArray[np.float64]:
    """[n, 2]: unigram and n-gram entropy of each answer, bits."""
    texts = [answer["answer"] for answer in group]
    return np.array([[entropy.unigram_entropy(t), entropy.ngram_entropy(t)] for t in texts])


def _rate(dataset: str, metric: str, model: str, hits: Sequence[bool]) -> ResultRow:
    count, n = sum(hits), len(hits)
    return ResultRow(dataset, metric, model, count / n, n, *intervals.wilson(count, n))
