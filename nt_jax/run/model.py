"""The model that a config names, opened."""

import jax

from nt_jax.config.schema import RunConfig
from nt_jax.generate.chat import ChatModel, open_model
from nt_jax.mesh import make_mesh


def slow_dtype(dtype: str) -> list[str]:
    """What is to be said of a `model.dtype` that the devices here are slow at."""
    slow = dtype == "bfloat16" and jax.devices()[0].platform == "cpu"
    said = "model.dtype=bfloat16 halves memory, but a CPU is slower at it than at float32"
    return [said] * slow


def chat_model(
    config: RunConfig,
    source: str | None = None,
    *,
    thinking: bool = True,
    placed: bool = True,
    anywhere: bool = False,
) -> ChatModel:
    """The config's model, or the one at `source`, under the config's dtype and mesh.

    Matrices of the config's own are kept as model.frozen says, no other's (judges, scorers).
    Without `thinking` it answers at once, whatever the config says; without `placed` it is there to
    be looked at, whatever devices there are; `anywhere` it lies on those that are there, where the
    config's mesh has more: no result depends on that.
    """
    mesh = None
    if placed:
        few = anywhere and config.mesh.devices > len(jax.devices())
        mesh = make_mesh(fsdp=len(jax.devices())) if few else make_mesh(**config.mesh.model_dump())
    own = source in (None, config.model.source)
    return open_model(
        source or config.model.source,
        config.model.dtype,
        mesh,
        revision=config.model.revision if own else None,
        batch_size=config.eval.batch_size,
        thinking=thinking and config.model.thinking,
        frozen=config.model.frozen if own else None,
    )
