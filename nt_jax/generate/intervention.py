"""What a method may do at generation time: rewrite the prompts, and steer the residual stream.

A method that changes the weights needs none of this, and the plain path pays nothing for it.
R rows (prompts), L layers, D model width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jax import Array

from nt_jax.data.prompts import Prompt, text_of, with_text
from nt_jax.data.records import Encode, Ids
from nt_jax.models.transformer import LanguageModel


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What to generate from.

    `steer_RLD` is added to the residual stream after each layer, at the last prompt token and at
    every generated position; None adds nothing.
    """

    prompts: list[list[int]]
    steer_RLD: np.ndarray | None = None  # float32
    flagged_R: np.ndarray | None = None  # bool: taken for harmful; None where the method asks not


class Intervention(Protocol):
    """Called once per set of prompts, before generation."""

    def prepare(
        self, lm: LanguageModel, scale_LF: Array, prompts: Sequence[Ids], asked: Sequence[Prompt]
    ) -> Prepared:
        """`asked` is what `prompts` are the token ids of, in the same order."""
        ...


@dataclasses.dataclass(frozen=True)
class Suffixed:
    """Every message with `suffix` behind it: how DINM's release asks its edited model."""

    suffix: str
    encode: Encode

    def prepare(
        self, lm: LanguageModel, scale_LF: Array, prompts: Sequence[Ids], asked: Sequence[Prompt]
    ) -> Prepared:
        """The prompts of the longer messages."""
        longer = [with_text(prompt, f"{text_of(prompt)} {self.suffix}") for prompt in asked]
        return Prepared([self.encode(prompt) for prompt in longer])
