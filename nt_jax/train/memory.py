"""What tuning holds in memory, and how many tokens it may therefore differentiate together."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from nt_jax.data.packing import PackedBatch, Row, cheapest_shape, pack_rows
from nt_jax.mesh import memory_limit
from nt_jax.models.attention import stored
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import layer_parameters, part_of
from nt_jax.models.transformer import LanguageModel

SLOPE_ROWS = 8  # at most; more are no faster
SEQUENCE_TOKENS = 1024  # at most, as attention costs by the square
SIDE = 4  # sequences side by side on a device, at most: more gain little
HEAD_BYTES = 12  # of a logit and what its gradient needs, in float32

MAP_LIMIT = Path("/proc/sys/vm/max_map_count")  # memory maps that Linux grants a process
MAPS = Path("/proc/self/maps")


def free_programs() -> bool:
    """Let go of compiled programs where their memory maps fill half of the limit; whether it did.

    On processors even a small program holds some twenty maps. At the limit LLVM ends a run with
    "Cannot allocate memory" while memory is free. What is needed again is compiled again.
    """
    if not (MAP_LIMIT.exists() and MAPS.exists()):
        return False
    full = 2 * MAPS.read_bytes().count(b"\n") >= int(MAP_LIMIT.read_text())
    if full:
        jax.clear_caches()
    return full


def sequence_cost(model: ModelConfig) -> Callable[[int], float]:
    """Multiplications of one layer over a sequence of so many tokens: weights, then attention."""
    weights = layer_parameters(model)
    return lambda tokens: tokens * (weights + 2 * tokens * model.heads * model.head_dim)


@dataclasses.dataclass(frozen=True)
class Together:
    """What a device differentiates at once."""

    tokens: int  # of a sequence, at most
    side: int  # sequences, at most
    remat: bool  # whether layers are recomputed


@dataclasses.dataclass(frozen=True)
class GradientMemory:
    """What gradients through the upper `layers` layers of a model hold, as tuning decides by it.

    A rule of thumb that says how much is taken on at once, so what a run computes depends on it;
    what that then takes on a device is said by models/footprint.py.
    """

    model: ModelConfig
    itemsize: int  # bytes of a weight
    layers: int  # that a gradient goes through

    @classmethod
    def of(cls, lm: LanguageModel, layers: int) -> "GradientMemory":
        """That of what each device holds of a model in memory."""
        part = part_of(lm.config, lm.mesh.shape["model"])
        return cls(part, lm.module().embed[...].dtype.itemsize, layers)

    def token_bytes(self, tokens: int) -> int:
        """What the gradient of a loss holds for one of so many tokens of a sequence.

        Activations, its row of attention weights where it is stored, and logits, should it be a
        target; not the scores of a part of a long sequence, which are made again.
        """
        model, item = self.model, self.itemsize
        attention = model.heads * stored(tokens) * (4 + item)
        layer = item * (10 * model.width + 6 * model.neurons) + attention
        return self.layers * layer + HEAD_BYTES * model.vocab_size

    def tuning(
        self, longest: int, wanted: int = 0, limit: int | None = None, accelerator: bool = False
    ) -> Together:
        """What tuning differentiates at once, by the memory of a device.

        `longest` is the longest row, `wanted` the tokens that the user asks for, 0 for no wish,
        `limit` the bytes of a device, unless those of the devices here are meant. Second order
        holds about three times the activations of a stretch. As many tokens as fit a quarter of
        the memory with layers stored, at most SEQUENCE_TOKENS. A CPU takes one sequence at a time,
        and recomputes layers, a seventh slower or more, only where the longest row does not fit
        half of the memory. An accelerator recomputes them always: that makes room for sequences
        side by side, which read weights once for all of them (docs/performance.md).
        """
        room = (limit or memory_limit()) // 4
        sizes = range(16, SEQUENCE_TOKENS + 1, 16)
        fits = [tokens for tokens in sizes if 3 * tokens * self.token_bytes(tokens) <= room]
        usual = max([longest, *fits])
        tokens = max(wanted or usual, longest)
        if not accelerator:
            return Together(tokens, 1, 3 * longest * self.token_bytes(longest) > 2 * room)
        most = max(tokens, usual)  # so fewer tokens do not bring more sequences
        side = room // (most * self._recomputed(most))
        return Together(tokens, min(SIDE, max(1, side)), True)

    def _recomputed(self, tokens: int) -> int:
        """What second order holds for one of so many tokens: streams, one layer and the head."""
        head = 3 * HEAD_BYTES * self.model.vocab_size
        stored = 3 * self.token_bytes(tokens) - head
        return head + stored // self.layers + self.itemsize * self.model.width * self.model.layers

    def packed(self, rows: Sequence[Row], side: int, wanted: int = 0) -> PackedBatch:
        """All rows in the cheapest sequences that memory allows, numpy arrays [S, B, ...].

        `side`: sequences side by side (B).
        """
        most = self.tuning(max(row.tokens for row in rows), wanted).tokens
        return pack_rows(rows, cheapest_shape([rows], side, most, sequence_cost(self.model)))

    def slope_rows(self, tokens: int, side: int, limit: int | None = None) -> tuple[int, bool]:
        """(rows of `tokens` tokens whose slopes are taken together, whether to recompute layers).

        A multiple of `side`, the devices that share them out, SLOPE_ROWS in all where that is
        one or more each; `limit` is that of one device.
        """
        fits = int((limit or memory_limit()) // 4 // (tokens * self.token_bytes(tokens)))
        return side * max(1, min(SLOPE_ROWS // side, fits)), fits < 1
