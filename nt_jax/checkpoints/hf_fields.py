"""Which fields of a Hugging Face `config.json` are read, checked, or known to change nothing.

Any field outside these tables is refused by name: ignoring one that matters would load a model
that silently computes something else.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nt_jax.errors import CheckpointError
from nt_jax.limits import LAYERS, PROBLEMS, SIZE


@dataclass(frozen=True)
class Family:
    """What transformers assumes for one `model_type` where `config.json` says nothing."""

    architecture: str
    max_positions: int
    kv_heads: int | None = None  # None: as many as there are query heads
    head_dim: int | None = None  # None: width / heads
    sliding_window: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None


FAMILIES = {
    "llama": Family("LlamaForCausalLM", 2048, bos_id=1, eos_id=2),
    "mistral": Family(
        "MistralForCausalLM", 131072, kv_heads=8, sliding_window=4096, bos_id=1, eos_id=2
    ),
    "qwen2": Family("Qwen2ForCausalLM", 32768, kv_heads=32),
    "qwen3": Family("Qwen3ForCausalLM", 32768, kv_heads=32, head_dim=128),
}


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables of names."""
    return frozenset(text.split())


# Fields that hf_config.py reads.
HANDLED = words(
    """architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers
    num_attention_heads num_key_value_heads head_dim rms_norm_eps rope_theta rope_scaling
    rope_parameters partial_rotary_factor max_position_embeddings tie_word_embeddings bos_token_id
    eos_token_id pad_token_id sliding_window use_sliding_window max_window_layers
    layer_types"""
)

# Fields that would change the computation, with the only values that leave it as we compute it.
CHECKED: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "only silu MLPs are computed"),
    "attention_bias": ((False, None), "attention biases are computed for qwen2 only"),
    "mlp_bias": ((False, None), "MLP biases are not computed"),
    "quantization_config": ((None,), "quantised weights are not read; use the original checkpoint"),
    "auto_map": ((None,), "this model brings its own Python code, which is never run"),
    "rope_interleaved": ((False, None), "only half-split rotary pairs are computed"),
    "is_encoder_decoder": ((False, None), "only decoder-only models are computed"),
    "add_cross_attention": ((False, None), "only decoder-only models are computed"),
}

# Notes, training-only and decoding-only settings: nothing here reaches the forward pass.
HARMLESS = words(
    """_name_or_path name_or_path _commit_hash transformers_version torch_dtype dtype
    initializer_range use_cache attention_dropout hidden_dropout embd_pdrop resid_pdrop
    classifier_dropout pretraining_tp return_dict output_attentions output_hidden_states
    return_dict_in_generate output_scores torchscript is_decoder is_llama_config
    transformers.js_config unsloth_version unsloth_fixed tokenizer_class task_specific_params
    finetuning_task id2label label2id num_labels problem_type attn_implementation
    _attn_implementation _attn_implementation_autoset chunk_size_feed_forward sep_token_id
    unk_token_id decoder_start_token_id temperature top_k top_p typical_p do_sample max_length
    min_length max_new_tokens num_beams num_beam_groups num_return_sequences repetition_penalty
    length_penalty diversity_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    early_stopping bad_words_ids forced_bos_token_id forced_eos_token_id suppress_tokens
    begin_suppress_tokens remove_invalid_values exponential_decay_length_penalty"""
)


class Fields:
    """Typed access to `config.json`; whatever is wrong becomes a sentence in `problems`."""

    def __init__(self, fields: dict[str, Any], file: str = "config.json"):
        self.fields = fields
        self.file = file
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        """Note a problem of the config, as one sentence."""
        self.problems.append(f"{self.file}: {text}.")

    def get(self, name: str, default: Any = None) -> Any:
        """The raw value, `default` where it is absent or null."""
        value = self.fields.get(name)
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number, or 0 with a problem noted (a default of 0 was noted before)."""
        value = self.get(name, default)
        if value is None:
            near = nearest(name, self.fields)
            self.problem(f"field '{name}' is missing{near}; without it the shapes are unknown")
            return 0
        wrong = not isinstance(value, int) or isinstance(value, bool) or value < 1
        if wrong and self.get(name) is not None:
            self.problem(f"field '{name}' must be a positive whole number, not {short(value)}")
        most = (LAYERS if name == "num_hidden_layers" else SIZE).value
        if not wrong and value > most:
            self.problem(f"field '{name}' = {short(value)} is more than {most:,}, the most we take")
            return 0
        return 0 if wrong else value

    def number(self, name: str, value: Any, default: float) -> float:
        """`value` as a positive finite number; `default`, with a problem noted, if it is not."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            self.problem(f"field '{name}' must be a positive number, not {short(value)}")
            return default
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; false where it is absent."""
        value = self.get(name, False)
        if not isinstance(value, bool):
            self.problem(f"field '{name}' must be true or false, not {short(value)}")
        return bool(value)

    def token_ids(
        self, name: str, generation: dict[str, Any], default: int | None, vocab_size: int
    ) -> tuple[int, ...]:
        """Token ids under `name`; the generation config wins, as it does in `generate`."""
        value, own = generation.get(name), self.fields.get(name, default)
        if value is None:
            value = own
        elif not isinstance(own, int | list | None):  # transformers does not read the file then
            self.problem(f"{name} = {short(own)} is no token id")
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if name == "pad_token_id" and ids == [-1]:  # how LLaMA-1 wrote "no padding token"
            return ()
        top = vocab_size or math.inf
        of = " of generation_config.json" if generation.get(name) is not None else ""
        if any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < top for i in ids):
            self.problem(
                f"{name}{of} = {short(value)} is no token id below vocab_size = {vocab_size}"
            )
            return ()
        if name == "eos_token_id" and ids and len({*ids}) == vocab_size:
            self.problem(
                f"{name}{of} names all {vocab_size} tokens, so that no answer has a word. Keep the "
                "id of the token that ends an answer alone"
            )
        return tuple(ids)

    def check_the_rest(self, family: str) -> None:
        """Refuse every field that is neither read nor known to be harmless."""
        known = HANDLED | HARMLESS | CHECKED.keys()
        for name, value in self.fields.items():
            if name in CHECKED:
                allowed, why = CHECKED[name]
                ignored = name == "attention_bias" and family == "qwen2"  # it always has biases
                if value not in allowed and not ignored:
                    self.problem(f"field '{name}' = {short(value)}: {why}")
            elif name not in known and value not in (None, False, "", [], {}):
                self.problem(
                    f"field '{name}' = {short(value)} is unknown and may change what the model "
                    f"computes{nearest(name, known)}; if it is only a note, delete it"
                )


def nearest(name: str, candidates: Iterable[str]) -> str:
    """' (nearest: ...)' with the candidate most like `name`, or '' if none is close."""
    near = closest(name, candidates)
    return f" (nearest: '{near}')" if near else ""


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, None if none is close."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)), None)


def short(value: Any) -> str:
    """A JSON value cut to a length that fits a sentence."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        text = f"a number of {value.bit_length():,} bits"
    return text if len(text) <= 60 else text[:57] + "..."


def problems_error(where: object, problems: list[str]) -> CheckpointError:
    """One error for everything wrong at `where`: one line for one problem, a list for more."""
    more = len(problems) - PROBLEMS.value
    if more > 0:
        problems = [*problems[: PROBLEMS.value], f"and {more:,} more."]
        lines = "".join(f"\n  - {problem}" for problem in problems)
        return CheckpointError(f"{where} has {more + PROBLEMS.value:,} problems:{lines}")
    if len(problems) == 1:
        return CheckpointError(f"{where}: {problems[0]}")
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return CheckpointError(f"{where} has {len(problems)} problems:{lines}")
