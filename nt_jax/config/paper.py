"""Where our defaults depart from the NeuronTune paper: one row a setting, and what it buys.

`tune.algorithm: paper` takes the paper's values of the section `tune` as defaults; the recipes of
the paper's four models write down every key of the table. Settings whose default is the paper's,
those that are ours in both, and those that say nothing about the method are listed below the table:
a test knows a place for every one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One setting. `ours`: the paper prints no value, so that the one given here is our choice."""

    key: str
    paper: Any
    buys: str  # what the default buys in its place
    ours: bool = False

    @property
    def whose(self) -> str:
        """Whose the value is."""
        return "ours" if self.ours else "paper"


FIVE_SETS = ("safeedit", "advbench", "alpaca", "truthfulqa", "mmlu")
CLASSIFIER = "classifier:zjunlp/SafeEdit-Safety-Classifier"

# fmt: off
DEPARTURES = (
    Row("data.attacks", "records", "works with data that hold no attacks of their own"),
    Row("data.safety_targets", "given", "safe answers that plainly answer are not learned beside "
        "refusals"),
    Row("data.utility_targets", "given", "the model keeps its own answers; no references needed"),
    Row("attribution.score", "integrated", "one weight for both sets, of hundreds of prompts, "
        "whose slopes tuning needs as well"),
    Row("attribution.utility_method", "gradient", "both sets are scored along the same path"),
    Row("attribution.steps", 20, "a quarter of the time; a run says if the scores miss 1 % of the "
        "change of P(answer)", ours=True),
    Row("attribution.nodes", "midpoint", "as exact with four nodes as midpoints with twenty",
        ours=True),
    Row("tune.target", "answer", "the decision is learned, and no words of one request"),
    Row("tune.outer", "sgd", "every step hears some hundred prompts, and keeps good answers"),
    Row("tune.keep", "last", "over-refusal grows long after refusals of attacks have come"),
    Row("tune.meta_lr", 6.0, "a step of known size, whatever the gradient's", ours=True),
    Row("tune.init_safety", 1.2, "where the factors change nothing", ours=True),
    Row("tune.init_utility", 0.9, "the same", ours=True),
    Row("tune.factor_min", None, "no factor turns a neuron's sign"),
    Row("tune.factor_max", None, "no factor runs away"),
    Row("tune.clip_norm", None, "one odd batch does not decide"),
    Row("tune.metric_requests", 0, "prompts that an outer step is made of"),
    Row("tune.margin_weight", 0.0, "a refusal that is becoming likely is seen before it is said"),
    Row("tune.local_batch", 0, "one prompt a set in place of all of D_local: a tenth of the time"),
    Row("tune.direct_fraction", 0.0, "bare harmful requests are learned only if shown"),
    Row("tune.attacked_harmless_fraction", 0.0, "an attack alone is no reason to refuse"),
    Row("tune.sounds_harmful_fraction", 0.0, "words alone are no reason to refuse"),
    Row("tune.lifts", (), "how near a refusal prompts are is chosen, not left to chance"),
    Row("eval.datasets", FIVE_SETS, "runs without a gated data set"),
    Row("eval.judges", (CLASSIFIER, "phrases"), "needs no torch"),
    Row("eval.max_new_tokens", 600, "a refusal shows in its first sentences"),
)
# fmt: on

# The default is what the paper prints; another value is a departure like those above.
AS_PRINTED = {
    "attribution.weighting": "alpha",
    "attribution.path": "layer", "attribution.attack_selection": True,
    "attribution.attack_types": ("pretending", "attention shifting", "privilege escalation"),
    "attribution.examples_per_type": 1, "neurons.first_layer": 0,
    "tune.order": 2, "tune.utility_sign": "printed", "tune.kl_weight": 0.0,
    "tune.token_decay": 1.0, "tune.average": 0.0, "tune.schedule": "constant",
    "tune.strengths": (),
}  # fmt: skip
# The paper prints nothing, or counts for one model: ours in both, or the dial of a run.
OURS = frozenset({
    "attribution.target", "attribution.utility_target", "attribution.answer_tokens",
    "neurons.safety", "neurons.utility",
    "tune.epochs", "tune.inner_steps", "tune.inner_lr", "tune.safety_weight", "tune.global_batch",
    "tune.local_fraction", "tune.answer_tokens",
})  # fmt: skip
# Sources, sizes of machines, what is looked at on the way: nothing of the method.
NO_PART = frozenset({
    "attribution.chunk", "tune.algorithm", "tune.metric_damping", "tune.sequence_tokens",
    "tune.step_prompts", "tune.lift_from",
    "tune.validate_every", "tune.validation_answers", "tune.separation_every",
    "tune.patience", "tune.max_over_refusal", "tune.opening",
    "eval.extra", "eval.sources", "eval.batch_size", "eval.engine", "eval.judge",
    "eval.perplexity", "eval.scorer", "eval.kl", "eval.limit", "eval.system_prompt",
    "eval.harness", "eval.harness_folder", "eval.harness_chat", "eval.gate_margin",
    "eval.url", "eval.served", "eval.temperature", "eval.draws", "eval.draw_seed",
    "neurons.source", "data.leave_out_tests", "data.system_prompt",
    *(f"data.{name}.{key}" for name in ("harmful", "harmless", "templates")
      for key in ("source", "split", "limit", "columns")),
})  # fmt: skip


def paper_section(section: str) -> dict[str, Any]:
    """Key -> the paper's value, of the settings of one section that depart from it."""
    named = ((row.key.partition("."), row.paper) for row in DEPARTURES)
    return {key: value for (name, _, key), value in named if name == section}


def departures(settings: Mapping[str, Any]) -> Iterator[tuple[Row, Any]]:
    """(row, value) of the settings (nested, as a config is dumped) that are not the paper's."""
    printed = [Row(key, value, "as set here") for key, value in AS_PRINTED.items()]
    for row in (*DEPARTURES, *printed):
        section, _, key = row.key.partition(".")
        value = settings[section][key]
        if value != (list(row.paper) if isinstance(row.paper, tuple) else row.paper):
            yield row, value
    if not settings["tune"]["inner_steps"]:
        yield Row("tune.inner_steps", 1, "as set here: no inner loop", ours=True), 0


def departure_lines(settings: Mapping[str, Any]) -> list[str]:
    """Those settings as aligned lines: key = value, the paper's value, what ours buys."""
    cells = [
        (row.key, as_written(value), as_written(row.paper) + " (ours)" * row.ours, row.buys)
        for row, value in departures(settings)
    ]
    if not cells:
        return []
    cells.insert(0, ("setting", "here", "paper", "what it buys"))
    widths = [  # of what is short: a long list of names pushes its own line aside only
        max((len(cell) for cell in column if len(cell) <= 36), default=0)
        for column in zip(*cells, strict=True)
    ]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def markdown_table(defaults: Mapping[str, Any]) -> str:
    """The table of docs/method.md."""
    lines = ["| setting | paper | default | what the default buys |", "|---|---|---|---|"]
    for row in DEPARTURES:
        section, _, key = row.key.partition(".")
        paper = as_written(row.paper) + " (ours)" * row.ours
        lines.append(
            f"| `{row.key}` | {paper} | {as_written(defaults[section][key])} | {row.buys} |"
        )
    return "\n".join(lines)


def as_written(value: Any) -> str:
    """A value as YAML has it, on one line; numbers to four places."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_written, value))}]"
    if isinstance(value, float):
        value = round(value, 4)
    return "null" if value is None else str(value)
