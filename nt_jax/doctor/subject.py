"""What doctor is asked about: a recipe, a source or a shipped shape."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from nt_jax.attribution.select import check_counts
from nt_jax.checkpoints.checkpoint import Checkpoint, check_mesh, open_checkpoint
from nt_jax.config.load import load_config, recipe_names
from nt_jax.config.schema import MeshConfig, RunConfig
from nt_jax.config.yaml_lines import as_yaml
from nt_jax.doctor.shapes import SHAPES, Shape, published
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.models.config import ModelConfig
from nt_jax.run.memory import WIDTH
from nt_jax.train.validate import NEW_TOKENS


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, the settings that fit it, and its files where they are here."""

    name: str
    config: RunConfig
    recipe: str | None  # None: no recipe names this model
    model: ModelConfig
    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()
    prompt_tokens: int = WIDTH  # of a prompt, that memory is planned for


def find_subject(
    name: str,
    mesh: tuple[int, ...] | None,
    settings: Sequence[str] = (),
    prompt_tokens: int | None = None,
) -> Subject:
    """Who is meant by a recipe's name or file, a source, or the name of a shape.

    `mesh`: (data, model) or (data, model, fsdp), in place of what the settings say; `settings`:
    overrides of the recipe, or of the defaults.

    A CheckpointError says everything that is wrong with a model, a ConfigError that the mesh does
    not divide it, or that such a prompt does not fit its context.
    """
    if name in SHAPES and name not in recipe_names():
        found = _shape(name, SHAPES[name], settings)
    elif name in recipe_names() or Path(name).suffix in (".yaml", ".yml"):
        config = load_config(name, settings)
        found = _source(config.model.source, config, name)
    else:
        found = _source(name, *_settings(name, settings))
    if mesh is not None:
        wanted = {"mesh": MeshConfig(**dict(zip(MeshConfig.model_fields, mesh, strict=False)))}
        found = dataclasses.replace(found, config=found.config.model_copy(update=wanted))
    check_mesh(found.model, found.config.mesh.model_dump())
    if prompt_tokens is not None:
        new = max(found.config.tune.answer_tokens, found.config.eval.max_new_tokens, NEW_TOKENS)
        if prompt_tokens + new > found.model.max_positions:
            raise ConfigError(
                f"--prompt-tokens {prompt_tokens} (command line) and an answer of {new} do not fit "
                f"the model's context of {found.model.max_positions}."
            )
        found = dataclasses.replace(found, prompt_tokens=prompt_tokens)
    if settings or found.recipe is not None:
        wanted, sizes = found.config.neurons, (found.model.layers, found.model.neurons)
        counts = (1, 1) if wanted.source else (wanted.safety, wanted.utility)
        check_counts(*counts, sizes, wanted.first_layer)
    return found


def _settings(source: str, settings: Sequence[str]) -> tuple[RunConfig, str | None]:
    """(the settings, the name of their recipe) of a source; defaults where no recipe has it."""
    for name in recipe_names():
        if "/" not in name and load_config(name).model.source == source:
            return load_config(name, settings), name
    here = published(source)  # no published shape is in float32
    plain = [f"model.source={as_yaml(source)}"] + ["model.dtype=bfloat16"] * (here is not None)
    config = load_config(None, [*plain, *settings])
    if config.model.source != source:
        raise ConfigError(
            f"{source} and model.source = {config.model.source} (command line) are two models. "
            "Leave one of them out."
        )
    return config, None


def _shape(name: str, shape: Shape, settings: Sequence[str]) -> Subject:
    config, recipe = _settings(shape.source, settings)
    note = "sizes as published; no file was opened"
    return Subject(name, config, recipe, shape.config, None, (note,))


def _source(source: str, config: RunConfig, recipe: str | None) -> Subject:
    """The checkpoint itself; where it is not here, the published shape if there is one."""
    shape = published(source)
    try:
        checkpoint = open_checkpoint(source, config.model.revision)
    except CheckpointError as error:
        if shape is None:
            raise CheckpointError(f"{error}{_near(source)}") from error
        note = f"sizes as published, since the files are not here: {error}"
        return Subject(source, config, recipe, shape.config, None, (note,))
    return Subject(source, config, recipe, checkpoint.config, checkpoint)


def _near(name: str) -> str:
    """A hint where it is almost the name of a recipe or a shape."""
    close = difflib.get_close_matches(name, [*recipe_names(), *SHAPES], n=1)
    return f" Or did you mean '{close[0]}'?" if close else ""
