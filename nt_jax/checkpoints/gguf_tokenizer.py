"""A tokenizer rebuilt from GGUF metadata with the `tokenizers` library.

`transformers` can do this too, but only with torch installed, and it does not apply every
`tokenizer.ggml.pre` (it lets SmolLM2 merge across the digits that its own tokenizer splits).
"""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from nt_jax.checkpoints.hf_fields import nearest, problems_error

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

# How text is cut before merging, by `tokenizer.ggml.pre`: these patterns are facts of the models.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ONE_DIGIT = "one digit at a time, then GPT-2's own pattern"
SPLITS: dict[str, str] = {
    "gpt-2": "", "smollm": _ONE_DIGIT, "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "tekken": _TEKKEN,
}  # fmt: skip
_WHOLE = (_LLAMA3, _TEKKEN)  # a piece that is a token is not merged up to it, and texts have a BOS


def build_tokenizer(metadata: dict[str, Any], where: object) -> Tokenizer:
    """The tokenizer that the metadata of the GGUF file at `where` describes."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    if kind not in ("gpt2", "llama") or not tokens:
        reason = f"tokenizer.ggml.model = {kind!r} with {len(tokens)} tokens cannot be rebuilt"
        raise problems_error(where, [f"{reason}; supported: gpt2, llama. Use an HF directory."])
    name = "tokenizer.ggml.merges" if kind == "gpt2" else "tokenizer.ggml.scores"
    if not isinstance(metadata.get(name), list) or not metadata[name]:
        reason = f"{name}, by which text is cut into tokens, is missing"
        raise problems_error(where, [f"{reason}. Use another conversion, or an HF directory."])
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    build = _byte_level if kind == "gpt2" else _sentencepiece
    tokenizer = build(metadata, tokens, types, where)
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True)]
    special = [token for token, kind in added if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    plain = [token for token, kind in added if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    _add_bos(tokenizer, metadata, tokens)
    return tokenizer


def _byte_level(
    metadata: dict[str, Any], tokens: list[str], types: list[int], where: object
) -> Tokenizer:
    """GPT-2 style: merges over bytes, within pieces cut by a pattern."""
    pre = metadata.get("tokenizer.ggml.pre", "none given")
    if pre not in SPLITS:
        supported = ", ".join(SPLITS)
        problem = f"tokenizer.ggml.pre = '{pre}' is unknown{nearest(pre, SPLITS)}; supported: "
        raise problems_error(where, [f"{problem}{supported}. Use a newer conversion."])
    vocab = {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=SPLITS[pre] in _WHOLE))
    if SPLITS[pre] == _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _splitter(SPLITS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _splitter(pattern: str) -> pre_tokenizers.PreTokenizer:
    own_pattern = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if not pattern:
        return own_pattern
    if pattern == _ONE_DIGIT:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), own_pattern])
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _sentencepiece(
    metadata: dict[str, Any], tokens: list[str], types: list[int], where: object
) -> Tokenizer:
    """LLaMA-2 style: merges over characters, spaces as U+2581, single bytes as a fallback."""
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    merges = merges_from_scores(tokens, metadata["tokenizer.ggml.scores"], types)
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", "\u2581")
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces])
        back.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def merges_from_scores(
    tokens: list[str], scores: list[float], types: list[int]
) -> list[tuple[str, str]]:
    """The merge list that makes BPE join the pair with the best-scored result first.

    A sentencepiece file has no merges: any two pieces whose concatenation is a piece may join, and
    a merge ranks as the score of what it makes.
    """
    mergeable = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    pairs = [
        (score, token[:cut], token[cut:])
        for token, score in mergeable.items()
        for cut in range(1, len(token))
        if token[:cut] in mergeable and token[cut:] in mergeable
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [(left, right) for _, left, right in pairs]


def _add_bos(tokenizer: Tokenizer, metadata: dict[str, Any], tokens: list[str]) -> None:
    """Make a plain `encode` start with BOS where the file asks for it (chat templates do not).

    Where it does not say, llama.cpp adds one for sentencepiece, LLaMA-3 and Tekken.
    """
    sentencepiece = metadata["tokenizer.ggml.model"] == "llama"
    default = sentencepiece or SPLITS[metadata["tokenizer.ggml.pre"]] in _WHOLE
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", default):
        start = tokens[bos]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, bos)]
        )
