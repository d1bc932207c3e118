"""Token ids that the model has no row for: of another model's tokenizer, or never used."""

from nt_jax.checkpoints.tokenizer import Tokenizer
from nt_jax.data.prompts import Prompt, text_of
from nt_jax.errors import DataError


def known_ids(tokenizer: Tokenizer, ids: list[int], said: Prompt, size: int) -> list[int]:
    """`ids` as they are; a DataError where one of them is beyond the model's `size` token ids.

    `jnp.take` reads past the end of an array without a word, and gives NaN.
    """
    if not ids or max(ids) < size:
        return ids
    wrong = next(token for token in ids if token >= size)
    raise DataError(
        f"the text '{text_of(said)[:60]}' has the token id {wrong} "
        f"({tokenizer.convert_ids_to_tokens(wrong)!r}), but the model has only {size} "
        f"(vocab_size): the tokenizer of '{tokenizer.name_or_path}' belongs to another model. Copy "
        "the tokenizer's files from the model's original."
    )


def beyond(tokenizer: Tokenizer, size: int) -> str | None:
    """A line about ids of the tokenizer that the model lacks; None where there are none."""
    over = sum(token >= size for token in tokenizer.get_vocab().values())
    if not over:
        return None
    return (
        f"{over} tokens of the tokenizer have ids beyond the model's vocabulary of {size}; a text "
        "that uses one is refused"
    )
