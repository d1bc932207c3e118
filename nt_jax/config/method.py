"""The settings of the method itself: attribution, the neurons chosen, and how they are tuned.

The defaults of tuning are one recipe for every model (docs/tuning.md); the paper's own settings
where they differ are in docs/method.md.
"""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from nt_jax.config.base import Frozen, conflict
from nt_jax.config.paper import paper_section
from nt_jax.config.registry import EXAMPLE_SCORES, SCORES

Target = Literal["mean_logprob", "first_token", "sum_logprob"]
Times = Annotated[float, Field(gt=0, le=100)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Nats = Annotated[float, Field(ge=-10, le=10)]
ADAM_STEP = 0.03  # by how much Adam moves a factor, unless told
LEAST_SLOPES = 8
AttackType = Literal["pretending", "attention shifting", "privilege escalation", "emotion"]


def _known_score(spec: str) -> str:
    """The spec itself; a function is imported when the run begins."""
    if spec not in SCORES and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec):
        known = [*SCORES, "MODULE:FUNCTION"]
        raise PydanticCustomError("unknown_name", "is no score", {"known": known})
    return spec


class AttributionConfig(Frozen):
    """How neurons are scored (equations 3 and 4 of the paper)."""

    score: Annotated[str, AfterValidator(_known_score)] = "contrastive"
    """contrastive (which neurons tell harmful from harmless requests, over tune.metric_requests;
    scores the utility set too and reads no other key here), integrated (equation 4), gradient
    (plain gradient x activation), or your own MODULE:FUNCTION, which scores the utility set too and
    reads only the keys that choose examples and answers (docs/attribution.md)"""

    steps: int = Field(default=4, ge=1, le=1000)
    """nodes on the path from q to (p, q); a run says if they miss more than 1 % of the change of
    P(answer) in a layer"""
    nodes: Literal["gauss-legendre", "midpoint", "left", "right"] = "gauss-legendre"
    """gauss-legendre, or a node at the middle, the left or the right end of equal intervals"""
    weighting: Literal["alpha", "standard"] = "alpha"
    """alpha = equation 4 as printed; standard = integrated gradients, which sum to P(end) -
    P(start)"""
    path: Literal["layer", "joint"] = "layer"
    """move one layer at a time, or all layers together"""
    target: Target = "mean_logprob"
    """P(answer) behind the safety scores"""
    utility_target: Target = "sum_logprob"
    """P(answer) behind the utility scores"""
    utility_method: Literal[EXAMPLE_SCORES] = "integrated"  # pyright: ignore[reportInvalidTypeForm]
    """the score of the utility set beside integrated or gradient for safety"""
    answer_tokens: int = Field(default=32, ge=1, le=4096)
    """answer tokens that are scored"""
    attack_types: tuple[AttackType, ...] = Field(
        default=("pretending", "attention shifting", "privilege escalation"), min_length=1
    )
    """kinds of attack that examples are taken from"""
    attack_selection: bool = True
    """use only attacks of exactly one of these types; false = those of several types as well"""
    examples_per_type: int = Field(default=1, ge=1, le=1000)
    """examples for each attack type"""
    chunk: int = Field(default=0, ge=0)
    """rows per forward pass; 0 = as many as are fastest within half of the free memory"""


class NeuronsConfig(Frozen):
    """Which neurons may change, how many (knob 1 of 3). Other counts need no new attribution."""

    safety: int = Field(default=500, ge=1)
    """neurons that carry refusal, over all layers. More: unseen attacks and direct harmful requests
    are refused more often, harmless ones too"""
    utility: int = Field(default=1500, ge=1)
    """neurons that carry useful answers. More: fewer harmless requests are refused and the entropy
    of their answers stays closer to the original"""
    first_layer: int = Field(default=0, ge=0)
    """lowest layer whose neurons may change. Layers below it only run forward, so half of them
    makes tuning nearly twice as fast"""
    source: str | None = Field(default=None, min_length=1)
    """factors, or an (IA)^3 adapter of down_proj, to go on from: its neurons are tuned from their
    factors, without a first move; null = neurons are chosen by their scores, as many as above"""

    @property
    def counts(self) -> dict[str, int]:
        """How many are chosen, and from which layer on."""
        return {name: getattr(self, name) for name in ("safety", "utility", "first_layer")}


class TuneConfig(Frozen):
    """How the factors are learned (Algorithm 1); holds knob 2 (how much safety), 3 (how long)."""

    algorithm: Literal["nt_jax", "paper"] = "nt_jax"
    """nt_jax = the defaults below; paper = Algorithm 1 as printed: the paper's values where
    docs/method.md lists a departure, unless a key says otherwise"""
    target: Literal["opening", "answer"] = "opening"
    """what is learned as a refusal: opening = its first words (tune.opening), and what follows is
    the model's own; answer = tune.answer_tokens of those that data.safety_targets names
    """
    opening: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = (
        "I'm sorry, but I can't"
    )
    """the first words of a refusal, at most twelve tokens, learned where tune.target is opening"""
    epochs: int = Field(default=7, ge=1)
    """outer updates (knob 3 of 3: how long). More: the factors go further; how near a refusal they
    bring all prompts, and how far of the way is kept, is chosen afterwards (tune.lifts,
    tune.strengths)"""
    order: Literal[2, 1] = 2
    """2 = exact meta-gradient; 1 = drops its second-order term, faster"""
    inner_steps: int = Field(default=1, ge=0, le=64)
    """inner updates per epoch (K)"""
    inner_lr: float = Field(default=1.0, ge=0)
    """step size of the inner updates (eta)"""
    utility_sign: Literal["printed", "descent"] = "printed"
    """inner utility step: ascent as Algorithm 1 prints it, or descent"""
    outer: Literal["regression", "adam", "sgd"] = "regression"
    """how line 21 steps: regression = a logistic regression of the decisions on
    tune.metric_requests prompts, in a metric that keeps good answers; adam; sgd = plain gradient
    descent, as printed. The two last step by the losses on tune.global_batch prompts"""
    schedule: Literal["cosine", "constant"] = "constant"
    """constant, as printed; cosine = the outer step falls to a tenth along a half cosine"""
    meta_lr: float = Field(default=1 / 30, gt=0)
    """the outer step (eta_meta). Under regression how long it is: the root mean square of the
    changes over all neurons of the tuned layers, so few chosen ones go further than many; under
    adam by how much it moves a factor; what sgd multiplies the meta-gradient by"""
    safety_weight: float = Field(default=0.5, ge=0, le=1)
    """lambda (knob 2 of 3: how much safety). Towards 1: more refusals in every column; towards 0:
    fewer refused harmless requests, fewer refused attacks"""
    kl_weight: float = Field(default=0.0, ge=0)
    """pull of harmless answers to the base model, where tune.outer is adam or sgd"""
    margin_weight: float = Field(default=1.0, ge=0)
    """weight of a loss under adam and sgd that keeps harmless requests' answers 2 nats per token
    likelier than refusals"""
    init_safety: float = Field(default=1.0, ge=-1000, le=1000)
    """first factor of safety neurons"""
    init_utility: float = Field(default=1.0, ge=-1000, le=1000)
    """first factor of utility neurons"""
    factor_min: float | None = Field(default=0.0, ge=-1000, le=1000)
    """no factor goes below this; null = no bound"""
    factor_max: float | None = Field(default=4.0, ge=-1000, le=1000)
    """no factor goes above this; null = no bound"""
    metric_requests: int = Field(default=720, ge=0)
    """training prompts whose slopes are measured, a quarter each attacked or bare, harmful or
    harmless: each epoch of tune.outer = regression is made of so many, and the contrastive score;
    0 = adam, unless tune.outer says sgd"""
    step_prompts: tuple[Times, ...] = Field(default=(1.0, 1.0, 1.0, 1.0, 2.0), min_length=1)
    """prompts of each epoch's regression, in multiples of tune.metric_requests; the last counts for
    the epochs after it. More: what is learned is less about just these prompts"""
    metric_damping: float = Field(default=0.0001, gt=0)
    """how much movement of good answers a regression tolerates. Lower: they keep closer to the
    untuned model's, and less is learned"""
    clip_norm: float | None = Field(default=1.0, gt=0, le=1e9)
    """largest norm of a gradient, of the inner loop and of an outer step; null = any"""
    global_batch: int = Field(default=6, ge=0)
    """prompts of an outer batch of adam or sgd; 0 = all, bare and attacked unless a share is 0"""
    local_batch: int = Field(default=1, ge=0)
    """prompts of an inner batch; 0 = all, as printed, each bare and attacked unless a share is 0"""
    local_fraction: float = Field(default=0.25, gt=0, le=0.5)
    """share of the training requests and attacks that the inner loop draws from; adam and sgd learn
    from the rest alone, a regression looks at all"""
    direct_fraction: float = Field(default=0.5, ge=0, le=1)
    """share of harmful requests shown without an attack; under regression what these weigh"""
    attacked_harmless_fraction: float = Field(default=0.5, ge=0, le=1)
    """share of harmless requests shown inside an attack, the same as around the harmful ones of the
    batch; under regression what these weigh. More: fewer of them are refused, and fewer attacks"""
    sounds_harmful_fraction: float = Field(default=0.7, ge=0, lt=1)
    """share of bare harmless requests that only sound harmful, where data tell; 0 = as they come"""
    answer_tokens: int = Field(default=16, ge=1, le=4096)
    """answer tokens in the losses"""
    token_decay: float = Field(default=1.0, gt=0, le=1)
    """weight of an answer token relative to the one before it in the losses; 1 = all alike, under
    which every token of an opening is learned"""
    sequence_tokens: int = Field(default=0, ge=0)
    """most tokens of a sequence of the inner loop, of adam and sgd, in which prompts and answers
    are laid end to end; fewer need less memory; 0 = what the memory model allows"""
    average: float = Field(default=0.0, ge=0, lt=1)
    """how much of their past the validated factors keep: an exponential mean; 0 = none"""
    validation_answers: int = Field(default=4560, ge=0)
    """answers that validation may generate of the untuned model and of five lifts together; looks
    at epochs and strengths come on top. More: rises of refusals of harmless requests are known to
    be within their limits, not only estimated; 0 = none, and the last factors are kept"""
    validate_every: int = Field(default=0, ge=0)
    """epochs between validations; 0 = only at the end, for tune.lifts and tune.strengths"""
    separation_every: int = Field(default=10, ge=0)
    """epochs between looks at how well refusals tell harmful from harmless validation prompts:
    cheaper than validation, as nothing is generated; 0 = never"""
    keep: Literal["best", "last"] = "best"
    """the factors that are kept: of the best validated epoch, or of the last one"""
    patience: int = Field(default=0, ge=0)
    """validations (tune.validate_every) without a new best before stopping; 0 = never early"""
    lifts: tuple[Nats, ...] = (-0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4)
    """nats by which the last factors may bring bare prompts, those inside attacks, and, 0.6 lower,
    those inside attacks inside attacks nearer a refusal: of each the highest within the limits is
    searched for by halving and kept, or more than the highest of these where that is within them;
    [] = none. They are made of slopes, so only under tune.outer = regression"""
    lift_from: float = Field(default=0.85, gt=0, le=1)
    """how far from the first factors to the last the lifts start: 1 = all the way. Less: good
    answers are kept, and harm is parted nearly as well"""
    strengths: tuple[Strength, ...] = ()
    """how far to go from 1 to the learned and lifted factors, 0 or more: the strongest within the
    limits is searched for by halving, and the best seen is kept; [] = as learned"""
    max_over_refusal: float = Field(default=0.03, ge=0, le=1)
    """rise in refused harmless requests that validation allows; of those that sound harmful or
    stand inside attacks it allows 10 points, inside nested ones 20, of all bare ones together 2
    points more than this, of perplexity 15 %; refusals of harm may fall by 5 points"""

    @model_validator(mode="before")
    @classmethod
    def _as_printed(cls, raw: Any) -> Any:
        """The paper's values where `algorithm: paper` is asked for and nothing else is said."""
        if not isinstance(raw, dict):
            return raw
        if raw.get("algorithm") == "paper":
            paper = paper_section("tune")
            if raw.get("outer", "sgd") != "sgd":
                paper.pop("meta_lr")  # it multiplies a gradient; other steps have a length
            raw = paper | raw
        if raw.get("metric_requests") == 0 and "outer" not in raw:
            raw = raw | {"outer": "adam"}
        if raw.get("outer") == "adam" and "meta_lr" not in raw:
            raw = raw | {"meta_lr": ADAM_STEP}
        if raw.get("outer", "regression") != "regression" and "lifts" not in raw:
            raw = raw | {"lifts": ()}
        return raw

    @model_validator(mode="after")
    def _regression_has_requests(self) -> Self:
        if self.outer == "regression" and not self.metric_requests:
            rule = "is what tune.outer = regression learns from: give it some, or choose sgd"
            raise conflict("tune.metric_requests", 0, rule)
        if 0 < self.metric_requests < LEAST_SLOPES:
            rule = f"is fewer than {LEAST_SLOPES}, two of each kind of prompt: give it more, or 0"
            raise conflict("tune.metric_requests", self.metric_requests, rule)
        least = round(min(self.step_prompts) * self.metric_requests)
        if self.outer == "regression" and least < LEAST_SLOPES:
            rule = f"makes an epoch of {least} prompts; {LEAST_SLOPES} are the fewest"
            raise conflict("tune.step_prompts", list(self.step_prompts), rule)
        if self.lifts and self.outer != "regression":
            rule = "is for tune.outer = regression, whose slopes a lift is made of: give it []"
            raise conflict("tune.lifts", list(self.lifts), rule)
        if self.kl_weight and self.outer == "regression":
            rule = "is for adam and sgd; a regression has tune.metric_damping"
            raise conflict("tune.kl_weight", self.kl_weight, rule)
        return self

    @model_validator(mode="after")
    def _patience_has_validations(self) -> Self:
        if self.patience and not (
            self.validate_every and self.validation_answers and self.keep == "best"
        ):
            rule = "counts validations without a new best: set tune.validate_every and keep=best"
            raise conflict("tune.patience", self.patience, rule)
        return self

    @model_validator(mode="after")
    def _factors_in_order(self) -> Self:
        low, high = self.bounds
        if low >= high:
            raise conflict("tune.factor_min", low, f"must be below tune.factor_max = {high}")
        for key in ("init_safety", "init_utility"):
            if not low <= (first := getattr(self, key)) <= high:
                bounds = f"tune.factor_min = {low} and tune.factor_max = {high}"
                raise conflict(f"tune.{key}", first, f"must lie between {bounds}")
        return self

    @property
    def last_looks(self) -> int:
        """Validations after the last epoch, at most: by halving; strength 1 was seen as a lift."""
        both = bool(self.lifts and 1.0 in self.strengths)
        return self.lift_looks + len(self.strengths).bit_length() - both

    @property
    def lift_looks(self) -> int:
        """How often lifts are looked at, at most: by halving, where all sides meet, one lower.

        Looks that are left go to what is above the highest, where that is within the limits.
        """
        return len(self.lifts).bit_length() + 2 * (len(self.lifts) > 1)

    def step_requests(self, epoch: int) -> int:
        """Prompts whose slopes an epoch is made of, epochs counted from 0."""
        times = self.step_prompts[min(epoch, len(self.step_prompts) - 1)]
        return round(times * self.metric_requests)

    @property
    def lift_prompts(self) -> int:
        """Prompts whose slopes make the lifts, a sixth each kind: it is their mean that counts."""
        return min(self.metric_requests, 360)

    @property
    def bounds(self) -> tuple[float, float]:
        """(lowest, highest) factor; infinite where there is no bound."""
        low, high = self.factor_min, self.factor_max
        return -math.inf if low is None else low, math.inf if high is None else high
