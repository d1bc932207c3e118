"""What may be asked of the comparison: methods and tables by name. Imports nothing heavy."""

import difflib
from collections.abc import Sequence

from nt_jax.errors import ConfigError

# name -> label in tables, as the paper writes it where it is the paper's
METHODS = {
    "neurontune": "NeuronTune",
    "dinm": "DINM",
    "scans": "SCANS",
    "cavgan": "CAVGAN",
    "system_prompt": "Safety system prompt",
    "descent": "Gradient descent on the factors",
    "lora": "LoRA",
}
# number -> what it shows
TABLES = {
    "1": "DINM on a share of its parameters",
    "2": "safety and utility of every method",
    "3": "general ability, fluency and entropy of every method",
    "4": "NeuronTune without one of its parts",
    "5": "refusal with and without attacks",
    "6": "AdvBench and TruthfulQA",
    "7": "how many neurons",
}
DEFAULT_TABLES = ("2",)


def chosen_methods(text: str | None) -> tuple[str, ...]:
    """The methods that `--methods a,b` names, in that order; all without it, or for `all`."""
    if text is None or text.strip() == "all":
        return tuple(METHODS)
    return _named(text, METHODS, "--methods", "method")


def chosen_tables(text: str | None) -> tuple[str, ...]:
    """The tables that `--tables 1,2` names, by number; `all` for every one."""
    if text is None:
        return DEFAULT_TABLES
    if text.strip() == "all":
        return tuple(TABLES)
    return tuple(sorted(_named(text, TABLES, "--tables", "table")))


def _named(text: str, known: Sequence[str] | dict, option: str, what: str) -> tuple[str, ...]:
    """The comma-separated words of `text`, each once; raises a ConfigError for an unknown one."""
    words = dict.fromkeys(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError(f"{option} is empty (command line): name one of {', '.join(known)}")
    for word in words:
        if word == "all":
            raise ConfigError(f"{option}: 'all' stands alone, not as in '{text.strip()}'")
        if word not in known:
            close = difflib.get_close_matches(word, [*known, "all"], n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"choose of {', '.join(known)}"
            raise ConfigError(f"no {what} is called '{word}' ({option}): {hint}")
    return tuple(words)
