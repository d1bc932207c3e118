"""What a run reads, checked before any work: --dry-run and the run itself refuse the same things.

Only what needs a forward pass is left to the run; `decided_later` says what that is.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from nt_jax.attribution.own_score import score_hash
from nt_jax.attribution.select import check_counts
from nt_jax.checkpoints.checkpoint import check_mesh, check_tied_head, fingerprint, open_checkpoint
from nt_jax.config.registry import CONTRASTIVE, METRICS
from nt_jax.config.schema import RunConfig
from nt_jax.data.training import Parts, check_prompts, data_hash
from nt_jax.eval.answering import check_scorer, check_tests
from nt_jax.eval.judges.judge import check_judges, judges_hash, open_judge
from nt_jax.eval.prompts import Tests, tests_hash
from nt_jax.export.files import check_links
from nt_jax.generate.chat import ChatModel
from nt_jax.models.config import ModelConfig
from nt_jax.run.data import RunData, read_data
from nt_jax.run.log import check_log
from nt_jax.run.model import chat_model
from nt_jax.run.start import start_factors, start_hash
from nt_jax.run.texts import check_texts
from nt_jax.rundir import RunDirectory
from nt_jax.train.own_answers import ATTACKED_SHARE, Own, check_given, pools_of
from nt_jax.train.pools import Pair
from nt_jax.train.safety_targets import SHIPPED, settle
from nt_jax.train.validate import NEW_TOKENS

STAGES = (
    "answers", "attribute", "select", "train", "export", "base", "tuned", "eval", "report"
)  # fmt: skip

FOLLOWS = ", layers above follow"  # what `gradient` is: scores of before are not kept


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads, known to be sound; no weights are in memory yet."""

    model: ChatModel  # asked under data.system_prompt
    data: RunData
    hashes: dict[str, str]  # of what stages are made from beside each other

    @property
    def records(self) -> Parts:
        """What is tuned and validated on."""
        return self.data.records

    @property
    def tests(self) -> Tests:
        """What is asked afterwards."""
        return self.data.tests


def read_inputs(config: RunConfig, data: RunData | None = None, *, placed: bool = True) -> Inputs:
    """The data and the checkpoint of a run, checked; nothing is written.

    `data` are read unless given. Without `placed` the model is not for running: the mesh then only
    has to divide its sizes, whatever devices there are.
    """
    RunDirectory(config.folder).check_free(STAGES)
    data = data or read_data(config)
    check_judges(config.eval.judges)
    check_log(config.log)
    score = score_hash(config.attribution.score)
    scores = (config.attribution.score, config.attribution.utility_method)
    model = chat_model(config, placed=placed).under(config.data.system_prompt)
    check_links(model.checkpoint)
    check_tied_head(model.checkpoint)
    check_cell(config, model, data)
    check_tests(model.under(config.eval.system_prompt), data.tests, config.eval)
    other = config.eval.scorer if config.eval.perplexity else None
    if other not in (None, config.model.source):
        scorer = chat_model(config, other, placed=False).under(config.eval.system_prompt)
        check_scorer(scorer, data.tests, config.eval)
    hashes = {
        "weights": fingerprint(model.checkpoint), "data": data_hash(data.records),
        "tests": tests_hash(data.tests, config.eval),
        "measuring": measuring_hash(config, data.tests),
        "score": score + FOLLOWS * ("gradient" in scores),
        **({"start": start_hash(config)} if config.neurons.source else {}),
    }  # fmt: skip
    return Inputs(model, data, hashes)


def check_cell(config: RunConfig, model: ChatModel, data: RunData) -> None:
    """Raises what a run would, before any work, where a model and data do not suit its settings."""
    check_sizes(config, model.checkpoint.config)
    start_factors(config, model.checkpoint)
    check_texts(config, model.chat)
    room = {
        "tune.answer_tokens": config.tune.answer_tokens,
        "": NEW_TOKENS * bool(config.tune.validation_answers),  # by no setting
    }
    if config.attribution.score != CONTRASTIVE:
        room["attribution.answer_tokens"] = config.attribution.answer_tokens
    by = max(room, key=lambda name: room[name])
    context = model.checkpoint.config.max_positions
    check_prompts(model.encode, data.records, context, room[by], by)
    check_pools(config, model, data)


def check_sizes(config: RunConfig, model: ModelConfig) -> None:
    """Raises a ConfigError, before any work, if mesh or neuron counts do not fit the model."""
    check_mesh(model, config.mesh.model_dump())
    chosen, shape = config.neurons, (model.layers, model.neurons)
    counts = (1, 1) if chosen.source else (chosen.safety, chosen.utility)
    check_counts(*counts, shape, chosen.first_layer)


def check_pools(config: RunConfig, model: ChatModel, data: RunData) -> None:
    """Raises the DataError that making the sets of Algorithm 1 would, were every answer useful."""
    train, targets = data.records["train"], data.targets
    if targets is None:  # the model decides; the shipped refusals are there in any case
        targets = settle(open_judge(config.eval.judge), train, SHIPPED, None)
        assert targets is not None  # for the type checker: nothing is open here
    check_given(targets, train, config.tune)
    prompts = [record.prompt for record in train.harmless]
    wrapped = train.attacked(prompts[::ATTACKED_SHARE])

    def assumed(asked: Sequence) -> tuple[list[Pair], list[Pair]]:
        return [Pair(prompt, [model.eos_id]) for prompt in asked], []

    own: Own = {"harmless": assumed(prompts), "attacked": assumed(wrapped)}
    pools_of(model, train, own, targets, config.data, config.tune)


def measuring_hash(config: RunConfig, tests: Tests) -> str:
    """sha256 of what may change under the same names.

    That is judges, eval.scorer's files, metrics, and which requests only sound harmful.
    """
    scorer = config.eval.scorer if config.eval.perplexity else None
    files = [fingerprint(open_checkpoint(scorer))] if scorer else []
    marked = [f"{p.dataset} {p.id}" for p in tests.prompts if p.sounds_harmful]
    return judges_hash(config.eval.judges, *files, *METRICS, *marked)


def decided_later(config: RunConfig, data: RunData) -> list[str]:
    """What only the model can tell, in words."""
    later = ["whether a weight is NaN or infinite", "whether memory suffices"]
    if data.targets is None:
        later.append(
            "the safety targets (the model's own refusals if it refuses enough, else ours)"
        )
    if config.data.utility_targets == "self":
        later.append("which harmless requests the model answers well enough to keep")
    for spec in config.eval.judges:
        kind, _, source = spec.partition(":")
        if kind == "classifier" and not Path(source.partition("#")[0]).expanduser().is_dir():
            later.append(f"whether the hub has the judge {source}")
    later.append("whether tuning converges")
    return later
