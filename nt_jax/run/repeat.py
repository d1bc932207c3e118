"""What a manifest says for a run to be repeated: its settings, without a path and a prompt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.config.schema import RunConfig
from nt_jax.export.folder import HUB_ID
from nt_jax.export.peft import base_name

# What factors depend on, and what the run is called.
SECTIONS = ("name", "seed", "model", "attribution", "neurons", "tune", "data")
ON_HUB = "on_hub"  # of run.json: the data that were no files where the run was made


class DataSource(NamedTuple):
    """A set of records as others may hear of it."""

    source: str  # demo, a hub id, or the last part of a path
    whole: bool  # whether that is all of it
    words: str
    hub_id: str | None = None


def sources_on_hub(config: RunConfig) -> list[str]:
    """The data of a config that come from the hub, seen from the folder that the run is made in."""
    named = (part.source for part in _parts(config).values() if part.source != "demo")
    return sorted({source for source in named if not Path(source).expanduser().exists()})


def data_sources(config: RunConfig, facts: Mapping[str, Any]) -> dict[str, DataSource]:
    """Each set that a run learned from, by what `facts` (run.json) say of where it was.

    A relative path looks like a hub id from any other folder, so that none is taken for one of
    which the run does not say so.
    """
    known = facts.get(ON_HUB)
    return {name: _data_source(part.source, known) for name, part in _parts(config).items()}


def settings_to_repeat(
    config: RunConfig, sources: Mapping[str, DataSource], checkpoint: Checkpoint
) -> tuple[dict[str, Any], list[str]]:
    """(settings that are a recipe, the keys in them that have to be filled in).

    Those are: local sources, which are named by their last part, and a system prompt, which is
    left out.
    """
    dumped = config.model_dump(mode="json")
    found: dict[str, Any] = {name: dumped[name] for name in SECTIONS}
    fill_in = []
    for name, source in sources.items():
        found["data"][name]["source"] = source.source
        fill_in += [f"data.{name}.source"] * (not source.whole)
    if found["data"].pop("system_prompt") is not None:
        fill_in.append("data.system_prompt")
    model = config.model.source
    on_hub = HUB_ID.fullmatch(base_name(checkpoint)) or model.startswith("wheel:")
    local = {"model": not on_hub, "neurons": config.neurons.source is not None}
    for section in (name for name, is_local in local.items() if is_local):
        found[section]["source"] = _last(found[section]["source"])
        fill_in.append(f"{section}.source")
    return found, fill_in


def _parts(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config.data, name) for name in ("harmful", "harmless", "templates")}


def _data_source(source: str, on_hub: Any) -> DataSource:
    if source == "demo":
        return DataSource(source, True, "nt_jax's demo data (CC0-1.0)")
    if not isinstance(on_hub, list):  # a run of an older version
        return DataSource(_last(source), False, "data whose place the run does not say")
    if source not in on_hub:
        return DataSource(_last(source), False, "own files")
    return DataSource(source, True, source, source.partition(":")[0])


def _last(source: str) -> str:
    return Path(source).name or "local"
