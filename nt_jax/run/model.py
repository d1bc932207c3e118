"""The model that a config names, opened."""

from nt_jax.config.schema import RunConfig
from nt_jax.generate.chat import ChatModel, open_model
from nt_jax.mesh import make_mesh


def chat_model(
    config: RunConfig, source: str | None = None, *, thinking: bool = True, placed: bool = True
) -> ChatModel:
    """The config's model, or the one at `source`, under the config's dtype and mesh.

    Matrices of the config's own are kept as model.frozen says, no other's (judges, scorers).
    Without `thinking` it answers at once, whatever the config says; without `placed` it is there to
    be looked at, whatever devices there are.
    """
    return open_model(
        source or config.model.source,
        config.model.dtype,
        make_mesh(**config.mesh.model_dump()) if placed else None,
        revision=None if source else config.model.revision,
        batch_size=config.eval.batch_size,
        thinking=thinking and config.model.thinking,
        frozen=config.model.frozen if source in (None, config.model.source) else None,
    )
