"""DINM on a run's data: one attacked request with an unsafe answer of the model itself.

The grid holds the published learning rate and steps first; the search takes as many from the front
as it may.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nt_jax.baselines.dinm import DOWN, SUFFIX, DinmExample, DinmFit, DinmOptions, edited, fit_dinm
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting, UnusableSettingError
from nt_jax.config.registry import METHODS
from nt_jax.data.prompts import text_of, with_text
from nt_jax.errors import DataError, RunError
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.intervention import Suffixed
from nt_jax.mesh import host
from nt_jax.models.leaves import get_leaf

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
KEYS = ("learning_rate", "steps", "fraction", "suffix", "kl_grad")
# What the release does with LLaMA models: hparams/DINM/llama-7b.yaml, and a KL without slope.
PUBLISHED: Setting = {
    **dict(zip(KEYS, (5e-4, 10, 1.0, True, False), strict=True)), "edit_weight": 0.1,
}  # fmt: skip
UNITS = {"learning_rate": "Adam", "fraction": "of the matrix"}


def dinm(name: str = "dinm", fraction: float | None = None) -> Method:
    """One edited down projection; a `fraction` of it at dinm's best other settings (Table 1)."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        named = {name: value for name, value in setting.items() if name != "suffix"}
        options = DinmOptions(**named, seed=data.config.seed)
        try:
            prompt, safe, unsafe = data.unsafe_answer
        except DataError as error:
            raise UnusableSettingError(str(error)) from error
        keep_prompt, keep_answer = data.kept_answer
        opening = data.model.tokenizer.encode("")
        tail = f" {SUFFIX}" if setting["suffix"] else ""
        asked, kept = (
            data.model.encode(with_text(each, text_of(each) + tail))
            for each in (prompt, keep_prompt)
        )
        example = DinmExample(asked, safe, unsafe, kept, keep_answer, opening)
        try:
            found = fit_dinm(data.model.lm, example, options)
        except RunError as error:
            raise UnusableSettingError(str(error)) from error
        layer, down_FD = int(found.layer), np.asarray(found.down_FD, np.float32)
        place_N = np.flatnonzero(down_FD != untouched(data, layer))  # a share of the matrix is free
        return {"layer": np.asarray(layer), "place": place_N, "value": down_FD.ravel()[place_N]}

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        lm = data.model.lm
        layer, leaf = int(learned["layer"]), get_leaf(lm, DOWN)
        down_FD = untouched(data, layer)
        np.put(down_FD, learned["place"], learned["value"])
        changed = edited(lm, DinmFit(layer, jnp.asarray(down_FD).astype(leaf.dtype), None, []))
        suffixed = Suffixed(SUFFIX, data.model.encode) if setting["suffix"] else None
        model = dataclasses.replace(data.model, weights=lambda: changed)
        return ModelUnderTest(name, model, intervention=suffixed, edits_weights=True)

    if fraction is None:
        grid: list[Setting] = [dict(zip(KEYS, values, strict=True)) for values in DINM_GRID]
        return Method(name, METHODS["dinm"].label, fit, build, grid, KEYS, units=UNITS)
    only: Setting = {"fraction": fraction, "suffix": False}
    label = f"{METHODS['dinm'].label}, {fraction:.0%}"
    return Method(name, label, fit, build, [only], KEYS, follows="dinm", units=UNITS)


def untouched(data: FittingData, layer: int) -> np.ndarray:
    """The down projection of a layer before it is edited, float32 [F, D]."""
    return np.array(host(get_leaf(data.model.lm, DOWN)[layer]), np.float32)


def dinm_published() -> Method:
    """DINM as its release runs it on LLaMA models."""
    name = "dinm_published"
    made, label = dinm(name), METHODS[name].label
    return dataclasses.replace(made, label=label, settings=[PUBLISHED], fit_on=tuple(PUBLISHED))
