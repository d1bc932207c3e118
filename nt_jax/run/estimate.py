"""How long the stages of a run may take: their arithmetic over what this machine does in a second.

Tokens are counted as a quarter of the characters, so that no tokenizer is needed. It is a guess to
within a factor of two or so, which the screen corrects by how the first stages went.
"""

from collections.abc import Sequence

from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig, TuneConfig
from nt_jax.data.prompts import Prompt, text_of
from nt_jax.data.training import Parts
from nt_jax.eval.multiple_choice import question_text
from nt_jax.eval.prompts import Tests
from nt_jax.models.config import ModelConfig
from nt_jax.models.grouping import laid_out
from nt_jax.run.preflight import Inputs
from nt_jax.run.work import Cost, Machine, Work, this_machine
from nt_jax.train.own_answers import ATTACKED_SHARE
from nt_jax.train.validate import LOOKS, NEW_TOKENS, Validation

CHARACTERS = 4  # of a token
AROUND = 20  # tokens of a chat template around a message
USED = 0.7  # of an answer's room, in the mean
OVERHEAD = {
    "answers": 5.0,
    "attribute": 10.0,
    "select": 3.0,
    "train": 25.0,
    "export": 3.0,
    "base": 5.0,
    "tuned": 5.0,
    "eval": 5.0,
    "report": 4.0,
}  # fmt: skip  compiling, mostly
DISK = 2e8  # bytes a second that an export writes and reads again


def stage_seconds(
    config: RunConfig,
    model: ModelConfig,
    records: Parts,
    tests: Tests,
    machine: Machine,
    ahead: float = 1.0,
) -> dict[str, float]:
    """Expected seconds of every stage, in their order, on the config's devices.

    `ahead`: how much of the tuning's epochs is still to come, of 1.
    """
    published = Cost.of(model, config.model.dtype, config.neurons.first_layer)
    laid = laid_out(model, config.mesh.model)  # heads that are copies or zeros cost as others do
    cost = Cost.of(laid, config.model.dtype, config.neurons.first_layer)
    train, tune, mesh = records["train"], config.tune, config.mesh
    bare = mean_tokens([row.prompt for row in (*train.harmful, *train.harmless)])
    around = mean_tokens([template.text for template in train.templates])
    mixed = bare + around / 2  # half of what is shown stands inside an attack
    side, new = config.eval.batch_size, USED * config.eval.max_new_tokens
    own = len(train.harmless) * (1 + 1 / ATTACKED_SHARE)
    asked = mean_tokens([row.prompt for row in tests.prompts])
    both = cost.answers(len(tests.prompts), asked, new, side) + choosing(config, cost, tests)
    harmless = sum(not row.harmful for row in tests.prompts)
    scored = cost.forward(2 * harmless * (asked + new), 2 * harmless * new)
    looked = Validation.of(records["validation"], tune.validation_answers or LOOKS).every
    looks = -(-tune.epochs // tune.validate_every) if tune.validate_every else 0
    looks += 1 + (tune.last_looks or not looks)  # untuned; and once where nothing is chosen
    seen = cost.answers(len(looked), mean_tokens(looked), NEW_TOKENS, side) * (
        looks if tune.validation_answers else 0.0
    )
    work = {
        "answers": cost.answers(own, mixed, tune.answer_tokens, side),
        "attribute": attribution(config, model, cost, mixed),
        "train": tuning(config, records, cost, mixed, ahead),
        "base": both,
        "tuned": both,
        "eval": scored * (config.eval.perplexity + config.eval.kl),
    }
    found = {name: each.seconds(machine, mesh) for name, each in work.items()}
    found |= {"train": found["train"] + seen.seconds(machine, mesh)}
    found |= {"export": 3 * published.weights / DISK}
    return {name: found.get(name, 0.0) + more for name, more in OVERHEAD.items()}


def choosing(config: RunConfig, cost: Cost, tests: Tests) -> Work:
    """That of the choice questions: their letters in one pass each, their written answers."""
    found = Work(0.0)
    for name in config.eval.datasets:
        mine = [choice for choice in tests.choices if choice.dataset == name]
        if not mine:
            continue
        asked = config.eval.test_set(name)
        shown = [question_text(each, True) for c in mine for each in (*c.shots, c.question)]
        tokens = mean_tokens(shown) * len(shown) / len(mine)
        if asked.measures("letter"):
            found += cost.forward(len(mine) * tokens, len(mine))
        if asked.measures("generate"):
            new = USED * config.eval.max_new_tokens
            found += cost.answers(len(mine), tokens, new, config.eval.batch_size)
    return found


def expected_seconds(config: RunConfig, inputs: Inputs, ahead: float = 1.0) -> dict[str, float]:
    """`stage_seconds` of a run on the devices here."""
    size = inputs.model.checkpoint.config
    machine = this_machine(config.model.dtype)
    return stage_seconds(config, size, inputs.records, inputs.tests, machine, ahead)


def attribution(config: RunConfig, model: ModelConfig, cost: Cost, prompt: float) -> Work:
    """That of the stage attribute."""
    wanted = config.attribution
    if wanted.score == CONTRASTIVE:
        answer = config.tune.answer_tokens
        asked = config.tune.metric_requests or TuneConfig().metric_requests
        rows = 1.4 * asked  # by time, as measured: own answers are half as many, and come twice
        return cost.gradient(prompt + answer, answer) * rows
    examples = 2 * len(wanted.attack_types) * wanted.examples_per_type
    paths = model.layers / 2 if wanted.path == "layer" else 1  # a path begins at its own layer
    suffix = wanted.answer_tokens + 1
    return cost.forward(suffix, suffix) * (examples * wanted.steps * paths * 3)


def tuning(config: RunConfig, records: Parts, cost: Cost, prompt: float, ahead: float) -> Work:
    """That of Algorithm 1: two sets of each batch, the inner one three times over; and lifts."""
    tune, train = config.tune, records["train"]
    every = (len(train.harmful) + len(train.harmless)) / 2
    outer, inner = (2 * (size or every) for size in (tune.global_batch, tune.local_batch))
    if not tune.inner_steps:
        inner = 0.0
    outer *= 1.3 if tune.margin_weight else 1.0
    if tune.outer == "regression":  # 1.15: and how good answers to the bare ones begin
        outer = 1.15 * sum(map(tune.step_requests, range(tune.epochs))) / tune.epochs
    steps = tune.epochs * (outer + inner * tune.inner_steps * (3 if tune.order == 2 else 1))
    lift = tune.lift_prompts if tune.lifts and tune.validation_answers else 0
    answer = tune.answer_tokens
    return cost.gradient(prompt + answer, answer) * (steps * ahead + lift)


def mean_tokens(prompts: Sequence[Prompt]) -> float:
    """Of a chat that asks one of these, about."""
    if not prompts:
        return float(AROUND)
    characters = sum(len(text_of(prompt)) for prompt in prompts) / len(prompts)
    return AROUND + characters / CHARACTERS
