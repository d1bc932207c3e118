"""Measured rows as the tables look them up, and what is known of the model and its test sets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from nt_jax.compare.paper import PAIRS
from nt_jax.compare.render import Cell
from nt_jax.config.test_sets import Labels
from nt_jax.eval.metrics.result import ResultRow, find


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
    # Model -> why its letters were not measured.
    reasons: Mapping[str, str] = field(default_factory=dict)
    begun: Collection[str] = ()  # test sets whose answers are begun for the model
    # Model -> (numbers that its fit learned, seconds that it took).
    costs: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    first_factors: tuple[float, float] = (1.2, 0.9)  # of the row without tuning: safety, utility

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
    def harmful_pair(self) -> tuple[str | None, str | None]:
        """(attacked harmful requests, bare ones): those of SU-F1, else the first there are."""
        every = [name for name in self.harmful if self.harmful[name]]
        harmful = [name for name in every if name not in self.begun]
        first, bare = self.pair[0], f"{self.pair[0]}_direct"
        inside = [d for d in harmful if self.attacked[d]]
        outside = [d for d in harmful if not self.attacked[d]]
        attacked = first if first in inside else next(iter(inside), None)
        return attacked, bare if bare in harmful else next(iter(outside), None)

    @property
    def compared(self) -> str | None:
        """The paper's model, if these are its test sets too; only then its figures stand beside."""
        return self.model if self.pair == PAIRS["main"] else None
