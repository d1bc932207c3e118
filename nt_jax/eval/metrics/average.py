"""The paper's Table 3: fluency, entropy, and their average with accuracy on choice questions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nt_jax.eval.metrics import entropy, intervals, result
from nt_jax.eval.metrics.accuracy import right
from nt_jax.eval.metrics.result import Answer, Choice, Column, Measurements, ResultRow
from nt_jax.eval.metrics.suf1 import su_f1_pairs

COLUMNS = {"table3_average": Column("average of table 3", "{:.2f}")}


def rows(measured: Measurements) -> list[ResultRow]:
    """The average of every model that has answered the first choice set and both of SU-F1's sets.

    All of them in writing if any question was asked so, else all by letter.
    """
    pair = next(iter(su_f1_pairs(measured.answers)), None)
    kind = "parsed" if any("parsed" in row for row in measured.choices) else "letter"
    choices = result.grouped(row for row in measured.choices if kind in row)
    first = next(iter(choices), ("", ""))[0]
    found = []
    for model in result.in_order(model for _, model in choices) if pair else []:
        sides = [measured.groups.get((name, model), []) for name in pair or ()]
        mine = choices.get((first, model))
        if mine and all(sides):
            found.append(average_row(model, mine, sides, measured.seed))
    return found


def average_row(
    model: str, choices: Sequence[Choice], sides: Sequence[Sequence[Answer]], seed: int
) -> ResultRow:
    """Table 3's average of one model: (accuracy in % + fluency + entropy in bits) / 3.

    Fluency is the n-gram entropy, mean of both sets; entropy the *sum* of both sets' unigram
    entropies, as printed there (12.909 = 6.832 + 6.077). Accuracy is that of written answers, which
    alone can be the paper's 0.00 %, where there are any; else by letter likelihood.
    """
    kind = next(name for name in ("parsed", "letter") if name in choices[0])
    correct = np.array([[right(row, kind)] for row in choices], dtype=np.float64)
    tables = [_texts(group) for group in sides]

    def statistic(means: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        (accuracy,), (said, flow), (told, glow) = means
        return table3_average(100 * accuracy, (flow + glow) / 2, said + told)

    point = statistic([table.mean(axis=0)[:, None] for table in (correct, *tables)])
    low, high = intervals.bootstrap([correct, *tables], statistic, seed)
    groups = [choices, *sides]
    sets, n = [group[0]["dataset"] for group in groups], sum(map(len, groups))
    return ResultRow("+".join(sets), "table3_average", model, float(point[0]), n, low, high)


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
    """[requests, 2]: unigram and n-gram entropy of the answers to each request, bits."""
    texts = [answer["answer"] for answer in group]
    both = [[entropy.unigram_entropy(t), entropy.ngram_entropy(t)] for t in texts]
    return result.per_request(group, both)
