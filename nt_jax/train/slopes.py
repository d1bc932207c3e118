"""What every factor does to the log-likelihood of an answer, row by row, at the untuned model.

To first order factors are a linear classifier: a refusal of prompt x gains sum_i delta_i s_i(x),
s_i its slope in factor i. The slopes of the four cells therefore say which neurons tell harmful
from harmless requests (nt_jax/attribution/contrastive.py), which change of the factors does it at
the least cost (nt_jax/train/preconditioner.py), and how far it has to go.
M rows, P neurons, B sequences.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from nt_jax import cache
from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.data.batching import bucket
from nt_jax.data.packing import LENGTH_STEP, PackedBatch, Row, Shape, pack_alone
from nt_jax.errors import RunError
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    CELLS,
    HARMFUL,
    HARMLESS,
    OWN,
    Rows,
)
from nt_jax.train.memory import GradientMemory
from nt_jax.train.objectives import log_likelihoods
from nt_jax.train.theta import scatter
from nt_jax.train.tuned_layers import TunedLayers

FILE = "slopes.npz"
TARGET_STEP = 8  # answers' widths are multiples of this: few shapes, few compilations


@dataclasses.dataclass(frozen=True)
class CellSlopes:
    """Slopes of refusals in each cell, and of the own answers: float32 [rows, P] by name."""

    cells: Mapping[str, np.ndarray]

    @property
    def difference_P(self) -> Float[np.ndarray, " P"]:
        """How much likelier a factor makes refusals of harmful than of harmless requests.

        Half the difference inside attacks, half that of bare requests, in nats per token; a pair
        without prompts is left out.
        """
        pairs = ((ATTACKED_HARMFUL, ATTACKED_HARMLESS), (HARMFUL, HARMLESS))
        means = [
            self.cells[harmful].mean(axis=0) - self.cells[harmless].mean(axis=0)
            for harmful, harmless in pairs
            if len(self.cells[harmful]) and len(self.cells[harmless])
        ]
        return np.mean(means, axis=0)

    @property
    def unwanted_MP(self) -> Float[np.ndarray, "M P"]:
        """What the factors should not move: everything harmless, and differences between harms."""
        harmful = [_centred(self.cells[name]) for name in (ATTACKED_HARMFUL, HARMFUL)]
        harmless = [self.cells[name] for name in (OWN, ATTACKED_HARMLESS, HARMLESS)]
        return np.concatenate([*harmless, *harmful])

    def of(self, columns_P: np.ndarray) -> "CellSlopes":
        """Those of some of the neurons."""
        return CellSlopes({name: slope[:, columns_P] for name, slope in self.cells.items()})

    def save(self, path: Path) -> None:
        """Write them as one file, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, **self.cells)  # type: ignore[arg-type]
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "CellSlopes":
        """What `save` wrote."""
        try:
            with np.load(path) as file:
                return cls({name: file[name] for name in (*CELLS, OWN)})
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(f"{path} is damaged ({error}). Delete its folder, repeat.") from error


def _centred(slope_MP: np.ndarray) -> np.ndarray:
    return slope_MP - slope_MP.mean(axis=0) if len(slope_MP) else slope_MP


def every_neuron(layers: int, width: int, first_layer: int) -> NeuronSet:
    """All neurons of the layers from `first_layer` on, layer by layer."""
    layer_P, index_P = np.divmod(np.arange(first_layer * width, layers * width), width)
    return NeuronSet(
        layer_P.astype(np.int32), index_P.astype(np.int32), np.ones(len(layer_P), bool)
    )


def cell_slopes(
    model: ChatModel, tuned: TunedLayers, cells: Mapping[str, Rows], config: TuneConfig
) -> CellSlopes:
    """The slopes of these rows in the neurons of `tuned`, kept between runs (nt_jax/cache.py)."""
    places = [np.asarray(leaf).tolist() for leaf in (tuned.neurons.layer_P, tuned.neurons.index_P)]
    about = {"first": tuned.first, "neurons": places}
    return kept_cells(
        model, cells, config, about, lambda rows: measured_slopes(tuned, rows, config)
    )


def kept_cells(
    model: ChatModel,
    cells: Mapping[str, Rows],
    config: TuneConfig,
    about: Mapping[str, Any],
    measure: Callable[[list[Row]], np.ndarray],
) -> CellSlopes:
    """What `measure` says of these rows, in whatever `about` names; kept between runs."""
    width, encode = config.answer_tokens, model.encode
    rows = [Row(encode(prompt), ids[:width]) for each in cells.values() for prompt, ids in each]
    made_from = {
        "slopes of": [(list(row.prompt), list(row.answer)) for row in rows], **about,
        "decay": config.token_decay, "model": model.identity,
    }  # fmt: skip
    slope_MP = cache.kept(made_from, lambda: {"slope_MP": measure(rows)})["slope_MP"]
    ends = np.cumsum([len(each) for each in cells.values()])[:-1]
    return CellSlopes(dict(zip(cells, np.split(slope_MP, ends), strict=True)))


def measured_slopes(
    tuned: TunedLayers, rows: Sequence[Row], config: TuneConfig
) -> Float[np.ndarray, "M P"]:
    """Slopes of each row's answer in the factors of `tuned`, at the untuned model."""

    def slopes(batch: PackedBatch, remat: bool) -> Array:
        rest = (tuned.neurons, batch, config.token_decay)
        return row_slopes(tuned.ones_P, tuned.lm, *rest, remat=remat)

    return by_rows(tuned, rows, len(tuned.neurons), slopes)


def by_rows(
    tuned: TunedLayers,
    rows: Sequence[Row],
    count: int,
    slopes: Callable[[PackedBatch, bool], Array],
) -> Float[np.ndarray, "M P"]:
    """`slopes` (of a batch, whether to recompute layers; [B, count]) of all rows.

    Rows of like length go together, each in a sequence of its own.
    """
    longest = bucket(max(row.tokens for row in rows), LENGTH_STEP)
    memory = GradientMemory.of(tuned.whole, tuned.count)
    side, remat = memory.slope_rows(longest, tuned.lm.mesh.shape["data"])
    slope_MP = np.zeros((len(rows), count), np.float32)
    order = sorted(range(len(rows)), key=lambda row: rows[row].tokens)
    with progress("slopes", len(rows), "slopes") as advance:
        for start in range(0, len(order), side):
            mine = order[start : start + side]
            length = bucket(rows[mine[-1]].tokens, LENGTH_STEP)
            targets = bucket(max(rows[row].targets for row in mine), TARGET_STEP)
            shape = Shape(1, side, length, targets, 1)
            batch = tuned.enter(pack_alone([rows[row] for row in mine], shape))
            found_BP = slopes(jax.tree.map(lambda leaf: leaf[0], batch), remat)
            slope_MP[mine] = np.asarray(found_BP)[: len(mine)]
            advance(len(mine))
    return slope_MP


@functools.partial(jax.jit, static_argnames="remat")
def row_slopes(
    theta_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: PackedBatch,
    decay: Array | float,
    *,
    remat: bool = False,
) -> Float[Array, "B P"]:
    """Slope of the answer's mean log-likelihood in the factors, of each sequence's only row."""

    def value(theta_P: Array, row: PackedBatch) -> Array:
        scale_LF = scatter(theta_P, neurons, lm.ones_LF)
        alone = jax.tree.map(lambda leaf: leaf[None], row)
        return log_likelihoods(lm, scale_LF, alone, decay=decay, remat=remat)[0, 0, 0]

    return jax.vmap(jax.grad(value), (None, 0))(theta_P, batch)
