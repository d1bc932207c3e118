"""Measured rows as the tables look them up, and what is known of the model and its test sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nt_jax.compare.paper import PAIRS, paper_model
from nt_jax.compare.render import Cell
from nt_jax.config.schema import RunConfig
from nt_jax.config.test_sets import Labels
from nt_jax.eval.metrics.result import BASE, Answer, ResultRow, find, is_attacked

DEFAULT = "Default"  # what the paper calls the untuned model


@dataclass(frozen=True)
class Results:
    """What all tables are made of."""

    rows: Sequence[ResultRow]
    labels: Mapping[str, str]  # model -> its row's heading
    sets: Labels  # test set -> its name in words
    pair: tuple[str, str]  # (attacked harmful, harmless) test sets of SU-F1
    harmful: Mapping[str, bool]  # test set -> whether it is harmful
    attacked: Mapping[str, bool]  # test set -> whether its requests come inside attacks
    model: str | None = None  # the paper's name of the model, where it is one of its four
    reasons: Mapping[str, str] | None = None  # model -> why its letters were not measured

    def cell(
        self, dataset: str, metric: str, model: str, scale: float = 1, paper: float | None = None
    ) -> Cell:
        """One number, `scale` times what results.json holds."""
        row = find(self.rows, dataset, metric, model)
        if row is None:
            return Cell(paper=paper)
        low, high = (None if x is None else scale * x for x in (row.low, row.high))
        return Cell(scale * row.value, low, high, row.n, paper)

    @property
    def compared(self) -> str | None:
        """The paper's model, if these are its test sets too; only then its figures stand beside."""
        return self.model if self.pair == PAIRS["main"] else None


def results_of(
    rows: Sequence[ResultRow],
    answers: Sequence[Answer],
    pair: tuple[str, str],
    labels: Mapping[str, str],
    reasons: Mapping[str, str],
    config: RunConfig,
    size: tuple[int, int],
) -> Results:
    """The material of all tables; `size` is (layers, width) of the model."""
    return Results(
        rows, {BASE: DEFAULT, **labels}, config.eval.labels, pair,
        {a["dataset"]: a["harmful"] for a in answers},
        {a["dataset"]: is_attacked(a) for a in answers},
        paper_model(config.model.source, *size), reasons,
    )  # fmt: skip
