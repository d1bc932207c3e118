"""How many rows one attribution program takes: a memory model against what the device reports."""

import dataclasses

import jax

from nt_jax.mesh import free_bytes, row_ways
from nt_jax.models.footprint import Footprint
from nt_jax.models.transformer import LanguageModel

# Tokens per matrix product below which a program takes no less time: measured on two CPU cores
# (docs/attribution.md); elsewhere what hides the reading of the weights, several times over.
BUSY_TOKENS = {"cpu": 128}
BUSY_TOKENS_ELSEWHERE = 2048


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the rows of one example (layers x nodes, or nodes) are cut into programs."""

    total: int
    rows: int  # per program
    bytes_taken: int  # by one program, at most
    bytes_free: int

    def __str__(self) -> str:
        """One line for the screen."""
        programs = -(-self.total // self.rows)
        return (
            f"{self.total} rows in {programs} {'program' if programs == 1 else 'programs'} of "
            f"{self.rows}   {self.bytes_taken / 1e9:.2f} of {self.bytes_free / 1e9:.1f} GB free"
        )


def row_bytes(lm: LanguageModel, prompt: int, answer: int) -> int:
    """Bytes that a row of `answer` suffix tokens behind `prompt` tokens takes on its device."""
    item = lm.module().embed[...].dtype.itemsize
    return Footprint(lm.config, item, 1, lm.mesh.shape["model"]).attribution_row(prompt, answer)


def fitting_rows(free: int, each: int, total: int, data: int = 1) -> int:
    """Rows that take half of the free bytes of `data` devices, one at least; at most `total`."""
    return max(1, min(total, max(0, free) // 2 // each * data))


def make_plan(lm: LanguageModel, prompt: int, answer: int, total: int, chunk: int = 0) -> Plan:
    """The rows per program that take the least time in half of the device's free memory.

    A program starts at the layer of its first row, so many rows waste work on layers below their
    own, and few leave the device idle. `total` rows are in order of their layers, equally many
    each. `chunk`: rows per program asked for by the user, 0 for none. The prompt's own keys and
    values are shared by all rows.
    """
    free, each, data = free_bytes(), row_bytes(lm, prompt, answer), row_ways(lm.mesh)
    fit = fitting_rows(free, each, total, data)
    even = {-(-total // programs) for programs in range(1, min(total, 256) + 1)}
    candidates = sorted(rows for rows in even if rows <= fit) or [fit]
    cost = {rows: work(lm, rows, answer, total) for rows in candidates}
    rows = min(total, chunk) if chunk else min(candidates, key=lambda rows: cost[rows])
    return Plan(total, rows, -(-rows // data) * each, free)


def work(lm: LanguageModel, rows: int, answer: int, total: int) -> float:
    """Token-layers that programs of `rows` rows run, an idle device's included."""
    config = lm.config
    per_layer = sum(leaf.size for leaf in jax.tree.leaves(lm.module().blocks)) / config.layers
    head = config.vocab_size * config.width / per_layer  # in layers
    busy = BUSY_TOKENS.get(jax.local_devices()[0].platform, BUSY_TOKENS_ELSEWHERE)
    layers = 0.0
    for first in range(0, total, rows):
        low = min(first, total - rows)
        layers += config.layers - low * config.layers // total + head
    return max(rows * answer, busy) * layers
