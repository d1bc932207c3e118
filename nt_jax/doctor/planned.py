"""What doctor says about devices that need not be here: each stage, the best mesh, the time."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.schema import DataConfig, RunConfig
from nt_jax.console import clock, say, show
from nt_jax.doctor.devices import Kind
from nt_jax.doctor.meshes import Layout, fastest, layout, layouts, nearest, smallest
from nt_jax.doctor.subject import Subject
from nt_jax.errors import ConfigError, NtError, brief
from nt_jax.models.grouping import grouping_of
from nt_jax.run.data import RunData, read_data
from nt_jax.run.memory import Held

GB = 1e9
CLOSE = 0.95  # of what there is: plans have missed what the compiler holds by as much


def planned(subject: Subject, count: int, kind: Kind, named: bool) -> dict[str, Any]:
    """What a run takes on the mesh of its config, where that was `named`; shown and as JSON.

    Else on the best mesh of `count` devices. A ConfigError where the mesh needs more of them.
    """
    config, (data, instead) = subject.config, data_or_demo(subject.config)
    rest = (subject.model, data.records, data.tests)
    found = layouts(config, *rest, count, kind, subject.prompt_tokens)
    best, quick = smallest(found), fastest(found)
    if named and config.mesh.devices > count:
        raise ConfigError(
            f"mesh {config.mesh} needs {config.mesh.devices} devices, --devices names {count} "
            "(command line)"
        )
    at = best or nearest(found)
    if named:
        at = layout(config, *rest, kind, subject.prompt_tokens)
    share = f"{at.room / GB:.0f} of {kind.memory / GB:.0f} GB each, which is what jax takes"
    say("planned", f"mesh {at} of {count} x {kind.name}, {share}; {config.model}")
    say("source", kind.source)
    heads = say_heads(subject, at.mesh.model)
    show_stages(at.stages, at.room)
    say("fits", f"{'yes' if at.fits else 'no'}   {sized(at)}")
    if best is None or quick is None:
        near = nearest(found)
        say("mesh", f"none of {count} x {kind.name} fits; nearest: {near}, {sized(near)}")
    else:
        told = f"fastest: {quick}, about {clock(quick.time)}"
        say("mesh", f"smallest that fits: {best}, about {clock(best.time)}; {told}")
    if instead:
        say("note", f"times are for the demo's data, as the recipe's cannot be read: {instead}")
    return {
        **held_on(config.model_copy(update={"mesh": at.mesh}), at.stages, at.room),
        **heads,
        **say_time(at.seconds, f"on mesh {at}"),
        "times_for": "the demo's data" if instead else "the recipe's data",
        "device": kind.name,
        "devices_needed": at.devices,
        "fits": at.fits,
        "recommended_mesh": best and [best.mesh.data, best.mesh.model],
        "fastest_mesh": quick and [quick.mesh.data, quick.mesh.model],
    }


def data_or_demo(config: RunConfig) -> tuple[RunData, str | None]:
    """The data of a run, or the demo's and why: memory is planned without either."""
    try:
        return read_data(config), None
    except NtError as error:
        demo = {"data": DataConfig(), "eval": EvalConfig()}
        return read_data(config.model_copy(update=demo)), brief(error)


def say_heads(subject: Subject, ways: int) -> dict[str, Any]:
    """How heads lie on a model axis, told where it is not as they were published."""
    found = grouping_of(subject.model, ways)
    if not found.as_published:
        say("heads", str(found))
    return {"heads_on_mesh": [found.heads, found.kv_heads]}


def sized(at: Layout) -> str:
    """The largest stage of a mesh in words."""
    held = at.stages[at.largest].total
    return f"{held / GB:.2f} GB ({at.largest}) of {at.room / GB:.1f} GB a device"


def show_stages(stages: Mapping[str, Held], room: int) -> None:
    """A line a stage: its bytes on a device, and of what."""
    show()
    for stage, held in stages.items():
        parts = dataclasses.asdict(held).items()
        of = ", ".join(f"{name} {size / GB:.2f}" for name, size in parts if size)
        over = "   close to all there is" * (held.total > CLOSE * room)
        over = "   more than there is" if held.total > room else over
        say(stage, f"{held.total / GB:8.2f} GB a device   ({of}){over}")


def held_on(config: RunConfig, stages: Mapping[str, Held], room: int) -> dict[str, Any]:
    """The plan of a mesh as plain JSON."""
    return {
        "mesh": [config.mesh.data, config.mesh.model],
        "fsdp": config.mesh.fsdp,
        "dtype": config.model.dtype,
        "frozen": config.model.frozen,
        "bytes_per_device": {stage: held.total for stage, held in stages.items()},
        "parts_per_device": {stage: dataclasses.asdict(held) for stage, held in stages.items()},
        "device_bytes": room,
    }


def say_time(seconds: Mapping[str, float], where: str) -> dict[str, Any]:
    """That of each stage."""
    told = ", ".join(f"{stage} {clock(part)}" for stage, part in seconds.items())
    say("time", f"about {clock(sum(seconds.values()))} {where} ({told})")
    return {"seconds": {stage: round(part, 1) for stage, part in seconds.items()}}
