"""What a run is about to do: one header line, sizes, and the memory it will take."""

from nt_jax.attribution.own_score import score_hash
from nt_jax.attribution.select import check_counts
from nt_jax.checkpoints.checkpoint import MODEL_DTYPES, check_mesh, open_checkpoint
from nt_jax.config.paper import departure_lines
from nt_jax.config.schema import RunConfig, dump_config
from nt_jax.generate.chat import ChatText
from nt_jax.mesh import devices, make_mesh
from nt_jax.models.config import ModelConfig
from nt_jax.run.data import read_data
from nt_jax.run.texts import check_texts, plain_marks
from nt_jax.runinfo import memory_bytes
from nt_jax.train.memory import GradientMemory, layer_parameters, parameters
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


def memory_estimate(config: RunConfig, model: ModelConfig) -> dict[str, float]:
    """Bytes per part of a run; the largest step decides, so the total is weights + max."""
    item = MODEL_DTYPES[config.model.dtype].itemsize
    weights = parameters(model) * item
    width = 256  # prompt tokens assumed per row; the real width is known once data are read
    layers = max(1, model.layers - config.neurons.first_layer)  # that a gradient goes through
    memory = GradientMemory(model, item, layers)
    tokens, _, each = memory.tuning(width + config.tune.answer_tokens, config.tune.sequence_tokens)
    # A copy of the layers from the lowest chosen neuron on, which may lie in any layer but 0.
    above = model.layers - max(1, config.neurons.first_layer)
    copied = item * layer_parameters(model) * above
    tuning = tokens * each + copied  # tuning holds the upper layers apart
    cache = 2 * item * model.layers * model.kv_heads * model.head_dim
    decoding = 2 * config.eval.batch_size * (width + config.eval.max_new_tokens) * cache
    check = weights  # the export is read again beside the model
    return {
        "weights": weights,
        "tuning": tuning,
        "decoding": decoding,
        "export check": check,
        "total": weights + max(tuning, decoding, check),
    }


def check_sizes(config: RunConfig, model: ModelConfig) -> None:
    """Raises a ConfigError, before any work, if mesh or neuron counts do not fit the model."""
    check_mesh(model, make_mesh(config.mesh.data, config.mesh.model))
    chosen, shape = config.neurons, (model.layers, model.neurons)
    check_counts(chosen.safety, chosen.utility, shape, chosen.first_layer)


def data_lines(config: RunConfig, chat: ChatText) -> list[str]:
    """What is tuned on and what is asked afterwards, all files read; errors as the run has them."""
    data, told = read_data(config), []
    for part, records in data.records.items():
        told.append(
            f"{len(records.harmful):,} harmful, {len(records.harmless):,} harmless requests and "
            f"{len(records.templates)} attacks for {part}"
        )
    asked = f"{len(data.tests.prompts):,} requests, {len(data.tests.choices):,} choice"
    decided = "decided in the run: the model's own refusals if it refuses enough, else the shipped"
    targets = data.targets.line if data.targets else f"safety targets: {decided}"
    return [
        f"data       {'; '.join(told)}",
        *(f"data       {line}" for line in (*data.notes, targets)),
        *(f"warning    {line}" for line in plain_marks(chat, data.records, data.tests)),
        f"tests      {asked} questions",
    ]


def describe(config: RunConfig) -> str:
    """The resolved config, data, sizes and memory of a run, for --dry-run."""
    checkpoint = open_checkpoint(config.model.source, config.model.revision)
    model = checkpoint.config
    check_sizes(config, model)
    chat = ChatText(checkpoint, config.data.system_prompt, config.model.thinking)
    check_texts(config, chat)
    score_hash(config.attribution.score)  # its file can be read and names the function
    chosen = config.neurons.safety + config.neurons.utility
    share = 100 * chosen / (model.layers * model.neurons)
    memory = memory_estimate(config, model)
    parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in memory.items())
    return "\n".join([
        header(config),
        f"model      {model_line(model)}",
        f"weights    {checkpoint.path}",
        *data_lines(config, chat),
        f"neurons    {chosen:,} of {model.layers * model.neurons:,} may change ({share:.1f} %)",
        f"memory     about {memory['total'] / GB:.1f} GB ({parts})",
        "",
        "where this departs from the paper (docs/method.md):",
        *(departure_lines(config.model_dump(mode="json")) or ["nowhere"]),
        "",
        dump_config(config).rstrip(),
        "",
        "dry run: nothing was written",
    ])  # fmt: skip
