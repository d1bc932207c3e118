"""SCANS: safety-conscious activation steering, towards or away from refusal for each query.

Source: Cao, Yang and Zhao, "SCANS: Mitigating the Exaggerated Safety for LLMs via
Safety-Conscious Activation Steering" (AAAI 2025, arXiv 2408.11491), and its release.
1. direction: harmful minus harmless mean of the states at the last prompt token, a unit vector per
   layer, pointing to refusal (64 anchors a kind).
2. score: with "Sure" behind the prompt, how the state moves from the prompt's last token to the
   last one; the cosine to the harmful anchors' mean move, averaged over the layers from the first
   steered one to the last (score_stop ends earlier, as the release does for 13B).
3. steering: the middle third of the layers, + direction above the threshold and - below.

The release adds ALPHA = 3.5 times the unit direction (LLaMA-2; 4 on Vicuna), however long the
states are, in layers 10 to 19 of 32, with the threshold 0.75 (then by hand for each test set):
`absolute` steering and `published_layers`. Other models have other norms, so that `strength` is
else a share of the layer's median residual norm.

Where we differ: steering starts at the last token of the prompt, the release's at the end of the
user's message, so that the template's few tokens between them are not steered. Left out: the
repetition penalty, rules by test set ("safe if any layer ..."), MMLU by letter.

R rows, B rows of a batch, L layers, D model width.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax import Array

from nt_jax.baselines.examples import Examples, some
from nt_jax.baselines.states import gather_states, states_of
from nt_jax.data.prompts import Prompt
from nt_jax.data.records import Ids
from nt_jax.errors import DataError
from nt_jax.generate.intervention import Prepared
from nt_jax.models.transformer import LanguageModel

ALPHA, THRESHOLD = 3.5, 0.75  # of the release for LLaMA-2: state units, mean cosine


@dataclasses.dataclass(frozen=True)
class ScansOptions:
    """The settings of a fit."""

    anchors: int = 64  # of each kind, or all where there are fewer
    steer: tuple[int, int] | None = None  # layers [first, stop); None: the middle third
    score_stop: int | None = None  # scores read layers [first, score_stop); None: up to the last
    seed: int = 0  # of the anchors
    batch_size: int = 16


@dataclasses.dataclass(frozen=True)
class ScansFit:
    """What the anchors say; float32."""

    direction_LD: np.ndarray  # towards refusal, unit length
    move_LD: np.ndarray  # the harmful anchors' mean state before "Sure" minus after it
    norm_L: np.ndarray  # median length of the anchors' states
    steer: tuple[int, int]
    score: tuple[int, int]
    sure: tuple[int, ...]  # the token ids of "Sure"


def middle_third(layers: int) -> tuple[int, int]:
    """Layers [first, stop): 10..20 of 32, 9..18 of 28, 16..31 of 48."""
    return layers // 3, max(layers // 3 + 1, round(2 * layers / 3))


def published_layers(layers: int) -> tuple[int, int]:
    """The layers [first, stop) that the release steers, 10..20 of 32, at the same depth."""
    first = round(10 / 32 * layers)
    return first, max(first + 1, round(20 / 32 * layers))


def fit_scans(
    lm: LanguageModel,
    scale_LF: Array,
    examples: Examples,
    sure: Ids,
    options: ScansOptions = ScansOptions(),
) -> ScansFit:
    """Directions and reference from `examples.harmful` and `examples.harmless`."""
    steer = options.steer or middle_third(lm.config.layers)
    score = (steer[0], options.score_stop or lm.config.layers)
    for first, stop in (steer, score):
        if not 0 <= first < stop <= lm.config.layers or not len(sure):
            raise DataError(
                f"SCANS cannot steer or score layers {first} to {stop - 1} of a model with "
                f"{lm.config.layers}, nor go without the token ids of 'Sure'. Correct them."
            )
    states = []
    for name in ("harmful", "harmless"):
        anchors = some(getattr(examples, name), options.anchors, options.seed, f"scans-{name}")
        prompts, back = [[*ids, *sure] for ids in anchors], (len(sure), 0)
        states.append(
            gather_states(lm, scale_LF, prompts, back=back, batch_size=options.batch_size)
        )
    harmful_RPLD, harmless_RPLD = states
    direction_LD = harmful_RPLD[:, 0].mean(axis=0) - harmless_RPLD[:, 0].mean(axis=0)
    norm_RL = np.linalg.norm(np.concatenate([harmful_RPLD, harmless_RPLD])[:, 0], axis=-1)
    return ScansFit(
        direction_LD=_unit(direction_LD),
        move_LD=(harmful_RPLD[:, 0] - harmful_RPLD[:, 1]).mean(axis=0),
        norm_L=np.median(norm_RL, axis=0),
        steer=steer,
        score=score,
        sure=tuple(sure),
    )


def harm_scores(
    lm: LanguageModel, scale_LF: Array, fit: ScansFit, prompts: Sequence[Ids], batch_size: int = 16
) -> np.ndarray:
    """Float32 [R] in -1..1: how much each prompt's move resembles that of harmful ones."""
    score_R, layers = np.zeros(len(prompts), np.float32), slice(*fit.score)
    longer = [[*ids, *fit.sure] for ids in prompts]
    batches = states_of(lm, scale_LF, longer, back=(len(fit.sure), 0), batch_size=batch_size)
    for rows, state_BPLD in batches:
        move_BLD = _unit(state_BPLD[:, 0] - state_BPLD[:, 1])
        cosine_BL = (move_BLD * _unit(fit.move_LD)).sum(axis=-1)
        score_R[rows] = cosine_BL[:, layers].mean(axis=1)
    return score_R


@dataclasses.dataclass(frozen=True)
class Scans:
    """The intervention: score every prompt, steer it by `strength`.

    That is a multiple of the layer's median residual norm, or where `absolute` the length itself
    of what is added to the state.
    """

    fit: ScansFit
    threshold: float  # of the mean cosine, -1..1
    strength: float
    batch_size: int = 16
    absolute: bool = False

    def prepare(
        self, lm: LanguageModel, scale_LF: Array, prompts: Sequence[Ids], asked: Sequence[Prompt]
    ) -> Prepared:
        """The same prompts, pushed towards refusal where they are taken for harmful, else away."""
        score_R = harm_scores(lm, scale_LF, self.fit, prompts, self.batch_size)
        flagged_R = score_R > self.threshold
        push_LD = np.zeros_like(self.fit.direction_LD)
        steered = slice(*self.fit.steer)
        length_L = np.ones_like(self.fit.norm_L) if self.absolute else self.fit.norm_L
        push_LD[steered] = self.fit.direction_LD[steered] * length_L[steered, None]
        sign_R = np.where(flagged_R, self.strength, -self.strength).astype(np.float32)
        steer_RLD = sign_R[:, None, None] * push_LD[None]
        return Prepared([list(ids) for ids in prompts], steer_RLD, flagged_R)


def _unit(vector: np.ndarray) -> np.ndarray:
    """`vector` at length 1 along its last axis; zeros stay zeros."""
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.maximum(length, np.finfo(vector.dtype).tiny)
