"""Adapters and factors, damaged: the readers of others say what is in them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests import tiny
from tests.faults import damage, oracles, readers
from tests.faults.target import Draw, Target

PATTERNS = ("mlp.down_proj", r"layers\.1\.mlp\.down_proj", "self_attn.v_proj", ".*v_proj", "q")
BOMBS = ("(a|a)*b", "(.*)*x", "(((.*)+)+)+x", "[", "(?P<", "\\", "x{9999999999}", "(" * 5000)
SCALES = (3, 3.0, 6, 1e-320, 1e39, 10**400, 2**64, 0.5, True, "3", None, -1, 0)


def _ia3(folder: Path) -> Path:
    from nt_jax.export import ia3
    from nt_jax.export.folder import Wanted
    from nt_jax.generate.chat import open_model
    from tests.export.test_adapters import factors_of

    ia3.write(open_model(str(tiny.checkpoint())), factors_of(), folder / "ia3", Wanted())
    return folder / "ia3"


def _lora(folder: Path) -> Path:
    """Rank 3 on two modules of a layer, 2 on another, as PEFT writes it."""
    from safetensors.numpy import save_file

    rng, sizes = np.random.default_rng(0), {"down": (tiny.WIDTH, tiny.NEURONS)}
    names = {
        "model.layers.0.mlp.down_proj": (*sizes["down"], 3),
        "model.layers.1.mlp.down_proj": (*sizes["down"], 2),
        "model.layers.0.self_attn.v_proj": (tiny.WIDTH // 2, tiny.WIDTH, 3),
    }
    parts = {}
    for module, (outputs, inputs, rank) in names.items():
        for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            name = f"base_model.model.{module}.lora_{part}.weight"
            parts[name] = rng.normal(size=shape).astype(np.float32)
    (made := folder / "lora").mkdir()
    save_file(parts, made / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA", "base_model_name_or_path": "x", "r": 3, "lora_alpha": 6,
        "rank_pattern": {r"layers\.1\.mlp\.down_proj": 2}, "alpha_pattern": {"v_proj": 9},
        "use_rslora": False, "bias": "none", "target_modules": ["down_proj", "v_proj"],
    }  # fmt: skip
    (made / "adapter_config.json").write_text(json.dumps(fields))
    return made


def _hurt(data: Draw, path: Path) -> None:
    if data.draw(st.booleans()):
        damage.json_file(data, path / "adapter_config.json")
        return
    _hurt_tensors(data, path / "adapter_model.safetensors")


def _hurt_lora(data: Draw, path: Path) -> None:
    """What is computed from: ranks, alphas, and the patterns that say whose they are."""
    if data.draw(st.booleans()):
        _hurt(data, path)
        return
    numbers = st.sampled_from(SCALES)
    keys = st.sampled_from(PATTERNS + BOMBS) | damage.TEXTS
    patterns = st.dictionaries(keys, st.sampled_from([2, 3]) | numbers, max_size=3)
    changes = {
        "r": numbers, "lora_alpha": numbers, "use_rslora": st.booleans() | damage.VALUES,
        "rank_pattern": patterns, "alpha_pattern": patterns, "use_dora": st.booleans(),
    }  # fmt: skip
    chosen = data.draw(st.lists(st.sampled_from(sorted(changes)), min_size=1, max_size=2))
    drawn = {name: data.draw(changes[name]) for name in chosen}
    tiny.edit_json(path / "adapter_config.json", **drawn)


def _hurt_tensors(data: Draw, file: Path) -> None:
    file.write_bytes(damage.bytes_of(data, file.read_bytes(), front=900))


def _vectors(path: Path, found: dict[str, dict[str, np.ndarray]]) -> None:
    """The vectors of the safetensors library."""
    from safetensors.numpy import load_file

    theirs = load_file(path / "adapter_model.safetensors")
    ours = {f"base_model.model.{m}.ia3_l": parts["ia3_l"] for m, parts in found.items()}
    assert {n.removeprefix("base_model.model.") for n in theirs} == {
        n.removeprefix("base_model.model.") for n in ours
    }
    for name, vector in theirs.items():
        mine = ours[f"base_model.model.{name.removeprefix('base_model.model.')}"]
        assert mine.tobytes() == vector.astype(np.float32).tobytes(), name


def _changes(path: Path, found: dict[str, dict[str, np.ndarray]]) -> None:
    """B A times the scaling, by PEFT's own reading of the patterns."""
    from peft.utils.other import get_pattern_key
    from safetensors.numpy import load_file

    fields = json.loads((path / "adapter_config.json").read_text("utf-8"))
    theirs = {
        name.removeprefix("base_model.model."): tensor.astype(np.float64)
        for name, tensor in load_file(path / "adapter_model.safetensors").items()
    }
    assert len(theirs) == 2 * len(found)

    def chosen(name: str, module: str, usual: Any) -> float:
        pattern = fields.get(name) or {}
        return float(pattern.get(get_pattern_key(pattern.keys(), module), usual))

    for module, parts in found.items():
        rank = chosen("rank_pattern", module, fields["r"])
        alpha = chosen("alpha_pattern", module, fields["lora_alpha"])
        scaling = alpha / (rank**0.5 if fields.get("use_rslora") else rank)
        wanted = theirs[f"{module}.lora_B.weight"] @ theirs[f"{module}.lora_A.weight"] * scaling
        mine = parts["lora_B"].astype(np.float64) @ parts["lora_A"].astype(np.float64)
        size = np.abs(wanted).max()
        assert np.abs(mine - wanted).max() <= 1e-5 * size + 1e-30, (module, size)


def _own_factors(folder: Path) -> Path:
    from nt_jax.export import factors
    from nt_jax.export.folder import Wanted
    from nt_jax.generate.chat import open_model
    from tests.export.test_adapters import factors_of

    factors.write(open_model(str(tiny.checkpoint())), factors_of(), folder / "factors", Wanted())
    return folder / "factors"


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    return readers.read_adapter(path, tiny.checkpoint())


ADAPTERS = {
    "adapter": Target(_ia3, _hurt, _read, _vectors),
    "LoRA": Target(_lora, _hurt_lora, _read, _changes),
    "factors": Target(
        _own_factors,
        lambda data, path: _hurt_tensors(data, path / "factors.safetensors"),
        readers.read_own_factors,
        oracles.factors,
    ),
}
