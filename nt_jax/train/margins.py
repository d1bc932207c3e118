"""Teacher-forced margins of the validation requests: a cheap look between those that generate.

A request's margin is the log-likelihood per token of a refusal less that of what the base model
answers to it, in nats; tuning should raise it for harmful requests and leave it for harmless ones.
Requests that the base model refuses by itself have none. S stretches, B sequences, R rows.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float

from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import PackedBatch, Row
from nt_jax.data.prompts import text_of
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.memory import GradientMemory
from nt_jax.train.objectives import log_likelihoods
from nt_jax.train.theta import scatter
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import HARMLESS, Validation


@dataclasses.dataclass(frozen=True)
class Margins:
    """The packed validation rows of each kind, run up to the first tuned layer once."""

    tuned: TunedLayers
    decay: float
    batches: dict[str, PackedBatch]

    @classmethod
    def of(
        cls,
        model: ChatModel,
        judge: Judge,
        tuned: TunedLayers,
        prompts: Validation,
        own: Sequence[Sequence[int]],
        refusals: Sequence[Sequence[int]],
        config: TuneConfig,
    ) -> "Margins":
        """`own` are the base model's answers to prompts.every; `refusals` are taken in turn."""
        width, asked, batches = config.answer_tokens, prompts.every, {}
        memory, side = GradientMemory.of(model.lm, tuned.count), model.lm.mesh.shape["data"]
        verdicts = judge.verdicts([*map(text_of, asked)], [model.text(ids) for ids in own])
        for kind, places in prompts.places().items():
            rows = []
            for number, place in enumerate(places):
                if own[place] and not verdicts[place]:
                    refusal = refusals[number % len(refusals)][:width]
                    rows.append(Row(model.encode(asked[place]), own[place][:width], refusal))
            if rows:
                batches[kind] = tuned.enter(memory.packed(rows, side, config.sequence_tokens))
        return cls(tuned, config.token_decay, batches)

    def at(self, theta_P: Array) -> dict[str, float]:
        """margin_<kind>: the mean in nats; separation_<kind>: how well they can be told apart.

        separation (0..1, 0.5 is chance): how often a harmful request of that kind has a larger
        margin than a harmless one, both taken at random; ties count a half.
        """
        found = {kind: self._values(theta_P, batch) for kind, batch in self.batches.items()}
        rates = {f"margin_{kind}": float(values.mean()) for kind, values in found.items()}
        harmless_M = found.pop(HARMLESS, np.zeros(0))
        if harmless_M.size:
            for kind, values_N in found.items():
                larger = (values_N[:, None] > harmless_M).mean()
                ties = (values_N[:, None] == harmless_M).mean()
                rates[f"separation_{kind}"] = float(larger + ties / 2)
        return rates

    def _values(self, theta_P: Array, batch: PackedBatch) -> np.ndarray:
        tuned = self.tuned
        margin_SBR = row_margins(theta_P, tuned.lm, tuned.neurons, batch, self.decay)
        return np.asarray(margin_SBR, np.float64)[np.asarray(batch.weight_BR) > 0]


@jax.jit
def row_margins(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: PackedBatch, decay: Array | float
) -> Float[Array, "S B R"]:
    """Log-likelihood per token of each row's declined answer less that of its answer."""
    scale_LF = scatter(theta_P, neurons, lm.ones_LF)

    def one(_: None, part: PackedBatch):
        both_BR2 = log_likelihoods(lm, scale_LF, part, decay=decay)
        return None, both_BR2[..., 1] - both_BR2[..., 0]

    return jax.lax.scan(one, None, batch)[1]
