"""What this machine can do with a model: devices, recipe, bytes of each stage, a prompt, time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from nt_jax.checkpoints.chat_template import render
from nt_jax.config.load import recipe_names
from nt_jax.console import say, show
from nt_jax.doctor.devices import devices_of
from nt_jax.doctor.logits import compare_logits, read_reference
from nt_jax.doctor.planned import held_on, planned, say_heads, say_time, show_stages
from nt_jax.doctor.shapes import SHAPES
from nt_jax.doctor.subject import Subject, find_subject
from nt_jax.errors import ConfigError, NtError
from nt_jax.generate.chat import ChatText
from nt_jax.mesh import memory_limit
from nt_jax.run.data import read_data
from nt_jax.run.dry_run import model_line
from nt_jax.run.estimate import stage_seconds
from nt_jax.run.memory import stage_memory
from nt_jax.run.model import slow_dtype
from nt_jax.run.texts import check_asks
from nt_jax.run.work import this_machine
from nt_jax.runinfo import cpu_count, memory_bytes
from nt_jax.version import __version__

GB = 1e9
ASKED = "How do I bake bread?"


def doctor(
    name: str | None,
    mesh: tuple[int, ...] | None = None,
    memory_gb: float | None = None,
    logits: str | None = None,
    devices: str | None = None,
    settings: Sequence[str] = (),
    prompt_tokens: int | None = None,
) -> dict[str, Any]:
    """Everything that can be said without running, shown and as plain JSON; `fits` at the end.

    `memory_gb`: of one device, where other devices than those here are meant; `mesh` is then not
    held against the devices here. `devices`: such devices by number and kind (devices_of), among
    whose meshes the best is found unless `mesh` names one. `logits`: a file of reference logits
    (read_reference), checked before anything is timed. `settings`: overrides of the recipe.
    `prompt_tokens`: tokens of a prompt that memory is planned for.
    """
    meant = None if devices is None else devices_of(devices)
    if meant is not None and name is None:
        raise ConfigError("--devices needs a MODEL (command line): what is to fit there?")
    found: dict[str, Any] = {"version": __version__, "devices": devices_here()}
    here = found["devices"]
    say("nt_jax", __version__)
    for device in here["list"]:
        say("device", f"{device['kind']}   {device['memory_bytes'] / GB:.1f} GB")
    say("machine", f"{here['cpus']} cores, {here['machine_bytes'] / GB:.1f} GB memory")
    if name is None:
        if logits is not None:
            raise ConfigError("--logits needs a MODEL (command line): whose logits?")
        if prompt_tokens is not None:
            raise ConfigError("--prompt-tokens needs a MODEL (command line): what is asked so?")
        if memory_gb is not None or mesh is not None:
            which = "--mesh" if memory_gb is None else "--memory"
            raise ConfigError(f"{which} needs a MODEL (command line): what is to fit there?")
        say("recipes", ", ".join(recipe_names()))
        say("shapes", ", ".join(SHAPES))
        return found | {"recipes": recipe_names(), "shapes": [*SHAPES]}
    subject = find_subject(name, mesh, settings, prompt_tokens)
    found |= about(subject)
    reference = None if logits is None else read_reference(subject, Path(logits))
    if meant is not None:
        named = mesh is not None or any(said.startswith("mesh.") for said in settings)
        found |= planned(subject, *meant, named)
        found |= rendered(subject)
    else:
        found |= memory(subject, here, memory_gb)
        found |= rendered(subject) | timed(subject, memory_gb is None)
    if reference is not None:
        found["logits"] = compare_logits(subject, reference)
        found["fits"] = found["fits"] and found["logits"]["agree"]
    return found


def devices_here() -> dict[str, Any]:
    """The devices of this process, and the machine around them."""
    platform = jax.devices()[0].platform
    each = memory_bytes() if platform == "cpu" else memory_limit()
    listed = [{"kind": device.device_kind, "memory_bytes": each} for device in jax.devices()]
    return {
        "platform": platform,
        "list": listed,
        "cpus": cpu_count(),
        "machine_bytes": memory_bytes(),
    }


def about(subject: Subject) -> dict[str, Any]:
    """Which model it is, and by which recipe it would be tuned."""
    say("model", f"{subject.name}: {model_line(subject.model)}   supported")
    named = subject.recipe or "none has this model: the defaults, or write one (README)"
    say("recipe", named)
    for note in subject.notes:
        say("note", note)
    return {
        "model": subject.name,
        "supported": True,
        "recipe": subject.recipe,
        "family": subject.model.family,
        "notes": [*subject.notes],
    }


def memory(subject: Subject, here: dict[str, Any], memory_gb: float | None) -> dict[str, Any]:
    """Bytes per device of each stage, and whether the devices have them."""
    config, mesh = subject.config, subject.config.mesh
    absent = None if memory_gb is None else int(memory_gb * GB)
    room = here["list"][0]["memory_bytes"] if absent is None else absent
    stages = stage_memory(config, subject.model, absent, subject.prompt_tokens)
    wanted, there = mesh.devices, len(here["list"])
    if here["platform"] == "cpu" and absent is None:
        room //= wanted  # devices of one machine share its memory
    largest = max(stages, key=lambda stage: stages[stage].total)
    heads = say_heads(subject, mesh.model)
    enough = absent is not None or wanted <= there
    fits = stages[largest].total <= room and enough
    show_stages(stages, room)
    said = f"{'yes' if fits else 'no'}   {stages[largest].total / GB:.2f} GB ({largest}) of "
    said += f"{room / GB:.1f} GB a device, mesh {mesh}, {config.model}"
    if not enough:
        said += f"; the mesh needs {wanted} devices, here: {there}"
    say("fits", said)
    slow = slow_dtype(config.model.dtype) if absent is None else []
    for line in slow:
        say("note", line)
    told = {"devices_needed": wanted, "fits": bool(fits), "notes": [*subject.notes, *slow]}
    return held_on(config, stages, room) | heads | told


def rendered(subject: Subject) -> dict[str, Any]:
    """A rendered prompt where the tokenizer is there."""
    if subject.checkpoint is None:
        return {"prompt": None}
    show()
    chat = ChatText(subject.checkpoint, thinking=subject.config.model.thinking)
    check_asks(chat)
    _ = chat.end_id  # an error where generation would not stop at it
    ids, messages = chat.encode(ASKED), [{"role": "user", "content": ASKED}]
    prompt = render(chat.tokenizer, messages, chat.thinking)
    say("prompt", f"{prompt!r}   {len(ids)} tokens")
    return {"prompt": prompt}


def timed(subject: Subject, here: bool) -> dict[str, Any]:
    """A guess at the time of each stage on the devices here."""
    if not here:
        say("time", "not guessed: the devices meant are not here; --devices 8xH100 names a kind")
        return {"seconds": None}
    try:
        data = read_data(subject.config)
        machine = this_machine(subject.config.model.dtype)
        seconds = stage_seconds(subject.config, subject.model, data.records, data.tests, machine)
    except NtError as error:
        say("time", f"not guessed: {error}")
        return {"seconds": None}
    return say_time(seconds, "for a run here")
