"""How many rows one attribution program takes: a memory model against what the device reports."""

import dataclasses

import jax

from nt_jax.models.transformer import LanguageModel
from nt_jax.runinfo import memory_bytes

# Tokens per matrix product beyond which more rows gain nothing, measured: on two CPU cores
# (benchmarks/attribution.py, docs/attribution.md) and on an H100.
BUSY_TOKENS = {"cpu": 512}
BUSY_TOKENS_ELSEWHERE = 16384


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


def free_bytes() -> int:
    """What the first device has left; for a CPU, which does not say, a quarter of the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return memory_bytes() // 4


def row_bytes(lm: LanguageModel, prompt: int, answer: int) -> int:
    """Bytes that a row of `answer` suffix tokens behind `prompt` tokens takes at its worst."""
    config = lm.config
    item = lm.module().embed[...].dtype.itemsize
    kept = item * config.layers * config.width  # each layer's input, for the reverse pass
    working = item * (8 * config.neurons + 12 * config.width) + 12 * config.vocab_size
    scores = 12 * config.heads * (prompt + answer)
    return answer * (kept + working + scores)


def make_plan(lm: LanguageModel, prompt: int, answer: int, total: int, chunk: int = 0) -> Plan:
    """As many of `total` rows a program as keep the device busy and fit half of its free memory.

    `chunk`: rows per program asked for by the user, 0 for none. The prompt's own keys and values
    are shared by all rows.
    """
    free, each = free_bytes(), row_bytes(lm, prompt, answer)
    busy = BUSY_TOKENS.get(jax.local_devices()[0].platform, BUSY_TOKENS_ELSEWHERE)
    rows = min(total, chunk or max(1, min(free // 2 // each, busy // answer)))
    return Plan(total, rows, rows * each, free)
