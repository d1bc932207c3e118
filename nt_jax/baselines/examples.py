"""What every rival is fitted on: token ids only, so that no rival knows of recipes or sessions."""

import dataclasses
from collections.abc import Callable, Sequence

from nt_jax.errors import DataError

Ids = Sequence[int]
Encode = Callable[[str], list[int]]  # a user's text to the ids of a prompt, chat template applied


@dataclasses.dataclass(frozen=True)
class Examples:
    """One split of the data. Answers belong to the prompts of the same place.

    Prompts end where the answer begins. Answers end with EOS unless they were cut.
    """

    harmful: Sequence[Ids]  # prompts of harmful requests, attacked and direct
    refusals: Sequence[Ids]  # the safe answer to each harmful prompt
    harmless: Sequence[Ids]  # prompts of harmless requests
    answers: Sequence[Ids]  # the good answer to each harmless prompt
    compliant: Sequence[Ids] = ()  # the model's own unsafe answer to each harmful prompt;
    # empty where it gave none, () where nobody asked

    def __post_init__(self):
        """Raises a DataError where the lists do not fit together."""
        pairs = [("harmful", "refusals"), ("harmless", "answers")]
        pairs += [("harmful", "compliant")] if self.compliant else []
        for prompts, answers in pairs:
            asked, given = len(getattr(self, prompts)), len(getattr(self, answers))
            if asked != given:
                raise DataError(
                    f"Examples.{prompts} has {asked} prompts, but Examples.{answers} has {given} "
                    "answers. Give one for each prompt."
                )
        for name in ("harmful", "refusals", "harmless", "answers"):
            rows = getattr(self, name)
            if len(rows) == 0 or not all(len(ids) for ids in rows):
                raise DataError(
                    f"Examples.{name} is empty, or holds a row without tokens. "
                    "Leave such rows out and give at least one."
                )
