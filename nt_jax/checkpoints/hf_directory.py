"""A Hugging Face model directory: config.json, safetensors shards, and all that can be wrong."""

from pathlib import Path
from typing import Any

from nt_jax.checkpoints.hf_config import read_config
from nt_jax.checkpoints.hf_fields import problems_error, short
from nt_jax.checkpoints.tensors import AGAIN, DTYPES, TensorInfo, read_header
from nt_jax.checkpoints.validate import tensor_problems
from nt_jax.errors import brief
from nt_jax.limits import JSON_BYTES, parse_json, read_within
from nt_jax.models.config import ModelConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def open_directory(path: Path) -> tuple[ModelConfig, dict[str, TensorInfo]]:
    """(config, tensors) of the model in `path`; everything wrong with it is in one error."""
    if not (path / "config.json").is_file():
        raise problems_error(path, [_why_no_model(path)])
    problems: list[str] = []
    config_json = _read_json(path / "config.json", problems)
    generation_json = _read_json(path / "generation_config.json", problems)
    config = None
    if not problems:
        config, problems = read_config(config_json, generation_json)
    tensors, lost, found = _find_tensors(path)
    problems += found
    if config is not None and (tensors or not found):
        problems += tensor_problems(config, tensors, DTYPES, lost)
    if config is None or problems:
        raise problems_error(path, problems)
    return config, tensors


def _read_json(path: Path, problems: list[str]) -> Any:
    """Parsed JSON, or None where the file is absent or (with a problem noted) broken."""
    if not path.is_file():
        return None
    try:
        return parse_json(read_within(path, JSON_BYTES))
    except ValueError as error:
        problems.append(f"{path.name} is not valid JSON ({brief(error)}). {AGAIN}")
        return None


def _why_no_model(path: Path) -> str:
    """Why a directory without config.json is not a model, and where the model may be."""
    names = sorted(entry.name for entry in path.iterdir())
    ggufs = [name for name in names if name.endswith(".gguf")]
    inside = [name for name in names if (path / name / "config.json").is_file()]
    if ggufs:
        hint = f"To use the GGUF file in it, give its path: {path / ggufs[0]}"
    elif "adapter_config.json" in names:
        hint = "It holds a LoRA adapter; merge that into its base model and give the result."
    elif inside:
        hint = f"Did you mean {path / inside[0]}?"
    else:
        holds = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        hint = f"It holds {holds or 'nothing'}. Give the directory of a downloaded model."
    return f"not a model directory, config.json is missing. {hint}"


def _find_tensors(path: Path) -> tuple[dict[str, TensorInfo], set[str], list[str]]:
    """(tensors of all files, names lost with a bad shard, problems)."""
    if (path / SINGLE).is_file():
        tensors, problem = read_header(path / SINGLE)
        return tensors, set(), [problem] if problem else []
    if not (path / INDEX).is_file():
        pickles = sorted(f.name for f in path.iterdir() if f.suffix in (".bin", ".pt", ".pth"))
        only = f" Pickle files such as {pickles[0]} are never read." if pickles else ""
        what = f"no weights, neither {SINGLE} nor {INDEX} is there.{only}"
        return {}, set(), [f"{what} Download the model again, or save it as safetensors."]
    problems: list[str] = []
    index = _read_json(path / INDEX, problems)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        return {}, set(), problems or [f"{INDEX} has no weight_map. {AGAIN}"]
    wrong = [
        name
        for name, shard in weight_map.items()
        if not isinstance(shard, str) or not 0 < len(shard) < 256 or "\0" in shard
    ]
    if wrong:
        said = f"tensor '{wrong[0]}' at {short(weight_map[wrong[0]])}, which is no file name"
        return {}, set(), [f"{INDEX}: weight_map has {said}. {AGAIN}"]
    return _read_shards(path, weight_map)


def _read_shards(
    path: Path, weight_map: dict[str, Any]
) -> tuple[dict[str, TensorInfo], set[str], list[str]]:
    shards = sorted(set(weight_map.values()))
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        return {}, set(), [f"{INDEX} points outside the directory, at {outside[0]}. {AGAIN}"]
    bad = {shard for shard in shards if not (path / shard).is_file()}
    problems = []
    if bad:
        verb = "is" if len(bad) == 1 else "are"
        problems.append(
            f"{INDEX} names {len(shards)} shards, but {len(bad)} of them {verb} missing: "
            f"{', '.join(sorted(bad))}. Download it again, then repeat this command."
        )
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(shards) - bad):
        found, problem = read_header(path / shard)
        if problem:
            problems.append(problem)
            bad.add(shard)
        for name in sorted(found.keys() & tensors.keys()):
            first = tensors[name].file.name
            problems.append(f"tensor '{name}' is stored twice, in {first} and {shard}. {AGAIN}")
        tensors |= found
    lost = {name for name, shard in weight_map.items() if shard in bad}
    return tensors, lost, problems
