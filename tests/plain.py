"""The model once more, as plainly as it can be written, and small random weights to run it on.

One unpadded sequence at a time, every layer spelled out, no cache, no scan, no mesh: slow, and the
oracle of what the package computes quickly. Letters are those of nt_jax/models/transformer.py.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.config import ModelConfig, RopeConfig
from nt_jax.models.grouping import to_mesh
from nt_jax.models.rope import inverse_frequencies
from nt_jax.models.transformer import LanguageModel, assemble, leaf_axes

CONFIG = ModelConfig(
    family="llama", vocab_size=40, width=16, neurons=24, layers=3, heads=4, kv_heads=2, head_dim=4,
    rms_eps=1e-5, rope=RopeConfig(), qkv_bias=False, qk_norm=False, tied=False, max_positions=64,
    eos_ids=(2,), bos_id=1, pad_id=0,
)  # fmt: skip
# (data, model) or (data, model, fsdp), all within the 8 fake devices
MESHES = ((1, 1), (4, 2), (2, 4), (1, 1, 4), (2, 2, 2))
MESH_CONFIG = dataclasses.replace(CONFIG, kv_heads=4)  # every split dimension divides by 4


def random_leaves(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Float64 weights of every leaf, large enough that every part matters."""
    generator, sizes = np.random.default_rng(seed), config.sizes
    leaves = {}
    for path, letters in leaf_axes(config).items():
        noise = generator.standard_normal([sizes[letter] for letter in letters])
        name = path.rsplit(".", 1)[-1]
        if name.endswith("norm"):
            leaves[path] = 1.0 + 0.2 * noise
        elif name.endswith("bias") or path == "embed":
            leaves[path] = noise if path == "embed" else 0.5 * noise
        else:
            summed = {"o": sizes["N"] * sizes["H"], "down": sizes["F"]}.get(name, sizes["D"])
            leaves[path] = 1.5 * noise / summed**0.5
    return leaves


def random_model(
    config: ModelConfig = CONFIG, dtype=jnp.float32, mesh: tuple[int, ...] = (1, 1), seed: int = 0
) -> LanguageModel:
    """A LanguageModel of random weights; float64 only where 64-bit numbers are on."""
    placed, axes, leaves = make_mesh(*mesh), leaf_axes(config), {}
    for path, leaf in random_leaves(config, seed).items():
        laid = to_mesh(leaf, axes[path], config, placed.shape["model"])
        leaves[path] = jax.device_put(jnp.asarray(laid, dtype), sharding(placed, axes[path]))
    return assemble(config, leaves, placed)


def leaves_of(lm: LanguageModel) -> dict[str, jax.Array]:
    """Leaf path -> array."""
    module, found = lm.module(), {}
    for path in leaf_axes(lm.config):
        node = module
        for name in path.split("."):
            node = getattr(node, name)
        found[path] = node[...]
    return found


def _norm(x, weight, eps: float):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _turn(x_NTH, angle_TH):
    a, b = jnp.split(x_NTH, 2, axis=-1)
    cos, sin = jnp.cos(angle_TH), jnp.sin(angle_TH)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def plain_logits(
    lm: LanguageModel,
    token_T,
    scale_LF: jax.Array | None = None,
    patch: Callable[[int, jax.Array], jax.Array] | None = None,
    move: Callable[[int, jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """logits_TV of one sequence without padding.

    `patch(layer, act_TF)` may change the neurons, `move(layer, x_TD)` what a layer passes on.
    """
    with jax.numpy_rank_promotion("allow"):
        return _plain_logits(lm, jnp.asarray(token_T), scale_LF, patch, move)


def _plain_logits(lm, token_T, scale_LF, patch, move):  # N: every head has its own matrices
    config, w = lm.config, leaves_of(lm)
    x_TD = w["embed"][token_T]
    frequency_H = jnp.asarray(inverse_frequencies(config.rope, config.head_dim), x_TD.dtype)
    angle_TH = jnp.arange(len(token_T)).astype(x_TD.dtype)[:, None] * frequency_H
    seen_TS = np.tri(len(token_T), dtype=bool)
    for layer in range(config.layers):
        mine = {path[7:]: leaf[layer] for path, leaf in w.items() if path.startswith("blocks.")}
        h_TD = _norm(x_TD, mine["attn_norm"], config.rms_eps)
        q_NTH, k_KTH, v_KTH = (
            jnp.einsum("TD,DNH->NTH", h_TD, mine[f"attn.{name}"]) for name in "qkv"
        )
        if config.qkv_bias:
            q_NTH, k_KTH, v_KTH = (
                x + mine[f"attn.{name}_bias"][:, None]
                for name, x in zip("qkv", (q_NTH, k_KTH, v_KTH), strict=True)
            )
        if config.qk_norm:
            q_NTH = _norm(q_NTH, mine["attn.q_norm"], config.rms_eps)
            k_KTH = _norm(k_KTH, mine["attn.k_norm"], config.rms_eps)
        share = config.heads // config.kv_heads  # neighbouring query heads share keys and values
        k_NTH, v_NTH = (jnp.repeat(x, share, axis=0) for x in (_turn(k_KTH, angle_TH), v_KTH))
        score_NTS = _turn(q_NTH, angle_TH) @ k_NTH.swapaxes(1, 2) / config.head_dim**0.5
        weight_NTS = jax.nn.softmax(jnp.where(seen_TS, score_NTS, -jnp.inf), axis=-1)
        x_TD = x_TD + jnp.einsum("NTH,NHD->TD", weight_NTS @ v_NTH, mine["attn.o"])
        h_TD = _norm(x_TD, mine["mlp_norm"], config.rms_eps)
        gate_TF = h_TD @ mine["mlp.gate"]
        act_TF = gate_TF / (1 + jnp.exp(-gate_TF)) * (h_TD @ mine["mlp.up"])
        if scale_LF is not None:
            act_TF = act_TF * scale_LF[layer]
        if patch is not None:
            act_TF = patch(layer, act_TF)
        x_TD = x_TD + act_TF @ mine["mlp.down"]
        if move is not None:
            x_TD = move(layer, x_TD)
    x_TD = _norm(x_TD, w["final_norm"], config.rms_eps)
    return x_TD @ (w["embed"].T if config.tied else w["head"])


def plain_answer_log_probs(lm: LanguageModel, prompt, answer, **options) -> jax.Array:
    """Log-probability of each answer token after the prompt, [A]."""
    prompt, answer = jnp.asarray(prompt), jnp.asarray(answer)
    token_T = jnp.concatenate([prompt, answer[:-1]])
    log_prob_AV = jax.nn.log_softmax(plain_logits(lm, token_T, **options))[len(prompt) - 1 :]
    return log_prob_AV[np.arange(len(answer)), answer]


_jitted_logits = jax.jit(plain_logits)


def padded_logits(lm: LanguageModel, token_T, scale_LF=None, width: int = 40) -> np.ndarray:
    """logits_TV of one sequence; what follows a token cannot change it, so one width serves all."""
    padded_T = np.zeros(width, np.int32)
    padded_T[: len(token_T)] = token_T
    return np.asarray(_jitted_logits(lm, padded_T, scale_LF))[: len(token_T)]


def plain_answer(
    lm: LanguageModel, prompt, new_tokens: int, scale_LF=None, width: int = 40
) -> list[int]:
    """Greedy tokens after the prompt, each from a whole new pass; EOS is a token like others."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(padded_logits(lm, ids, scale_LF, width)[-1].argmax()))
    return ids[len(prompt) :]
