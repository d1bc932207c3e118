"""General ability: accuracy on choice questions, by the likeliest letter and as written."""

import numpy as np

from nt_jax.eval.metrics import result
from nt_jax.eval.metrics.refusal import rate_row
from nt_jax.eval.metrics.result import BASE, Choice, Column, Measurements, ResultRow
from nt_jax.eval.metrics.tasks import change_rows

ACCURACIES = {"letter": "letter_accuracy", "parsed": "generate_accuracy"}
COLUMNS = {
    "letter_accuracy": Column("right, by letter likelihood", "{:.1%}"),
    "letter_accuracy_change": Column("change by letter, paired", "{:+.1%}"),
    "letter_accuracy_mcnemar_p": Column("p of the change by letter (McNemar)", "{:.2g}"),
    "generate_accuracy": Column("right, as written", "{:.1%}"),
    "generate_accuracy_change": Column("change as written, paired", "{:+.1%}"),
    "generate_accuracy_mcnemar_p": Column("p of the change as written (McNemar)", "{:.2g}"),
    "unparsed_rate": Column("written answers that name no choice", "{:.1%}"),
}


def rows(measured: Measurements) -> list[ResultRow]:
    """Per set and model, with the paired change and test against the base model."""
    groups = result.grouped(measured.choices)
    found = []
    for (dataset, model), group in groups.items():
        for field, metric in ACCURACIES.items():
            mine = [row for row in group if field in row]
            if not mine:
                continue
            found.append(rate_row(dataset, metric, model, [right(row, field) for row in mine]))
            base = [row for row in groups.get((dataset, BASE), ()) if field in row]
            pairs = result.paired(base, mine) if model != BASE else []
            if pairs:
                was_N, is_N = (
                    np.array([right(pair[n], field) for pair in pairs], float) for n in (0, 1)
                )
                found += change_rows(dataset, metric, model, was_N, is_N)
        written = [row for row in group if "answer" in row]
        if written:
            unparsed = [row["parsed"] is None for row in written]
            found.append(rate_row(dataset, "unparsed_rate", model, unparsed))
    return found


def right(row: Choice, field: str) -> bool:
    """Whether the choice read from `field` is the key."""
    return row[field] == row["key"]
