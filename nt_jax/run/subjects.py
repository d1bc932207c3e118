"""Which models an evaluation measures: local ones, a run's, with an adapter, or served ones."""

import hashlib
import re
from pathlib import Path

import numpy as np

from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.eval.metrics.result import BASE, TUNED, in_order
from nt_jax.eval.under_test import (
    SERVED,
    ModelUnderTest,
    adapted_model,
    is_adapter,
    tuned_model,
)
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.served import Server, differing_counts
from nt_jax.run.export import run_factors
from nt_jax.run.model import chat_model


def subjects(
    config: RunConfig, source: str, beside_base: bool, adapter: str | None = None
) -> tuple[RunConfig, list[ModelUnderTest], ChatModel]:
    """(the config, a run's model in it if a run is measured; models under test; its own model)."""
    system = config.eval.system_prompt
    if config.eval.engine == "openai":
        model = chat_model(config, source, placed=False).under(system)
        return config, served_models(config, model), model
    if (Path(source) / "run.json").is_file():
        if adapter is not None:
            raise ConfigError(
                f"--adapter needs the model that it belongs to, not the run {source}."
            )
        tuned_on, factors = run_factors(Path(source))
        config = config.model_copy(update={"model": tuned_on.model})
        model = chat_model(config).under(system)
        return config, [ModelUnderTest(BASE, model), tuned_model(model, factors)], model
    same = source == config.model.source
    if beside_base and same and adapter is None:
        raise ConfigError(
            f"--beside-base (command line): {source} is the base itself. Name the base with "
            "--config RECIPE or model.source=BASE."
        )
    if config.model.frozen is not None and not same:
        raise ConfigError(
            f"model.frozen = {config.model.frozen} is for a model that is tuned: {source} is "
            "measured with the weights that it has. Say model.frozen=null."
        )
    if config.model.frozen is not None and is_adapter(adapter):
        raise ConfigError(
            f"model.frozen = {config.model.frozen}: the adapter {adapter} changes matrices that "
            "are kept so. Say model.frozen=null."
        )
    own = chat_model(config).under(system)
    other = own if same else chat_model(config, source).under(system)
    if adapter is not None:
        base = [ModelUnderTest(BASE, other)] if beside_base else []
        return config, [*base, adapted_model(other, adapter, short_name(adapter))], own
    asked = ModelUnderTest(short_name(source), other)
    beside = [ModelUnderTest(BASE, own)] if beside_base else []
    return config, [*beside, asked], own


def check_served(source: str, beside_base: bool = False, adapter: str | None = None) -> None:
    """Raises a ConfigError where a command asks more than one server can do, or of no server."""
    if beside_base or adapter is not None or (Path(source) / "run.json").is_file():
        what = "--adapter" if adapter else "--beside-base" if beside_base else f"the run {source}"
        raise ConfigError(
            f"eval.engine=openai measures what the server serves, not {what}. --model names the "
            "folder whose tokenizer and template the prompts are made with, e.g. the exported one; "
            "eval.served=[BASE, TUNED] compares two models of one server."
        )


def served_models(config: RunConfig, model: ChatModel) -> list[ModelUnderTest]:
    """The models of eval.served, known to be there; of several the first is the base."""
    url, names = config.eval.url or "", config.eval.served
    servers = [Server(url, name, config.eval.batch_size) for name in names]
    for server in servers:
        server.check()
    called = [TUNED if name.split(":")[-1] == TUNED else short_name(name) for name in names]
    if len(names) > 1:
        called[0] = BASE
    if len(set(called)) < len(called):
        raise ConfigError(f"eval.served: {', '.join(names)} would all be called {called[-1]}.")
    return [
        ModelUnderTest(mine, model, server=server)
        for mine, server in zip(called, servers, strict=True)
    ]


def short_name(source: str) -> str:
    """What a model's rows and folder are called: the last part of where it lies, or its run."""
    parts = [part for part in re.split(r"[/:]", source) if part not in ("", ".", "..")]
    if parts[-2:] == ["export", "hf"] and len(parts) > 2:
        parts = parts[:-2]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1]).strip("-._") if parts else ""
    return name if name and name not in (BASE, TUNED) else "model"


def identity(subject: ModelUnderTest, adapter: str | None = None) -> str:
    """sha256 of a model's weights and factors, and of the adapter that may be in them.

    The untuned model beside that of an adapter has none in it.
    """
    adapter = None if subject.name == BASE else adapter
    factors = b"" if subject.scale_LF is None else np.asarray(subject.scale_LF).tobytes()
    weights = fingerprint(subject.model.checkpoint)
    digest = hashlib.sha256(weights.encode() + factors)
    if subject.server is not None:  # its weights are not known, nor whether they change
        digest.update(f"{subject.server.url} {subject.server.name}".encode())
    for file in sorted(Path(adapter or "").glob("adapter_*")) if adapter else ():
        if file.is_file():  # no folder, device or pipe
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def told_of(subject: ModelUnderTest) -> dict:
    """What run.json says about a measured model."""
    source, factors = subject.model.checkpoint.source, subject.scale_LF is not None
    served = {} if subject.server is None else {"served": subject.server.name}
    return {"name": subject.name, "source": source, "factors": factors} | served


def served_notes(answers: list[dict]) -> list[str]:
    """What to know of served answers, beside what a server did not say of its prompts."""
    ways = in_order(row["served"]["by"] for row in answers if "served" in row)
    asked = f"answers came from a server ({', '.join(ways)})" if ways else "no answer was asked for"
    counts = differing_counts(answers)
    silent = f"letters, KL and perplexity were not measured: {SERVED}"
    return [asked, silent, *([counts] if counts else [])]
