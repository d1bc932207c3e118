"""What a score of neurons is made of and gives: options, one example, its attribution.

For a harmful question q under an attack p, a neuron has the value v_q on q alone and v_pq on
(p, q), both at the last prompt token. A rule turns them into a score of every neuron.
L layers, F neurons, A interpolation nodes, W = 2 weightings.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.attribution.plan import Plan, make_plan
from nt_jax.attribution.suffix import Prefix, run_prefix, target_value
from nt_jax.data.batching import bucket, pad_left
from nt_jax.errors import ConfigError
from nt_jax.mesh import host
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel, forward

CHOICES = {  # of Options; the first of each is the default
    "nodes": ("gauss-legendre", "midpoint", "left", "right"),
    "weighting": ("alpha", "standard"),
    "path": ("layer", "joint"),
    "target": ("mean_logprob", "first_token", "sum_logprob"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How the integral is formed; each choice is explained in docs/method.md.

    Raises a ConfigError that names what there is where a word is none of it or a count is below 1.
    """

    steps: int = 4
    nodes: str = "gauss-legendre"  # gauss-legendre | midpoint | left | right
    weighting: str = "alpha"  # alpha (Eq. 4 as printed) | standard (integrated gradients)
    path: str = "layer"  # layer (one layer's neurons move) | joint (all layers at once)
    target: str = "mean_logprob"  # mean_logprob | first_token | sum_logprob
    answer_tokens: int = 32
    chunk: int = 0  # rows per program; 0 lets the memory model choose

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise ConfigError(f"{name} = {given!r} is not one of {', '.join(known)}.")
        for name, least in (("steps", 1), ("answer_tokens", 1), ("chunk", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least {least}.")


@dataclasses.dataclass(frozen=True)
class EncodedExample:
    """Token ids of one example; prompts include the chat template."""

    question: list[int]
    attacked: list[int]
    answer: list[int]
    set: str = ""  # safety | utility


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Scores of one example, and what is needed to check and reuse them. All float32 numpy.

    Both weightings come from the same gradients, so both are kept; `weighting` says which was asked
    for. A plain gradient knows no weighting: both are the same then.
    """

    alpha_LF: np.ndarray
    standard_LF: np.ndarray
    weighting: str
    v_q_LF: np.ndarray
    v_pq_LF: np.ndarray
    start_L: np.ndarray  # target with one layer at v_q (all layers, repeated, for path=joint)
    end: float  # target of the clean attacked prompt

    @property
    def score_LF(self) -> np.ndarray:
        """The scores in the weighting that was asked for."""
        return self.alpha_LF if self.weighting == "alpha" else self.standard_LF

    @property
    def completeness_L(self) -> np.ndarray:
        """Per layer, |sum of standard scores - (P(end) - P(start))|: what the nodes miss, in P."""
        return np.abs(self.standard_LF.sum(axis=1) - (self.end - self.start_L))


def relative_error(result: Attribution, path: str) -> float:
    """The largest completeness error of a layer, over the largest change of P(answer).

    On the joint path all layers move at once, and their scores together are its only sum.
    """
    change_L = result.end - result.start_L
    missed_L = result.completeness_L
    if path == "joint":
        missed_L = np.abs(result.standard_LF.sum() - change_L[:1])
    largest = np.abs(change_L).max()
    return float(missed_L.max() / largest) if largest > 0 else 0.0


# (model, the clean pass, v_q, options) -> (score [W, L, F], target at the start of each layer [L]).
Rule = Callable[[LanguageModel, Prefix, Array, Options], tuple[Array, Array]]


def scored(lm: LanguageModel, example: EncodedExample, options: Options, rule: Rule) -> Attribution:
    """Scores of every neuron for one example, float32 (float64 for a float64 model)."""
    question_width, attacked_width, length = lengths(example, options)
    question = pad_left([example.question], question_width)
    attacked = pad_left([example.attacked], attacked_width)
    answer = np.zeros(length, np.int32)
    answer[: len(example.answer)] = example.answer[:length]
    real = np.arange(length) < len(example.answer)
    prefix = run_prefix(lm, attacked[0][0], attacked[1][0], answer, real)
    wide = wide_dtype(prefix.act_LF.dtype)
    v_q_LF = neurons_at_last_token(lm, *question).astype(wide)
    score_WLF, start_L = rule(lm, prefix, v_q_LF, options)
    end = target_at_end(lm, prefix, target=options.target)
    found = host((score_WLF, v_q_LF, prefix.act_LF.astype(wide), start_L))
    (alpha_LF, standard_LF), v_q_LF, v_pq_LF, start_L = map(np.asarray, found)
    return Attribution(
        alpha_LF, standard_LF, options.weighting, v_q_LF, v_pq_LF, start_L, float(end)
    )


@jax.jit
def neurons_at_last_token(lm: LanguageModel, prompt_BP: Array, mask_BP: Array) -> Array:
    """act_LF of a left-padded prompt [1, P] at its last token."""
    trace = forward(lm.module(), lm.config, prompt_BP, mask_BP, read_at=prompt_BP.shape[1] - 1)
    return trace.act_LBF[:, 0]


@functools.partial(jax.jit, static_argnames="target")
def target_at_end(lm: LanguageModel, prefix: Prefix, *, target: str) -> Float[Array, ""]:
    """The target on the unpatched attacked prompt."""
    return target_value(lm, prefix, prefix.after_LTD[-1], target)


def rule_of(steps: int, nodes: str) -> tuple[np.ndarray, np.ndarray]:
    """(points in [0, 1], their weights, which sum to 1), both float64 [A]."""
    if nodes == "gauss-legendre":
        point_A, weight_A = np.polynomial.legendre.leggauss(steps)
        return (point_A + 1) / 2, weight_A / 2
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[nodes]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


def nodes_and_weights(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """(alpha_A, weight_WA): the integration nodes, and one more at alpha 0 that only reads P.

    W = 2 rules: alpha (Eq. 4 as printed) and standard (integrated gradients).
    """
    alpha_A, weight_A = rule_of(options.steps, options.nodes)
    weight_WA = np.stack([alpha_A, np.ones_like(alpha_A)]) * weight_A
    return np.append(alpha_A, 0.0), np.pad(weight_WA, ((0, 0), (0, 1)))


def weighted(weight_WA: np.ndarray, slope_A: Array) -> Array:
    """Sums over the nodes (first axis) under each rule, in full precision."""
    weights = jnp.asarray(weight_WA, slope_A.dtype)
    return jnp.einsum("wa,a...->w...", weights, slope_A, precision=jax.lax.Precision.HIGHEST)


def rows_of(lm: LanguageModel, prefix: Prefix, options: Options, total: int) -> int:
    """Rows per program, of `total`, as the plan or the user says."""
    prompt, answer = prefix.mask_TS.shape[-1], prefix.answer_T.shape[0]
    return make_plan(lm, prompt, answer, total, options.chunk).rows


def lengths(example: EncodedExample, options: Options) -> tuple[int, int, int]:
    """Bucketed tokens of (question, attacked prompt, answer); programs are made for buckets."""
    answer = 1 if options.target == "first_token" else options.answer_tokens
    return bucket(len(example.question), 64), bucket(len(example.attacked), 64), answer


def plan(lm: LanguageModel, example: EncodedExample, options: Options) -> Plan:
    """How an example of this size will be cut into programs."""
    _, prompt, answer = lengths(example, options)
    rows = {"layer": (options.steps + 1) * lm.config.layers, "joint": options.steps + 1}
    return make_plan(lm, prompt - 1, answer, rows[options.path], options.chunk)
