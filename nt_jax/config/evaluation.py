"""The settings of what is measured, exported and compared."""

import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nt_jax.config.base import Frozen, conflict
from nt_jax.config.registry import JUDGES, METHODS, PHRASES, TABLES, USUAL
from nt_jax.config.test_sets import Labels, TestSet, built_in_sets, labels_of, read_sets

MOST_SETTINGS = 15  # that every method of a comparison has to offer


def _known_set(name: str, info: ValidationInfo) -> str:
    """The name of a test set; load.py makes a hint of the `known` names."""
    known = [*built_in_sets(), *info.data.get("extra", {})]
    if name not in known:
        raise PydanticCustomError("unknown_name", "is no test set", {"known": known})
    return name


SetName = Annotated[str, AfterValidator(_known_set)]


def split_judge(spec: str) -> tuple[str, str]:
    """(kind of judge, its source or "") of KIND or KIND:SOURCE; PHRASES is phrases' full name."""
    kind, _, source = spec.partition(":")
    return "phrases" if kind == PHRASES else kind, source


def _known_judge(spec: str) -> str:
    """The spec itself; what it names is looked for when the run begins."""
    kind, source = split_judge(spec)
    if kind not in JUDGES or JUDGES[kind].takes_source != bool(source):
        known = [name + ":PATH_OR_ID" * line.takes_source for name, line in JUDGES.items()]
        raise PydanticCustomError("unknown_name", "is no judge", {"known": known})
    return spec


JudgeSpec = Annotated[str, AfterValidator(_known_judge)]


def _server_url(raw: str) -> str:
    """An http address without a key in it and without its last slash."""
    parts = urllib.parse.urlsplit(raw)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is no address of a server like http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        rule = "holds a name or a password, which would be written down: leave it out"
        raise conflict("eval.url", f"{parts.scheme}://***@{parts.hostname}", rule)
    return raw.rstrip("/")


ServerUrl = Annotated[str, AfterValidator(_server_url)]


class EvalConfig(Frozen):
    """What is measured before and after."""

    extra: dict[str, TestSet] = Field(default={})
    """your own test sets: the path of a YAML file, or {NAME: {source: FILE, kind: harmful}};
    docs/evaluation.md has every key"""
    sources: dict[SetName, str] = Field(default={})
    """where to read a test set instead, e.g. eval.sources.advbench=my/copy.csv"""
    datasets: tuple[SetName, ...] = Field(
        default=("demo_attack", "demo_direct", "demo_harmless", "demo_harmless_attack"),
        min_length=1,
    )
    """test sets by name: demo_*, safeedit, advbench, alpaca, truthfulqa, mmlu, xstest, ...
    (docs/evaluation.md lists them), or your own from eval.extra"""
    max_new_tokens: int = Field(default=48, ge=1, le=8192)
    """longest answer, in tokens"""
    batch_size: int = Field(default=32, ge=1)
    """answers decoded together"""
    temperature: float = Field(default=0.0, ge=0, le=5)
    """of answers to requests: 0 = greedy; above, tokens are drawn (choice questions never are)"""
    draws: int = Field(default=1, ge=1, le=100)
    """answers drawn for each request; rates are means over them, intervals go by request"""
    draw_seed: int = Field(default=0, ge=0, lt=2**31)
    """seed of the draws; every model gets the same for a request"""
    engine: Literal["jax", "openai"] = "jax"
    """who decodes the answers to test sets: jax = our own engine; openai = a server that speaks
    that protocol, for python -m nt_jax.eval --model FOLDER (docs/serving.md)"""
    url: ServerUrl | None = None
    """of eval.engine=openai: address of the server, e.g. http://127.0.0.1:8000/v1; a key for it
    comes from the environment variable NT_JAX_API_KEY alone"""
    served: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=())
    """of eval.engine=openai: names of its models to measure; of several the first is the base. An
    adapter of SGLang is called BASE:NAME"""
    judge: Literal["phrases"] = "phrases"
    """who decides what is a refusal while tuning"""
    judges: tuple[JudgeSpec, ...] = Field(default=("phrases",), min_length=1)
    """who decides in the evaluation: phrases, classifier:PATH_OR_ID[#LABEL] (needs nt_jax[judge]),
    guard:PATH_OR_ID (a chat model). The first one's verdicts are used throughout; with several,
    their agreement is printed"""
    perplexity: bool = True
    """also score harmless answers by the untuned model"""
    scorer: str | None = Field(default=None, min_length=1)
    """another model to score perplexity with; null = the untuned model"""
    kl: bool = True
    """also measure how far the tuned model's next-token probabilities lie from the untuned one's,
    along its answers to harmless requests"""
    limit: int | None = Field(default=None, ge=1)
    """requests per test set; null = all"""
    system_prompt: str | None = Field(default=None, min_length=1)
    """system message before every test prompt; a record's own one stands in its place"""
    harness: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=())
    """tasks of lm-evaluation-harness (gsm8k, ifeval, ...; extra lm-eval), for python -m nt_jax.eval
    --model RUN: base and tuned on the same questions; eval.limit questions each"""
    harness_folder: str | None = Field(default=None, min_length=1)
    """a folder with tasks of your own, in the harness's YAML form"""
    harness_chat: bool = True
    """ask its questions as chats, under the model's template; false = as plain text, which knows
    neither eval.system_prompt nor model.thinking"""
    gate_margin: float = Field(default=0.03, ge=0, le=1)
    """by how much accuracy on choice questions and tasks may fall (0.03 = three points) before the
    report says that it fell"""

    @field_validator("engine", mode="before")
    @classmethod
    def _no_vllm(cls, raw: Any) -> Any:
        if raw == "vllm":
            raise ValueError("is no engine any more: serve the exported folder with vLLM itself")
        return raw

    @field_validator(
        "served", "harness", mode="before", json_schema_input_type=str | tuple[str, ...]
    )
    @classmethod
    def _one_name(cls, raw: Any) -> Any:
        return [raw] if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _server_is_whole(self) -> Self:
        asked = self.engine == "openai"
        if asked and not (self.url and self.served):
            missing = "eval.url and eval.served"
            raise conflict("eval.engine", "openai", f"needs {missing}: the server and its model")
        if not asked and (self.url or self.served):
            key = "eval.url" if self.url else "eval.served"
            raise conflict(key, self.url or self.served[0], "needs eval.engine=openai")
        for key, names in (("eval.served", self.served), ("eval.harness", self.harness)):
            if len(set(names)) < len(names):
                raise conflict(key, list(names), "names one twice")
        if asked and self.harness:
            rule = "reads likelihoods, which a server does not give: needs eval.engine=jax"
            raise conflict("eval.harness", list(self.harness), rule)
        return self

    @field_validator("extra", mode="before", json_schema_input_type=str | dict[str, TestSet])
    @classmethod
    def _read_extra(cls, raw: Any) -> Any:
        return read_sets(raw) if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Self:
        if wrong := next((name for name in self.extra if "+" in name), None):
            rule = "has a + in its name, which joins the two sets of SU-F1: leave it out"
            raise conflict("eval.extra", wrong, rule)
        labels: dict[str, str] = {}
        for name in dict.fromkeys(self.datasets):
            said = self.labels[name]
            if (other := labels.setdefault(said, name)) != name:
                rule = f"is what both {other} and {name} are called (label): name one otherwise"
                raise conflict("eval.extra", said, rule)
        return self

    @model_validator(mode="after")
    def _draws_differ(self) -> Self:
        if self.draws > 1 and not self.temperature:
            rule = "would give one greedy answer so many times: set eval.temperature above 0"
            raise conflict("eval.draws", self.draws, rule)
        return self

    def test_set(self, name: str) -> TestSet:
        """One test set by name, read from where `sources` says if it says anything."""
        entry = (built_in_sets() | self.extra)[name]
        return entry.model_copy(update={"source": self.sources.get(name, entry.source)})

    @property
    def labels(self) -> Labels:
        """The names of test sets in words."""
        return labels_of(self.extra)


class ExportConfig(Frozen):
    """How the tuned checkpoint is written."""

    dtype: Literal["source", "float32"] = "source"
    """source = as the checkpoint was; float32 = no rounding, larger"""
    strength: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """how far to go from the untuned model (0) to the learned factors (1) in the export and in what
    is measured, in place of what validation kept; nothing is tuned again"""


def _each_once(counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(counts))


Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_each_once)]


def _list_of(raw: Any, every: Iterable[str]) -> Any:
    """A list as it is, the words of a text with commas, or every one for "all"."""
    if raw in ("all", ["all"]):
        return tuple(every)
    words = raw.split(",") if isinstance(raw, str) else [raw] if isinstance(raw, int) else raw
    if not isinstance(words, list | tuple):
        return raw
    words = [word for word in (str(word).strip() for word in words) if word]
    if "all" in words:
        raise PydanticCustomError("all_and_more", "'all' stands alone")
    if not words:
        raise PydanticCustomError("unknown_name", "names none", {"known": [*every, "all"]})
    return tuple(dict.fromkeys(words))


def _known(known: Mapping[str, Any], what: str) -> AfterValidator:
    """Refuses a name that is not in the table."""

    def check(name: str) -> str:
        if name not in known:
            about = {"known": [*known, "all"], "what": what}
            raise PydanticCustomError("unknown_name", "is no {what}", about)
        return name

    return AfterValidator(check)


class CompareConfig(Frozen):
    """How other methods and ablations are compared (python -m nt_jax.compare)."""

    methods: tuple[Annotated[str, _known(METHODS, "method")], ...] = Field(
        default=USUAL,
        min_length=1,
        description=f"methods to compare: {', '.join(METHODS)}; all = every one. "
        "NAME_published keeps to the setting that its authors print or release, without a search",
    )
    tables: tuple[Annotated[str, _known(TABLES, "table")], ...] = Field(
        default=("2",),
        min_length=1,
        description="the paper's tables to write by number, all = every one: "
        + "; ".join(f"{number} {about}" for number, about in TABLES.items()),
    )
    search: int | None = Field(default=None, ge=1, le=MOST_SETTINGS)
    """settings that each method may try on validation data, the same for all; null = as many as
    tuning itself validates (epochs, lifts, strengths) and one, but 6 or more"""
    criterion: Literal["limits", "balance"] = "limits"
    """what the best setting is chosen by: limits = the lesser of refusals under attack and of
    direct ones, while refusals of each harmless kind and perplexity rise, and those of harm fall,
    within their limits, as tuning chooses; balance = harmonic mean of refused harmful requests
    (attacked and direct) and answered harmless ones"""
    validation: int | None = Field(default=None, ge=1)
    """validation requests of each kind that a setting is tried on; null = all"""
    limit: int | None = Field(default=None, ge=1)
    """requests per test set that every method answers; null = all that the run asks"""
    random_seeds: int = Field(default=3, ge=1, le=100)
    """draws of random neurons in table 4"""
    safety_counts: Counts = Field(default=(500, 1000, 1500, 2000), min_length=1)
    """safety neurons in table 7"""
    utility_counts: Counts = Field(default=(500, 1000, 1500), min_length=1)
    """utility neurons in table 7"""

    @field_validator("methods", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _methods(cls, raw: Any) -> Any:
        return _list_of(raw, METHODS)

    @field_validator(
        "tables", mode="before", json_schema_input_type=int | str | tuple[int | str, ...]
    )
    @classmethod
    def _tables(cls, raw: Any) -> Any:
        found = _list_of(raw, TABLES)
        return tuple(sorted(found)) if isinstance(found, tuple) else found
