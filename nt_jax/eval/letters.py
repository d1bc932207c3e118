"""Log-likelihoods of answer letters after a prompt. B rows, P prompt width, C letters."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nt_jax.data.batching import batches_by_length, pad_left
from nt_jax.data.records import LETTERS
from nt_jax.errors import CheckpointError, DataError
from nt_jax.eval.multiple_choice import ANSWER, prompt_text
from nt_jax.eval.prompts import TestChoice
from nt_jax.mesh import sharding
from nt_jax.models.transformer import LanguageModel, forward, unembed


@jax.jit
def letter_log_probs(
    lm: LanguageModel, scale_LF: Array, token_BP: Array, mask_BP: Array, letter_C: Array
) -> Array:
    """Float32 [B, C]: log-probability of each letter token as the next one after the prompt."""
    model = lm.module(scale_LF)
    trace = forward(model, lm.config, token_BP, mask_BP)
    logits_BV = unembed(model, trace.x_BTD[:, -1:], lm.config.rms_eps)[:, 0]
    log_prob_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32), axis=-1)
    return jnp.take(log_prob_BV, letter_C, axis=1)


def letter_tokens(tokenizer, count: int) -> tuple[list[int], list[int]]:
    """(tokens between "Answer:" and the letter, the token of each of `count` letters).

    " A" is one token in most vocabularies and a space and a letter in others: whatever the
    tokenizer makes of "Answer: A" counts.
    """
    start = tokenizer.encode(ANSWER, add_special_tokens=False)
    ends = [
        tokenizer.encode(f"{ANSWER} {letter}", add_special_tokens=False)
        for letter in LETTERS[:count]
    ]
    common = ends[0][:-1]
    letters = [ids[-1] for ids in ends]
    alike = all(ids[:-1] == common for ids in ends) and common[: len(start)] == start
    if not alike or len(set(letters)) != count:
        raise CheckpointError(
            f"The tokenizer of '{tokenizer.name_or_path}' does not write the letters "
            f"{', '.join(LETTERS[:count])} after '{ANSWER}' as one token each, so their "
            "likelihoods cannot be compared. Measure 'generate' only: metrics: [generate]."
        )
    return common[len(start) :], letters


def fitting_shots(choice: TestChoice, length: Callable[[int], int], room: int) -> int:
    """How many worked examples leave the prompt within `room` tokens; the first ones go first."""
    for shots in range(len(choice.shots), -1, -1):
        if length(shots) <= room:
            return shots
    raise DataError(
        f"{choice.dataset}, question {choice.id}: {length(0)} tokens without any worked example "
        f"do not fit the {room} that the model's context leaves."
    )


def encode_question(tokenizer, choice: TestChoice, room: int) -> tuple[list[int], int]:
    """(token ids up to "Answer:", worked examples among them); as plain text, not as a chat."""

    def ids(shots: int) -> list[int]:
        return tokenizer.encode(prompt_text(choice, shots))  # with BOS where the model has one

    shots = fitting_shots(choice, lambda shots: len(ids(shots)), room)
    return ids(shots), shots


def score_letters(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    letters: Sequence[int],
    *,
    batch_size: int,
    on_batch: Callable[[list[int], np.ndarray], None],
) -> None:
    """Call `on_batch(rows, log_prob_RC)` for each batch of prompts."""
    place = sharding(lm.mesh, "B")
    letter_C = jnp.asarray(letters, jnp.int32)
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        token_BP, mask_BP = pad_left([prompts[row] for row in rows], width, batch_size)
        token_BP, mask_BP = jax.device_put((token_BP, mask_BP), place)
        log_prob_BC = letter_log_probs(lm, scale_LF, token_BP, mask_BP, letter_C)
        on_batch(rows, np.asarray(log_prob_BC)[: len(rows)])
