"""Several processes that carry one run together: who writes, and what all of them agree on.

All run the same program on the same inputs; each holds its part of the weights. Process 0 alone
writes the run directory and decides what is done next; the others follow it. What they tell each
other here are words and small numbers, by the coordinator of jax.distributed. A process alone is
process 0 of 1, and none of this costs it anything. Nothing here imports jax.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeVar

from nt_jax import errors
from nt_jax.errors import NtError, RunError

Told = TypeVar("Told")
LOOK = 500  # milliseconds between two looks at whether a signal has come


@dataclasses.dataclass
class Group:
    """The processes of a run, as one of them sees them; `client`: that of jax.distributed."""

    index: int = 0
    count: int = 1
    client: Any = None
    turn: int = 0  # exchanges so far: the same in all, or they have gone different ways


_GROUP = Group()


def join(index: int, count: int, client: Any) -> None:
    """From now on this is process `index` of `count`."""
    _GROUP.index, _GROUP.count, _GROUP.client, _GROUP.turn = index, count, client, 0


def several() -> bool:
    """Whether the run has more than one process."""
    return _GROUP.count > 1


def first() -> bool:
    """Whether this is the process that writes."""
    return _GROUP.index == 0


def index() -> int:
    """The number of this process, from 0."""
    return _GROUP.index


def count() -> int:
    """How many processes the run has."""
    return _GROUP.count


def client() -> Any:
    """The client of jax.distributed; None for a process alone."""
    return _GROUP.client


def from_first(work: Callable[[], Told]) -> Told:
    """What `work` gives in process 0, which alone does it; plain JSON.

    An NtError that it raises there is raised in every process.
    """
    if not several():
        return work()
    key = _next("told")
    if not first():
        told = json.loads(_wait(key))
        if "error" in told:
            raise _known(*told["error"])
        return told["value"]
    try:
        value = work()
    except NtError as error:
        _GROUP.client.key_value_set(key, json.dumps({"error": [type(error).__name__, str(error)]}))
        raise
    _GROUP.client.key_value_set(key, json.dumps({"value": value}))
    return value


def every(value: Told) -> list[Told]:
    """The values of all processes, in their order; plain JSON. None goes on before all are here."""
    if not several():
        return [value]
    key = _next("each")
    _GROUP.client.key_value_set(f"{key}/{index()}", json.dumps(value))
    return [json.loads(_wait(f"{key}/{each}")) for each in range(count())]


def meet() -> None:
    """None goes on before all are here."""
    every(None)


def check_same(value: str, what: str) -> None:
    """Raises a RunError where the processes hold different values of what `what` names."""
    values = every(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise RunError(
                f"process {number} reads other {what} than process 0. Give every process the same "
                "files and settings, then repeat."
            )


def _next(kind: str) -> str:
    _GROUP.turn += 1
    return f"nt_jax/{kind}/{_GROUP.turn}"


def _wait(key: str) -> str:
    """The value of a key, once some process has set it; a process that is gone ends the wait."""
    while True:
        try:
            return _GROUP.client.blocking_key_value_get(key, LOOK)
        except RuntimeError as error:  # JaxRuntimeError
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _known(name: str, text: str) -> NtError:
    """An error that process 0 has raised."""
    kind = getattr(errors, name, RunError)
    return kind(text) if issubclass(kind, NtError) else RunError(text)
