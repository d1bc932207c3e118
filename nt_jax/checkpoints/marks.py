"""Text is text: the tokenizer's added tokens, told apart from texts that only spell them.

"<|im_end|>" inside a user's message would end the message, "</s>" inside an answer to learn would
teach an early end. A character that occurs in no text is put into each such spelling, so that it is
no longer found; the tokenizer's copy that then reads the prompt drops the character again before it
cuts the text. Everything else about the copy, and so about the ids, is as in the tokenizer itself.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

PRIVATE = range(0xE000, 0xF8FF)  # characters that Unicode leaves to everyone's own use


class Marks:
    """The added tokens of a tokenizer, special or not; use `marks_of` to get them.

    Left aside are those of blanks alone, which are nothing but text, and those of one character,
    which nothing can be put into; and, for `special` ones alone, all that are not.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: bool = False):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        found = {t.content: n for n, t in added if t.special or not special}
        self.ids = {mark: n for mark, n in found.items() if len(mark) > 1 and mark.strip()}
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._starts = re.compile(f"(?={self._any.pattern})")
        self._longest = max(map(len, self.ids), default=0)
        self._heads = {mark[:size] for mark in self.ids for size in range(1, len(mark))}
        self._tails = {mark[size:] for mark in self.ids for size in range(1, len(mark))}
        self._copy = functools.cache(self._copy_that_drops)

    def count(self, text: str) -> int:
        """How many marks are found in the text."""
        return len(self._any.findall(text))

    def at(self, text: str) -> str | None:
        """The mark that the text begins with."""
        found = self._any.match(text)
        return found[0] if found else None

    def spelled_by(self, text: str) -> bool:
        """Whether the tokenizer would find a mark in the text, as it is or normalised."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        seen = text if normalizer is None else normalizer.normalize_str(text)
        return self.count(text) > 0 or self.count(seen) > 0

    def unused(self, texts: Iterable[str]) -> str:
        """A private character that is in none of the texts and in no mark."""
        known = set().union(*texts, *self.ids)
        return next(chr(code) for code in PRIVATE if chr(code) not in known)

    def broken(self, text: str, char: str) -> str:
        """The text with `char` in every mark, and at an end that other text could make one of."""
        places = [found.start() + 1 for found in self._starts.finditer(text)]
        pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
        sizes = range(1, self._longest)
        first = char if any(text[:size] in self._tails for size in sizes) else ""
        last = char if any(text[-size:] in self._heads for size in sizes) else ""
        return first + char.join(pieces) + last

    def encode(self, text: str, char: str, special: bool = False) -> list[int]:
        """Token ids of a text in which `broken` has put `char`; `special`: with BOS as well."""
        copy, number = self._copy(char)
        ids = copy.encode(text, add_special_tokens=special).ids
        return [number.get(index, index) for index in ids]

    def _copy_that_drops(self, char: str) -> tuple[Backend, dict[int, int]]:
        """(the copy, its numbers of added tokens -> ours): those it cannot find get new ones."""
        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        drop = {"type": "Replace", "pattern": {"String": char}, "content": ""}
        normalizers = [drop, *filter(None, [spec["normalizer"]])]
        spec |= {"truncation": None, "padding": None}
        spec["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
        for token in spec["added_tokens"]:  # found in the text as it is, before `char` is dropped
            token["normalized"] &= token["content"] not in self.ids
        _hide(spec["model"], self.ids)
        copy, added = Backend.from_str(json.dumps(spec)), self.tokenizer.added_tokens_decoder
        numbers = {copy.token_to_id(token.content): index for index, token in added.items()}
        return copy, {new: index for new, index in numbers.items() if new is not None}


def _hide(model: dict, marks: Mapping[str, int]) -> None:
    """Put the marks out of the reach of text: a vocabulary may hold them as ordinary tokens."""
    hidden = {mark: f"{mark}{chr(PRIVATE[-1])}" for mark in marks}
    if isinstance(model["vocab"], list):
        model["vocab"] = [[hidden.get(token, token), *score] for token, *score in model["vocab"]]
        return
    vocab = {hidden.get(token, token): n for token, n in model["vocab"].items()}
    gaps = set(range(max(vocab.values(), default=0))) - set(vocab.values())
    model["vocab"] = vocab | {f"{chr(PRIVATE[-1])}{n}": n for n in gaps}  # no new number is an old
    if "merges" not in model:
        return
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & hidden.keys()]
    model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])


@functools.lru_cache(maxsize=16)
def marks_of(tokenizer: PreTrainedTokenizerFast, special: bool = False) -> Marks:
    """The marks of a tokenizer, or its `special` ones alone, collected once."""
    return Marks(tokenizer, special)
