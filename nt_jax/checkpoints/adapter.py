"""PEFT adapters read: (IA)^3 vectors and LoRA matrices, merged into weights as PEFT merges them.

Formats: `adapter_config.json` and `adapter_model.safetensors` as `save_pretrained` of PEFT writes
them. Whatever would change the computation and is not computed here is refused by name, all at
once. I inputs of a module, O outputs, r rank.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nt_jax.checkpoints.hf_fields import problems_error, short
from nt_jax.checkpoints.keymap import hf_shapes, rules_for, to_hf, to_ours
from nt_jax.checkpoints.tensors import AGAIN, DTYPES, all_finite, read_header, read_tensor
from nt_jax.limits import JSON_BYTES, parse_json, read_within
from nt_jax.mesh import host
from nt_jax.models.config import ModelConfig
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.transformer import LanguageModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
DOWN_MODULE = "mlp.down_proj"
# Modules that an (IA)^3 vector may scale: their outputs, or the input of the last one.
_SCALED = ("self_attn.k_proj", "self_attn.v_proj", DOWN_MODULE)
# Fields of adapter_config.json that change what is computed -> the values that leave it alone.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    **dict.fromkeys(
        ("fan_in_fan_out", "use_dora", "lora_bias", "use_qalora", "use_bdlora"), (None, False)
    ),
    # Of others pissa, olora, corda, loftq and lora_ga change the base model when PEFT loads them,
    # and the rest were not held against PEFT.
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal"),
    **dict.fromkeys(("velora_config", "arrow_config", "kasa_config", "monteclora_config"), (None,)),
}
PATTERN_LETTERS = 200  # of a key of rank_pattern or alpha_pattern
_PART = re.compile(r"(.+)\.(ia3_l|lora_A\.weight|lora_B\.weight)")


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits a model: module (HF name) -> its parts, float32 and all finite.

    Parts of (IA)^3: ia3_l, of 1 x I or O x 1 numbers. Parts of LoRA: lora_A [r, I] with the scaling
    in it already, lora_B [O, r].
    """

    path: Path
    kind: str  # IA3 or LORA
    base: str | None  # what adapter_config.json calls its base model
    modules: dict[str, dict[str, np.ndarray]] = field(repr=False)

    def down_LF(self, config: ModelConfig) -> np.ndarray:
        """Its factors of neurons, float32 [L, F]; raises a CheckpointError where it has others."""
        others = sorted({".".join(m.split(".")[-2:]) for m in self.modules} - {DOWN_MODULE})
        if self.kind != "IA3" or others:
            what = f"vectors on {', '.join(others)}" if self.kind == "IA3" else "a LoRA adapter"
            raise problems_error(
                self.path,
                [
                    f"{what}: only an (IA)^3 adapter of {DOWN_MODULE} alone is factors of neurons. "
                    "To measure this one as it is: python -m nt_jax.eval --model BASE --adapter "
                    f"{self.path}"
                ],
            )
        scale_LF = np.ones((config.layers, config.neurons), np.float32)
        for module, parts in self.modules.items():
            scale_LF[int(module.split(".")[2])] = parts["ia3_l"].reshape(-1)
        return scale_LF


def open_adapter(path: Path | str, config: ModelConfig) -> Adapter:
    """The adapter in a folder, checked against a model of `config`.

    Everything that is wrong with it is in one CheckpointError.
    """
    path = Path(path)
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        said = f"no PEFT adapter: {' and '.join(missing)} is missing there, or no file"
        raise problems_error(path, [f"{said}. Give the folder of a whole adapter."])
    try:
        fields = parse_json(read_within(path / CONFIG, JSON_BYTES))
    except ValueError as error:
        raise problems_error(path, [f"{CONFIG} is not valid JSON ({error}). {AGAIN}"]) from error
    if not isinstance(fields, dict):
        raise problems_error(path, [f"{CONFIG} is not a JSON object. {AGAIN}"])
    problems = _unsupported(fields)
    infos, problem = read_header(path / WEIGHTS)
    if problems or problem:
        raise problems_error(path, [*problems, *([problem] if problem else [])])
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, info in infos.items():
        part = _PART.fullmatch(name.removeprefix(PREFIX))
        if part is None or info.dtype not in DTYPES:
            problems.append(f"tensor '{name}' ({info.dtype}) is no part of an adapter that is read")
            continue
        array = read_tensor(info).astype(np.float32)
        if not all_finite(array):
            problems.append(f"tensor '{name}' contains NaN or infinity")
        modules.setdefault(part[1], {})[part[2].removesuffix(".weight")] = array
    fit = _fit_ia3 if fields["peft_type"] == "IA3" else _fit_lora
    shapes = hf_shapes(config)
    for module, parts in modules.items():
        shape = shapes.get(f"{module}.weight", ())
        problems += fit(module, parts, shape if len(shape) == 2 else None, fields)
    if problems or not modules:
        raise problems_error(path, problems or [f"{WEIGHTS} holds no tensor. {AGAIN}"])
    base = fields.get("base_model_name_or_path")
    return Adapter(path, fields["peft_type"], str(base) if base else None, modules)


def merged_adapter(lm: LanguageModel, adapter: Adapter) -> LanguageModel:
    """The plain model that an adapter makes; untouched leaves are those of `lm`, no copy.

    Summed in float32 and rounded once to the type of the leaf.
    """
    sizes, new = lm.config.sizes, {}
    names = {name for module in adapter.modules for name in (f"{module}.weight", f"{module}.bias")}
    for rule in rules_for(lm.config):
        tensors = rule.hf_names(lm.config.layers)
        if not names.intersection(tensors):
            continue
        whole = np.array(host(get_leaf(lm, rule.ours)))
        rows = whole if rule.stacked else whole[None]
        for row, name in zip(rows, tensors, strict=True):
            parts = adapter.modules.get(name.rpartition(".")[0])
            if parts is not None:
                weight = to_hf(row.astype(np.float32), rule, sizes)
                row[...] = to_ours(_changed(weight, parts), rule, sizes).astype(row.dtype)
        new[rule.ours] = whole
    return with_leaves(lm, new)


def _changed(weight: np.ndarray, parts: dict[str, np.ndarray]) -> np.ndarray:
    """A weight [O, I] with an adapter in it; or a bias [O], which LoRA leaves alone."""
    if "ia3_l" in parts:
        vector = parts["ia3_l"]
        return weight * (vector if weight.ndim == 2 else vector.reshape(-1))
    return weight + parts["lora_B"] @ parts["lora_A"] if weight.ndim == 2 else weight


def _unsupported(fields: dict[str, Any]) -> list[str]:
    """Fields of the config that ask for something else than is computed."""
    kind = fields.get("peft_type")
    if kind not in ("IA3", "LORA"):
        return [f"peft_type {short(kind)} is not read; supported: IA3, LORA."]
    problems = [
        f"{name} = {short(fields[name])} is not computed. Merge it with PEFT and give the result."
        for name, plain in _PLAIN.items()
        if name in fields and fields[name] not in plain
    ]
    if kind == "LORA":
        for name in ("rank_pattern", "alpha_pattern"):
            pattern = fields.get(name) or {}
            if not isinstance(pattern, dict) or not all(map(_is_size, pattern.values())):
                problems.append(f"{name} is not an object of positive numbers")
                continue
            problems += [
                f"{name} has the key {short(key)}, which is no expression that is read: at most "
                f"{PATTERN_LETTERS} characters, two repetitions, and none of a group"
                for key in pattern
                if not _is_pattern(key)
            ]
        problems += [
            f"{name} = {short(fields.get(name))} is not a positive number"
            for name in ("r", "lora_alpha")
            if not _is_size(fields.get(name))
        ]
    return problems


def _is_size(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and 0 < value < float(np.finfo(np.float32).max)


def _is_pattern(key: str) -> bool:
    """Whether a key is a regular expression whose match is found in no time, whatever it says."""
    repeats = re.findall(r"(?<!\()[*+?{]", key)
    if len(key) > PATTERN_LETTERS or len(repeats) > 2 or re.search(r"\)[*+{]", key):
        return False
    try:
        re.compile(_at_end(key))
    except (re.error, OverflowError):
        return False
    return True


def _at_end(key: str) -> str:
    """The expression that PEFT makes of a key."""
    return rf"(.*\.)?({key})$"


def _fit_ia3(
    module: str, parts: dict[str, np.ndarray], shape: tuple[int, ...] | None, fields: dict[str, Any]
) -> list[str]:
    """What keeps a vector from its module."""
    if shape is None or not module.endswith(_SCALED) or parts.keys() != {"ia3_l"}:
        return [f"'{module}' has parts {', '.join(parts)}: only vectors on {', '.join(_SCALED)} "
                "of this model are read"]  # fmt: skip
    inputs = module.endswith(DOWN_MODULE)
    wanted = (1, shape[1]) if inputs else (shape[0], 1)
    found = parts["ia3_l"].shape
    if found != wanted:
        return [f"the vector of '{module}' has shape {list(found)}, not {list(wanted)}"]
    return []


def _fit_lora(
    module: str, parts: dict[str, np.ndarray], shape: tuple[int, ...] | None, fields: dict[str, Any]
) -> list[str]:
    """What keeps A and B from their module; the scaling goes into A."""
    if shape is None or parts.keys() != {"lora_A", "lora_B"}:
        return [f"'{module}' has parts {', '.join(parts)}: no LoRA of a module of this model"]
    a, b = parts["lora_A"], parts["lora_B"]
    rank = _of_pattern(fields.get("rank_pattern"), module, fields["r"])
    if (a.shape, b.shape) != ((rank, shape[1]), (shape[0], rank)):
        return [
            f"A and B of '{module}' have shapes {list(a.shape)} and {list(b.shape)}, but rank "
            f"{rank} and its weight {list(shape)} make them {[rank, shape[1]]} and "
            f"{[shape[0], rank]}"
        ]
    alpha = _of_pattern(fields.get("alpha_pattern"), module, fields["lora_alpha"])
    with np.errstate(over="ignore"):
        parts["lora_A"] = a * np.float32(alpha / (rank**0.5 if fields.get("use_rslora") else rank))
    if not all_finite(parts["lora_A"]):
        return [f"lora_alpha = {short(alpha)} is too large for the weights of '{module}'"]
    return []


def _of_pattern(pattern: dict[str, Any] | None, module: str, usual: Any) -> Any:
    """A module's entry of rank_pattern or alpha_pattern, by the first key that matches its end."""
    found = (value for key, value in (pattern or {}).items() if re.match(_at_end(key), module))
    return next(found, usual)
