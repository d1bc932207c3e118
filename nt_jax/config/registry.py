"""What the settings may name, one line each: judges, metrics, scores, export formats, methods.

A line says where the thing is: "module" or "module:name". It is imported when it is used, so that
help and typos answer without jax. To add one, write its file and add its line here.
"""

import importlib
from typing import Any, NamedTuple


class JudgeLine(NamedTuple):
    """A module with open_judge, check, identity and called (nt_jax/eval/judges/judge.py)."""

    module: str
    takes_source: bool  # NAME:PATH_OR_ID in the settings


PHRASES = "phrases-v2"  # the name of the phrase judge; other rules, other name
JUDGES = {
    "phrases": JudgeLine("nt_jax.eval.judges.phrase_judge", False),
    "classifier": JudgeLine("nt_jax.eval.judges.classifier", True),
    "guard": JudgeLine("nt_jax.eval.judges.guard", True),
}
# (model, example, options) -> Attribution (nt_jax/attribution/integrated.py). A score of all
# examples at once needs no line: attribution.score=MODULE:FUNCTION.
SCORES = {
    "contrastive": "nt_jax.attribution.contrastive:contrastive_score",
    "integrated": "nt_jax.attribution.integrated:integrated_gradients",
    "gradient": "nt_jax.attribution.gradient:gradient_times_activation",
}
CONTRASTIVE = "contrastive"  # reads slopes of the cells in place of single examples
EXAMPLE_SCORES = tuple(name for name in SCORES if name != CONTRASTIVE)


class FormatLine(NamedTuple):
    """What a format is for, and (model, factors, folder, Wanted) -> ExportReport."""

    about: str
    writer: str


FORMATS = {
    "hf": FormatLine("a Hugging Face checkpoint", "nt_jax.export.hf:write"),
    "ia3": FormatLine("an (IA)^3 adapter for PEFT, 4 bytes a neuron", "nt_jax.export.ia3:write"),
    "lora": FormatLine("an exact LoRA adapter for PEFT and vLLM", "nt_jax.export.lora:write"),
    "gguf-lora": FormatLine("that adapter for llama.cpp, Ollama", "nt_jax.export.gguf_lora:write"),
    "gguf": FormatLine("the whole model for llama.cpp, Ollama", "nt_jax.export.gguf:write"),
    "factors": FormatLine("the factors alone, for nt_jax", "nt_jax.export.factors:write"),
}

RANKED = ("lora", "gguf-lora")  # formats that --rank is for

# What each choice of a sweep allows, as a share of the limits that tuning itself keeps within.
PICKS = {"security": 2.0, "balanced": 1.0, "utility": 0.5}


class MetricLine(NamedTuple):
    """A module with COLUMNS and rows (nt_jax/eval/metrics/result.py), and the sets it suits."""

    module: str
    kinds: tuple[str, ...] = ()  # of test sets that may ask for it; none: made of the others


HARMFUL, HARMLESS, CHOICE = "harmful", "harmless", "choice"
METRICS = {
    "refusal": MetricLine("nt_jax.eval.metrics.refusal", (HARMFUL, HARMLESS)),
    "text": MetricLine("nt_jax.eval.metrics.text", (HARMFUL, HARMLESS)),
    "su_f1": MetricLine("nt_jax.eval.metrics.suf1"),
    "agreement": MetricLine("nt_jax.eval.metrics.agreement"),
    "perplexity": MetricLine("nt_jax.eval.metrics.perplexity", (HARMLESS,)),
    "kl": MetricLine("nt_jax.eval.metrics.divergence", (HARMLESS,)),
    "letter": MetricLine("nt_jax.eval.metrics.accuracy", (CHOICE,)),
    "generate": MetricLine("nt_jax.eval.metrics.accuracy", (CHOICE,)),
    "tasks": MetricLine("nt_jax.eval.metrics.tasks"),
    "average": MetricLine("nt_jax.eval.metrics.average"),
}


class MethodLine(NamedTuple):
    """A row of the comparison: its label in tables, and what makes it."""

    label: str  # as the paper writes it where it is the paper's
    maker: str  # () -> Method (nt_jax/compare/method.py)
    searched: bool = True  # False: one published setting, compared only where it is asked for
    usual: bool = True  # False: searched like the others, but only where it is asked for


METHODS = {
    "neurontune": MethodLine("NeuronTune", "nt_jax.compare.methods.neurontune:neurontune"),
    "dinm": MethodLine("DINM", "nt_jax.compare.methods.dinm:dinm"),
    "scans": MethodLine("SCANS", "nt_jax.compare.methods.scans:scans"),
    "cavgan": MethodLine("CAVGAN", "nt_jax.compare.methods.cavgan:cavgan"),
    "system_prompt": MethodLine(
        "Safety system prompt", "nt_jax.compare.methods.system_prompt:system_prompt"
    ),
    "descent": MethodLine(
        "Gradient descent on the factors", "nt_jax.compare.methods.neurontune:descent"
    ),
    "random": MethodLine("Random neurons", "nt_jax.compare.methods.ablations:random", usual=False),
    "paper": MethodLine(
        "NeuronTune as printed", "nt_jax.compare.methods.neurontune:paper", usual=False
    ),
    "ia3": MethodLine("(IA)3, every neuron", "nt_jax.compare.methods.adapters:ia3"),
    "ia3_full": MethodLine(
        "(IA)3, PEFT's targets", "nt_jax.compare.methods.adapters:ia3_full", usual=False
    ),
    "lora": MethodLine("LoRA", "nt_jax.compare.methods.adapters:lora"),
    "lora_metric": MethodLine("LoRA, regression", "nt_jax.compare.methods.adapters:lora_metric"),
    "dpo": MethodLine("DPO", "nt_jax.compare.methods.dpo:dpo", usual=False),
    "nest": MethodLine("NeST", "nt_jax.compare.methods.nest:nest"),
    "dinm_published": MethodLine(
        "DINM, published setting", "nt_jax.compare.methods.dinm:dinm_published", searched=False
    ),
    "scans_published": MethodLine(
        "SCANS, published setting", "nt_jax.compare.methods.scans:scans_published", searched=False
    ),
    "cavgan_published": MethodLine(
        "CAVGAN, published setting",
        "nt_jax.compare.methods.cavgan:cavgan_published",
        searched=False,
    ),
}
USUAL = tuple(name for name, line in METHODS.items() if line.searched and line.usual)
# The paper's tables by number, and what each shows.
TABLES = {
    "1": "DINM on a share of its parameters",
    "2": "safety and utility of every method",
    "3": "general ability, fluency and entropy of every method",
    "4": "NeuronTune without one of its parts",
    "5": "refusal with and without attacks",
    "6": "AdvBench and TruthfulQA",
    "7": "how many neurons",
}


def load(target: str) -> Any:
    """The module or the named part of it that a line stands for."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found
