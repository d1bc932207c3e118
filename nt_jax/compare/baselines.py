"""The rivals' code at work on a run's material: what each is fitted on, what settings it tries.

The grids hold the published setting first; the search takes as many from the front as it may.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.baselines.cavgan import Cavgan, CavganFit, CavganOptions, fit_cavgan, fresh_gan
from nt_jax.baselines.choose import best_threshold
from nt_jax.baselines.dinm import DOWN, SUFFIX, DinmExample, DinmFit, DinmOptions, edited, fit_dinm
from nt_jax.baselines.lora import Adapter, LoraOptions, Sides, merged, train_lora
from nt_jax.baselines.scans import Scans, ScansFit, ScansOptions, fit_scans, harm_scores
from nt_jax.compare.fitting_data import Material
from nt_jax.compare.names import METHODS
from nt_jax.compare.search import Learned, Method, Setting, UnusableSettingError
from nt_jax.errors import DataError, RunError
from nt_jax.eval.answering import Measured
from nt_jax.generate.intervention import Suffixed
from nt_jax.mesh import sharding
from nt_jax.models.leaves import get_leaf
from nt_jax.train.tune import make_batcher

# (learning rate, steps, share of the matrix, suffix, slope of the KL term): the release's for LLaMA
# and for Mistral, the 5 % that the NeuronTune paper takes for LLaMA-3.1, and what lies around and
# between. The release puts its suffix behind every prompt, when it edits and when it is tested, and
# gives its KL term no slope, which DINM's paper does.
DINM_GRID = (
    (5e-4, 10, 1.0, False, True), (5e-4, 10, 0.05, False, True), (5e-4, 10, 1.0, True, True),
    (1e-4, 10, 1.0, False, True), (5e-4, 10, 1.0, True, False), (5e-4, 10, 0.05, True, True),
    (1e-5, 10, 1.0, False, True), (2e-3, 10, 0.05, False, True), (5e-4, 10, 1.0, False, False),
    (1e-4, 10, 1.0, True, True), (5e-5, 10, 1.0, False, True), (5e-4, 5, 1.0, False, True),
    (5e-4, 20, 0.05, False, True), (1e-4, 10, 1.0, True, False), (2e-3, 10, 0.05, True, True),
)  # fmt: skip
# Of the residual norm; the pushes of all steered layers add up (nt_jax/baselines/scans.py).
SCANS_STRENGTHS = (
    0.05, 0.02, 0.1, 0.01, 0.2, 0.03, 0.3, 0.07, 0.005, 0.04, 0.15, 0.015, 0.06, 0.08, 0.002,
)  # fmt: skip
SCANS_ARRAYS = ("direction_LD", "move_LD", "norm_L")
# None: the threshold that tells validation prompts apart best; 0.9 is the port's.
CAVGAN_P0 = (
    None, 0.9, 0.5, 0.99, 0.7, 0.3, 0.1, 0.97, 0.999, 0.8, 0.6, 0.95, 0.2, 0.4, 0.9999,
)  # fmt: skip
CAVGAN_FIELDS = ("layer", "threshold", "mean_D", "deviation_D")
# Updates as a share of tune.epochs: the earlier ones are kept on the way, so that a share costs a
# validation, another learning rate a whole fit.
LORA_SHARES = (1.0, 0.5, 0.25)
LORA_GRID = tuple((rate, share) for rate in (1e-3, 3e-3, 3e-4, 1e-2, 1e-4) for share in LORA_SHARES)


def dinm(name: str = "dinm", fraction: float | None = None) -> Method:
    """One edited down projection; a `fraction` of it at dinm's best other settings (Table 1)."""

    def fit(material: Material, setting: Setting, folder: Path) -> Learned:
        options = DinmOptions(
            learning_rate=setting["learning_rate"], steps=setting["steps"],
            fraction=setting["fraction"], kl_grad=setting["kl_grad"], seed=material.config.seed,
        )  # fmt: skip
        try:
            prompt, safe, unsafe = material.unsafe_answer
        except DataError as error:
            raise UnusableSettingError(str(error)) from error
        keep_prompt, keep_answer = material.kept_answer
        opening = material.session.tokenizer.encode("")
        tail = f" {SUFFIX}" if setting["suffix"] else ""
        encode = lambda text: material.session.encode(text + tail)  # noqa: E731
        example = DinmExample(
            encode(prompt), safe, unsafe, encode(keep_prompt), keep_answer, opening
        )
        try:
            found = fit_dinm(material.session.lm, example, options)
        except RunError as error:
            raise UnusableSettingError(str(error)) from error
        return {"layer": np.asarray(found.layer), "down_FD": np.asarray(found.down_FD, np.float32)}

    def build(material: Material, setting: Setting, learned: Learned) -> Measured:
        lm = material.session.lm
        down_FD = jnp.asarray(learned["down_FD"]).astype(get_leaf(lm, DOWN).dtype)
        changed = edited(lm, DinmFit(int(learned["layer"]), down_FD, None, []))
        plain = material.session
        suffixed = Suffixed(SUFFIX, plain.encode) if setting["suffix"] else None
        return Measured(name, plain.edited(changed), intervention=suffixed, edits_weights=True)

    keys = ("learning_rate", "steps", "fraction", "suffix", "kl_grad")
    if fraction is None:
        grid: list[Setting] = [dict(zip(keys, values, strict=True)) for values in DINM_GRID]
        return Method(name, METHODS["dinm"], fit, build, grid, keys)
    label = f"{METHODS['dinm']}, {fraction:.0%}"
    return Method(
        name, label, fit, build, [{"fraction": fraction, "suffix": False}], keys, follows="dinm"
    )


def scans() -> Method:
    """Steering by query; the threshold is the best at telling validation prompts apart."""

    def fit(material: Material, setting: Setting, folder: Path) -> Learned:
        session, batch = material.session, material.config.eval.batch_size
        sure = session.tokenizer.encode("Sure", add_special_tokens=False)
        options = ScansOptions(seed=material.config.seed, batch_size=batch)
        plain = session.lm.ones_LF
        found = fit_scans(session.lm, plain, material.examples, sure, options)
        held = [
            harm_scores(session.lm, plain, found, prompts, batch)
            for prompts in (
                material.validation_examples.harmful, material.validation_examples.harmless,
            )
        ]  # fmt: skip
        fields = {f.name: np.asarray(getattr(found, f.name)) for f in dataclasses.fields(found)}
        return {**fields, "threshold": np.asarray(best_threshold(*held)[0])}

    def build(material: Material, setting: Setting, learned: Learned) -> Measured:
        arrays: dict[str, Any] = {name: learned[name] for name in SCANS_ARRAYS}
        ranges: dict[str, Any] = {
            name: tuple(learned[name].tolist()) for name in ("steer", "score", "sure")
        }
        found, threshold = ScansFit(**(arrays | ranges)), float(learned["threshold"])
        batch = material.config.eval.batch_size
        return Measured(
            "scans", material.session,
            intervention=Scans(found, threshold, setting["strength"], batch),
        )  # fmt: skip

    grid = [{"strength": strength} for strength in SCANS_STRENGTHS]
    return Method("scans", METHODS["scans"], fit, build, grid)


def cavgan() -> Method:
    """The discriminator of the layer that tells validation prompts apart best, at several p0."""

    def fit(material: Material, setting: Setting, folder: Path) -> Learned:
        lm, config = material.session.lm, material.config
        options = CavganOptions(seed=config.seed, batch_size=config.eval.batch_size)
        found = fit_cavgan(lm, lm.ones_LF, material.examples, material.validation_examples, options)
        leaves = {
            f"d{n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(found.discriminator))
        }
        fields = {name: np.asarray(getattr(found, name)) for name in CAVGAN_FIELDS}
        return {**leaves, **fields}

    def build(material: Material, setting: Setting, learned: Learned) -> Measured:
        session, fields = material.session, {name: learned[name] for name in CAVGAN_FIELDS}
        gan, graph, _ = fresh_gan(session.checkpoint.config.width, material.config.seed)
        structure = jax.tree.structure(gan.discriminator)
        leaves = [jnp.asarray(learned[f"d{n}"]) for n in range(structure.num_leaves)]
        p0 = learned["threshold"] if setting["p0"] is None else setting["p0"]
        found = CavganFit(
            **{**fields, "layer": int(fields["layer"]), "threshold": float(p0)},
            discriminator=jax.tree.unflatten(structure, leaves), graph=graph, table=[],
        )  # fmt: skip
        batch = material.config.eval.batch_size
        return Measured("cavgan", session, intervention=Cavgan(found, session.encode, batch))

    grid = [{"p0": p0} for p0 in CAVGAN_P0]
    return Method("cavgan", METHODS["cavgan"], fit, build, grid)


def lora() -> Method:
    """Low-rank changes of all down projections, by the outer likelihoods on the outer batches."""

    def build(material: Material, setting: Setting, learned: Learned) -> Measured:
        adapter: Adapter = {}
        wanted = updates(setting["share"], material.config.tune.epochs)
        for name, value in learned.items():
            kept, leaf, side = name.split("/")
            if int(kept) == wanted:
                adapter.setdefault(leaf, {})[side] = jnp.asarray(value)
        if not adapter:
            raise UnusableSettingError(f"LoRA diverged before update {wanted}.")
        options = LoraOptions()
        changed = merged(material.session.lm, adapter, options.alpha / options.rank)
        return Measured("lora", material.session.edited(changed))

    grid = [{"learning_rate": rate, "share": share} for rate, share in LORA_GRID]
    return Method("lora", METHODS["lora"], _fit_lora, build, grid, ("learning_rate",))


def _fit_lora(material: Material, setting: Setting, folder: Path) -> Learned:
    """The adapter after each share of the updates, as "updates/leaf/side"."""
    tune, lm = material.config.tune, material.session.lm
    plain = material.config.model_copy(
        update={
            # Its loss knows no margin, and no inner loop that rows would be kept apart for.
            "tune": tune.model_copy(update={"margin_weight": 0.0, "inner_steps": 0}),
            "neurons": material.config.neurons.model_copy(update={"first_layer": 0}),
        }
    )
    batcher, remat = make_batcher(material.session, plain, material.pools)

    def batch_at(step: int) -> Sides:
        batch = batcher.batch(step)
        sides = (batch.global_safety, batch.global_utility)
        return jax.device_put(sides, sharding(lm.mesh, "SB"))

    options = LoraOptions(
        learning_rate=setting["learning_rate"], steps=tune.epochs,
        safety_weight=tune.safety_weight, token_decay=tune.token_decay,
        clip_norm=tune.clip_norm, seed=material.config.seed, remat=remat,
    )  # fmt: skip
    ends = {updates(share, tune.epochs) for share in LORA_SHARES}
    learned: Learned = {}
    try:
        for step, (adapter, _) in enumerate(train_lora(lm, batch_at, options), start=1):
            if step not in ends:
                continue
            for leaf, sides in adapter.items():
                for side, value in sides.items():
                    learned[f"{step}/{leaf}/{side}"] = np.asarray(value)
    except RunError as error:
        if not learned:
            raise UnusableSettingError(str(error)) from error
    return learned


def updates(share: float, epochs: int) -> int:
    """How many of a run's updates a share of them is; at least one."""
    return max(1, round(share * epochs))
