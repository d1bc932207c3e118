"""What a run is about to do: one header line, sizes, and the memory it will take."""

from collections.abc import Iterator

from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.config.paper import departure_lines
from nt_jax.config.schema import RunConfig, dump_config
from nt_jax.errors import ConfigError
from nt_jax.mesh import devices, make_mesh
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import parameters
from nt_jax.models.grouping import grouping_of
from nt_jax.run.data import RunData, read_data
from nt_jax.run.memory import stage_memory
from nt_jax.run.model import slow_dtype
from nt_jax.run.preflight import Inputs, decided_later, read_inputs
from nt_jax.run.start import start_factors
from nt_jax.run.texts import beyond_vocabulary, plain_marks
from nt_jax.runinfo import memory_bytes
from nt_jax.version import __version__

GB = 1e9


def header(config: RunConfig) -> str:
    """The first line of a run."""
    return (
        f"nt_jax {__version__}   {config.name}   {devices()}   "
        f"{memory_bytes() / GB:.0f} GB memory   run directory {config.folder}"
    )


def model_line(config: ModelConfig) -> str:
    """The model in one line."""
    return (
        f"{config.family}, {parameters(config) / 1e6:,.1f} M parameters, "
        f"{config.layers} x {config.neurons:,} neurons"
    )


def data_lines(data: RunData) -> list[str]:
    """What is tuned on and what is asked afterwards."""
    told = [
        f"{len(records.harmful):,} harmful, {len(records.harmless):,} harmless requests and "
        f"{len(records.templates)} attacks for {part}"
        for part, records in data.records.items()
    ]
    decided = "safety targets: decided in the run"
    targets = [data.targets.line if data.targets else decided]
    asked = f"{len(data.tests.prompts):,} requests, {len(data.tests.choices):,} choice"
    return [
        f"data       {'; '.join(told)}",
        *(f"data       {line}" for line in (*data.notes, *targets)),
        f"tests      {asked} questions",
    ]


def describe(config: RunConfig) -> Iterator[str]:
    """The plan of a run for --dry-run, line by line, as far as its inputs are sound.

    What needs no model comes first. Raises the error that the run would, but for devices that are
    missing here: another machine may have them.
    """
    settings = config.model_dump(mode="json")
    yield header(config)
    yield "where this departs from the paper (docs/method.md):"
    yield from (f"  {line}" for line in departure_lines(settings) or ["nowhere"])
    data = read_data(config)
    yield from data_lines(data)
    inputs = read_inputs(config, data, placed=False)
    yield from (
        f"warning    {line}" for line in (*missing_devices(config), *warnings(config, inputs))
    )
    yield from model_lines(config, inputs.model.checkpoint)
    yield f"decided in the run: {'; '.join(decided_later(config, data))}"
    yield f"\n{dump_config(config)}"
    yield "dry run: nothing was written"


def warnings(config: RunConfig, inputs: Inputs) -> list[str]:
    """What a run goes on with, but should be known."""
    chat, slow = inputs.model.chat, slow_dtype(config.model.dtype)
    marks = plain_marks(chat, inputs.records, inputs.tests)
    return [*inputs.data.shared, *marks, *beyond_vocabulary(chat), *slow]


def missing_devices(config: RunConfig) -> list[str]:
    """What the run would refuse here; another machine may have them."""
    try:
        make_mesh(**config.mesh.model_dump())
    except ConfigError as error:
        return [str(error)]
    return []


def model_lines(config: RunConfig, checkpoint: Checkpoint) -> Iterator[str]:
    """Sizes and memory of the model."""
    model = checkpoint.config
    start, counts = start_factors(config, checkpoint), config.neurons
    chosen = counts.safety + counts.utility if start is None else len(start.theta_P)
    share = 100 * chosen / (model.layers * model.neurons)
    stages = stage_memory(config, model)
    largest = max(stages, key=lambda stage: stages[stage].total)
    parts = ", ".join(f"{stage} {held.total / GB:.1f}" for stage, held in stages.items())
    yield f"model      {model_line(model)}"
    yield f"weights    {checkpoint.path}"
    heads = grouping_of(model, config.mesh.model)
    if not heads.as_published:
        yield f"heads      {heads}"
    yield f"neurons    {chosen:,} of {model.layers * model.neurons:,} may change ({share:.1f} %)"
    if config.model.frozen is not None:
        yield f"dtype      {config.model}"
    yield f"memory     about {stages[largest].total / GB:.1f} GB a device ({parts})"
