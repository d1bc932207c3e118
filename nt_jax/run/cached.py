"""Stages whose costly part the cache holds once they were made here (nt_jax/cache.py)."""

from collections.abc import Mapping

from nt_jax import cache
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.run.estimate import OVERHEAD


def cached_stages(config: RunConfig) -> tuple[str, ...]:
    """Answers of the untuned model, and its slopes where the score is made of them."""
    return ("answers", "attribute") if config.attribution.score == CONTRASTIVE else ("answers",)


def note_made(config: RunConfig, keys: Mapping[str, str], name: str) -> None:
    """A stage was made from its key, so the next one of that key asks for what the cache holds."""
    if name in cached_stages(config):
        cache.note(keys[name])


def with_cache(
    config: RunConfig, keys: Mapping[str, str], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Expected seconds of stages, in which those that the cache holds take their overhead alone."""
    known = {name for name in cached_stages(config) if cache.noted(keys[name])}
    return {name: OVERHEAD[name] if name in known else took for name, took in seconds.items()}
