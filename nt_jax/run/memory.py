"""The memory of a run, per stage and device: what --dry-run and doctor say.

How much a stage takes on at once is decided as the run decides it; what that takes is the closed
form of models/footprint.py.
"""

import dataclasses

import jax

from nt_jax.attribution.plan import fitting_rows
from nt_jax.checkpoints.checkpoint import MODEL_DTYPES
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.generate.engine import EARLY_ROOM, REFILL_TOKENS
from nt_jax.generate.schedule import size_bucket
from nt_jax.mesh import memory_limit
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import Footprint
from nt_jax.train.memory import GradientMemory
from nt_jax.train.validate import NEW_TOKENS

WIDTH = 256  # prompt tokens assumed unless told; the real width is known once data are read


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes that a stage holds on each device."""

    weights: int
    copies: int = 0  # of weights: the layers as decoding takes them, the export read again
    cache: int = 0  # keys and values, of slots and of prompts on their way into them
    temporaries: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.copies + self.cache + self.temporaries


def footprint_of(config: RunConfig, model: ModelConfig) -> Footprint:
    """What one device of the run's mesh holds of a model."""
    item = MODEL_DTYPES[config.model.dtype].itemsize
    mesh = config.mesh
    model = dataclasses.replace(model, int8=config.model.frozen == "int8")
    return Footprint(model, item, mesh.rows, mesh.model, mesh.fsdp)


def stage_memory(
    config: RunConfig, model: ModelConfig, limit: int | None = None, prompt: int = WIDTH
) -> dict[str, Held]:
    """What each stage holds on a device at its most.

    `limit`: bytes that a device has, those of the devices here unless given. `prompt`: tokens of a
    prompt.
    """
    held = footprint_of(config, model)
    accelerator = limit is not None or jax.local_devices()[0].platform != "cpu"
    limit = limit or memory_limit()
    new = (config.tune.answer_tokens, NEW_TOKENS, config.eval.max_new_tokens)
    own, looked, asked = (answering(config, held, count, accelerator, prompt) for count in new)
    tuned = Held(held.weights, temporaries=tuning(config, held, limit, accelerator, prompt))
    return {
        "answers": own,
        "attribute": Held(held.weights, temporaries=attributing(config, held, limit, prompt)),
        "train": max(tuned, looked, key=_total) if config.tune.validation_answers else tuned,
        "export": Held(held.weights, copies=held.read_again),  # beside the model
        "base": asked,
        "tuned": asked,
        "eval": Held(held.weights, temporaries=scoring(config, held, prompt)),
    }


def _total(held: Held) -> int:
    return held.total


def answering(config: RunConfig, held: Footprint, new: int, accelerator: bool, prompt: int) -> Held:
    """Decoding in as many slots as the settings say; a device copies the layers one by one."""
    slots = -(-config.eval.batch_size // held.data) * held.data
    room, most = size_bucket(prompt + EARLY_ROOM), size_bucket(prompt + new)
    grown = held.cache(slots, room) + held.cache(slots, most) if most > room else 0
    tokens, width = 4096 if accelerator else REFILL_TOKENS["cpu"], size_bucket(prompt)
    rows = 1 << max(1, 4 * tokens // max(128, prompt)).bit_length() - 1  # of a device
    rows = min(slots, held.data * rows)
    stacked = not accelerator or held.whole.int8  # generate/slots.py
    own = held.cache(rows, width) + held.cache(rows, size_bucket(0))  # and a prefix at its least
    entered = held.cache(slots, room) + own + held.insert(rows, width)
    filled = held.prefill(held.data * max(tokens, width), rows, width, stacked=stacked)
    temporaries = max(held.decode(slots), filled)
    copies = 0 if stacked else held.layers
    return Held(held.weights, copies, max(entered, grown), temporaries)


def tuning(config: RunConfig, held: Footprint, limit: int, accelerator: bool, prompt: int) -> int:
    """Temporaries of a meta-step, as many sequences on each device as it may take at once.

    Or of the slopes that a regression is made of, where those are more.
    """
    memory, tune = gradient_memory(config, held), config.tune
    longest = prompt + tune.answer_tokens
    at_once = memory.tuning(longest, tune.sequence_tokens, limit, accelerator)
    tokens, remat = at_once.tokens, at_once.remat
    targets = -(-tokens // longest) * tune.answer_tokens * (2 if tune.margin_weight else 1)
    order, side = tune.order if tune.inner_steps else 1, held.data * at_once.side
    step = held.meta_step(side, tokens, targets, memory.layers, remat=remat, order=order)
    return max(step, sloping(config, held, limit, prompt)) if tune.outer == "regression" else step


def sloping(config: RunConfig, held: Footprint, limit: int, prompt: int) -> int:
    """Temporaries of slopes of answers, as many rows together as fit."""
    tokens, memory = prompt + config.tune.answer_tokens, gradient_memory(config, held)
    rows, remat = memory.slope_rows(tokens, held.data, limit)
    return held.slopes(rows, tokens, memory.layers, remat=remat)


def attributing(config: RunConfig, held: Footprint, limit: int, prompt: int) -> int:
    """Temporaries of the scores: slopes of answers, or gradients of patched rows."""
    wanted, model = config.attribution, held.whole
    if wanted.score == CONTRASTIVE:
        return sloping(config, held, limit, prompt)
    total = (wanted.steps + 1) * (model.layers if wanted.path == "layer" else 1)
    each, shared = held.attribution_row(prompt, wanted.answer_tokens), held.cache(1, prompt)
    shared *= held.data
    rows = fitting_rows(limit - held.weights - shared, each, total, held.data)
    patched = shared + held.attribution(wanted.chunk or rows, prompt, wanted.answer_tokens)
    return max(held.prefix(prompt + wanted.answer_tokens, wanted.answer_tokens), patched)


def scoring(config: RunConfig, held: Footprint, prompt: int) -> int:
    """Temporaries of the likelihoods of given answers."""
    return held.score(config.eval.batch_size, prompt, config.eval.max_new_tokens)


def gradient_memory(config: RunConfig, held: Footprint) -> GradientMemory:
    """By what the run decides how much it differentiates at once."""
    layers = max(1, held.whole.layers - config.neurons.first_layer)
    return GradientMemory(held.part, held.item, layers)
