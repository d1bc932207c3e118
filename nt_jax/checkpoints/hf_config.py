"""A `config.json` read, checked and written: everything wrong with it in one error."""

from typing import Any

from nt_jax.checkpoints.hf_fields import FAMILIES, Fields, nearest, problems_error, short
from nt_jax.models.config import ModelConfig, RopeConfig

ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def config_from_hf(config_json: Any, generation_json: Any, where: str) -> ModelConfig:
    """The config in parsed `config.json` (and `generation_config.json`, or None) at `where`."""
    config, problems = read_config(config_json, generation_json)
    if config is None or problems:
        raise problems_error(where, problems)
    return config


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A `config.json` for float32 weights that transformers 4 and 5 both read."""
    fields = {
        "architectures": [FAMILIES[config.family].architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.neurons,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    }
    if config.family == "mistral":
        fields["sliding_window"] = None  # where it is absent, transformers assumes 4096
    return fields | rope_to_hf(config.rope) | generation_to_hf(config)


def generation_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A `generation_config.json`: the special tokens."""
    eos = list(config.eos_ids) if len(config.eos_ids) > 1 else _first(config.eos_ids)
    return {"bos_token_id": config.bos_id, "eos_token_id": eos, "pad_token_id": config.pad_id}


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    """The `rope_theta` and `rope_scaling` fields of transformers 4, which 5 reads as well."""
    numbers = (rope.factor, rope.low, rope.high, rope.original_max)
    scaling = dict(zip(ROPE_FIELDS[rope.kind], numbers, strict=False))
    scaling = {"rope_type": rope.kind, **scaling} if scaling else None
    return {"rope_theta": rope.theta, "rope_scaling": scaling}


def read_config(
    config_json: Any, generation_json: Any = None, file: str = "config.json"
) -> tuple[ModelConfig | None, list[str]]:
    """(the config, or None where its sizes are unknown; every problem found, as sentences)."""
    if not isinstance(config_json, dict):
        return None, [f"{file} is not a JSON object. Download it again."]
    fields = Fields(config_json, file)
    family = _family(fields)
    if family is None:
        return None, fields.problems
    if generation_json is not None and not isinstance(generation_json, dict):
        fields.problems.append("generation_config.json is not a JSON object. Download it again.")
        generation_json = None
    config = _build(family, fields, generation_json or {})
    fields.check_the_rest(family)
    return config, fields.problems


def _build(family: str, fields: Fields, generation: dict[str, Any]) -> ModelConfig | None:
    default = FAMILIES[family]
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    absent = "num_key_value_heads" not in fields.fields  # a null, though, means "as many as heads"
    kv_heads = fields.size("num_key_value_heads", (absent and default.kv_heads) or heads)
    if heads and kv_heads and heads % kv_heads:
        fields.problem(
            f"num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
        )
    vocab_size = fields.size("vocab_size")
    max_positions = fields.size("max_position_embeddings", default.max_positions)
    config = ModelConfig(
        family=family,
        vocab_size=vocab_size,
        width=width,
        neurons=fields.size("intermediate_size"),
        layers=fields.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(fields, width, heads, default.head_dim),
        rms_eps=fields.number("rms_norm_eps", fields.get("rms_norm_eps", 1e-6), 1e-6),
        rope=_rope(fields, max_positions),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied=fields.flag("tie_word_embeddings"),
        max_positions=max_positions,
        eos_ids=fields.token_ids("eos_token_id", generation, default.eos_id, vocab_size),
        bos_id=_first(fields.token_ids("bos_token_id", generation, default.bos_id, vocab_size)),
        pad_id=_first(fields.token_ids("pad_token_id", generation, None, vocab_size)),
    )
    _check_windows(fields, family, config)
    return config if all(config.sizes.values()) else None


def _family(fields: Fields) -> str | None:
    """The model type, cross-checked with the architecture's name; None with a problem noted."""
    named = fields.get("architectures", [])
    named = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    of_architecture = {family.architecture: name for name, family in FAMILIES.items()}
    guess = of_architecture.get(named[0]) if len(named) == 1 else None
    model_type = str(fields.get("model_type", guess or ", ".join(named) or "none given"))
    if model_type not in FAMILIES:
        near = nearest(model_type, FAMILIES)
        fields.problem(
            f"architecture '{model_type}' is not supported{near}; choose a model of one of these: "
            f"{', '.join(FAMILIES)}"
        )
        return None
    wanted = FAMILIES[model_type].architecture
    wrong = [name for name in named if name != wanted]
    if wrong:
        fields.problem(
            f"architectures says {wrong[0]}, but of {model_type} only {wanted}, "
            "the model with a language head, is supported"
        )
        return None
    return model_type


def _head_dim(fields: Fields, width: int, heads: int, default: int | None) -> int:
    """Size of one head; even, because one half of it turns against the other."""
    if fields.get("head_dim", default) is None:
        if heads and width % heads:
            fields.problem(
                f"hidden_size = {width} is not a multiple of num_attention_heads = {heads}, "
                "and there is no head_dim"
            )
            return 0
        size = width // heads if heads else 0
    else:
        size = fields.size("head_dim", default)
    if size % 2:
        fields.problem(f"head_dim = {size} is odd, but rotary positions turn pairs")
    return size


def _rope(fields: Fields, max_positions: int) -> RopeConfig:
    """Rotary settings in either spelling: rope_theta + rope_scaling (4) or rope_parameters (5)."""
    given = [fields.get(name, {}) for name in ("rope_parameters", "rope_scaling")]
    theta = fields.get("rope_theta")
    if not all(isinstance(value, dict) for value in given):
        fields.problem("rope_scaling and rope_parameters must be JSON objects or null")
        return RopeConfig()
    if any(isinstance(entry, dict) for value in given for entry in value.values()):
        fields.problem("rope_parameters differ by layer type, which is not computed")
        return RopeConfig()
    spelled = [_one_spelling(value, theta) for value in given if value]
    if len(spelled) == 2 and spelled[0] != spelled[1]:
        fields.problem(f"rope_parameters {spelled[0]} contradict rope_scaling {spelled[1]}")
    params = spelled[0] if spelled else _one_spelling({}, theta)
    kind, inner_theta = str(params.pop("rope_type")), params.pop("rope_theta", 10000.0)
    if theta is not None and theta != inner_theta:
        fields.problem(f"rope_theta = {theta} contradicts the rope_theta = {inner_theta} beside it")
    for factor in (fields.get("partial_rotary_factor"), params.pop("partial_rotary_factor", None)):
        if factor not in (None, 1.0):
            fields.problem(f"partial_rotary_factor = {short(factor)}: only whole heads are rotated")
    if kind not in ROPE_FIELDS:
        near, supported = nearest(kind, ROPE_FIELDS), ", ".join(ROPE_FIELDS)
        fields.problem(f"rope_type '{kind}' is not computed{near}, only {supported}")
        return RopeConfig()
    theta = fields.number("rope_theta", inner_theta, 10000.0)
    return _rope_of_kind(fields, kind, theta, params, max_positions)


def _rope_of_kind(
    fields: Fields, kind: str, theta: float, params: dict[str, Any], max_positions: int
) -> RopeConfig:
    for name in sorted(set(params) - set(ROPE_FIELDS[kind])):
        near = nearest(name, ROPE_FIELDS[kind])
        fields.problem(f"rope field '{name}' = {short(params[name])} is unknown for '{kind}'{near}")
    if kind == "llama3":
        params.setdefault("original_max_position_embeddings", max_positions)
    missing = [name for name in ROPE_FIELDS[kind] if name not in params]
    if missing:
        fields.problem(f"rope_type '{kind}' needs {', '.join(missing)}")
        return RopeConfig()
    numbers = [fields.number(name, params[name], 1.0) for name in ROPE_FIELDS[kind]]
    if kind != "llama3":
        return RopeConfig(kind, theta, numbers[0] if numbers else 1.0)
    factor, low, high, original_max = numbers
    if high <= low:
        fields.problem(f"rope high_freq_factor = {high} must be above low_freq_factor = {low}")
    return RopeConfig(kind, theta, factor, low, high, int(original_max))


def _one_spelling(value: dict[str, Any], theta: Any) -> dict[str, Any]:
    """Rope settings with `rope_type` and `rope_theta` set and nulls left out."""
    params = {name: entry for name, entry in value.items() if entry is not None}
    older = params.pop("type", "default")
    params.setdefault("rope_type", older)
    if theta is not None:
        params.setdefault("rope_theta", theta)
    return params


def _check_windows(fields: Fields, family: str, config: ModelConfig) -> None:
    """Refuse any layer whose queries cannot see the whole context."""
    window = fields.fields.get("sliding_window", FAMILIES[family].sliding_window)
    if family.startswith("qwen"):  # windowed only on request, and only the later layers
        first = fields.get("max_window_layers", 28)
        asked = fields.get("use_sliding_window", False)
        window = window if asked and isinstance(first, int) and first < config.layers else None
    short_window = not isinstance(window, int) or window < config.max_positions
    if window is not None and short_window:
        absent = "" if "sliding_window" in fields.fields else " (what its absence means)"
        fields.problem(
            f"sliding_window = {short(window)}{absent}: windowed attention is not computed, only "
            f"models with sliding_window null or at least {config.max_positions} are"
        )
    types = fields.get("layer_types", [])
    types = types if isinstance(types, list) else [types]
    odd = sorted({str(kind) for kind in types} - {"full_attention"})
    if odd:
        fields.problem(f"layer_types {', '.join(odd)} are not computed, only full_attention is")


def _first(ids: tuple[int, ...]) -> int | None:
    return ids[0] if ids else None
