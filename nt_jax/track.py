"""Numbers of a run by step, for whoever follows it: nobody unless a command says so.

Like the screen (nt_jax/console.py) the follower is a context variable: a library call has none.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

Follower = Callable[[int, Mapping[str, float]], None]
_FOLLOWER: ContextVar[Follower | None] = ContextVar("follower", default=None)


@contextlib.contextmanager
def followed_by(follower: Follower) -> Iterator[None]:
    """Let `follower(step, values)` hear of what is tracked within."""
    token = _FOLLOWER.set(follower)
    try:
        yield
    finally:
        _FOLLOWER.reset(token)


def track(step: int, values: Mapping[str, float]) -> None:
    """Numbers by name at a step (an epoch of tuning)."""
    if (follower := _FOLLOWER.get()) is not None:
        follower(step, values)
