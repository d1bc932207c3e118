"""What measurements are held against, damaged: reference logits, and the folder of a classifier."""

import ast
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests import tiny
from tests.faults import damage, readers
from tests.faults.box import OK, attempt
from tests.faults.target import Draw, Target

TOKENS = 5
KINDS = ("<i8", "<i4", "|u1", ">i4", "<f4", "<f8", "<f2", ">f4", "<c8", "|b1", "<U3", "<M8[s]")
ODD = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-320, 3e38)
FINITE = st.sampled_from(ODD[3:]) | st.floats(-1e3, 1e3, width=32)
DESCR = st.sampled_from(["|O", "<f4", "<f1", "V8", "(2,)<f4", [["a", "<f4"]], 3, None])
NUMBER = st.integers(-1, 30) | st.sampled_from([2**31, 2**62, 2**70, True])


def _reference(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "tokens": rng.integers(0, readers.VOCAB, TOKENS),
        "logits": rng.normal(size=(TOKENS, readers.VOCAB)).astype(np.float32),
    }
    np.savez(folder / "reference.npz", **arrays)
    return folder / "reference.npz"


class _Payload:
    def __reduce__(self):
        return os.system, (f"touch {damage.CANARY}",)


def _hurt_reference(data: Draw, path: Path) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    how = data.draw(st.sampled_from(["bytes", "values", "values", "kind", "shape", "head", "code"]))
    if how == "bytes":
        path.write_bytes(damage.bytes_of(data, path.read_bytes(), front=200))
        return
    name = data.draw(st.sampled_from(sorted(arrays)))
    array, parts = arrays[name], {}
    match how:
        case "values":
            given = arrays["logits"].astype(data.draw(st.sampled_from(["<f8", "<f4", ">f8"])))
            for _ in range(data.draw(st.integers(1, 6))):
                place = tuple(data.draw(st.integers(0, size - 1)) for size in given.shape)
                with np.errstate(over="ignore"):
                    given[place] = data.draw(st.sampled_from(ODD) | FINITE)
            arrays["logits"] = given
        case "kind":
            with np.errstate(all="ignore"):
                arrays[name] = array.astype(data.draw(st.sampled_from(KINDS)))
        case "shape":
            changed = [
                array.T,
                array[:-1],
                array[:0],
                array[None],
                np.asfortranarray(array),
                array[0],
            ]
            arrays[name] = changed[data.draw(st.integers(0, len(changed) - 1))]
        case "head":
            head = {"descr": data.draw(DESCR), "fortran_order": data.draw(st.booleans())}
            shape = data.draw(st.lists(NUMBER, max_size=3).map(tuple) | damage.TEXTS)
            parts[name] = _npy(repr(head | {"shape": shape}), array.tobytes())
        case _:
            head = {"descr": "|O", "fortran_order": False, "shape": (1,)}
            parts[name] = _npy(repr(head), pickle.dumps([_Payload()]))
            if data.draw(st.booleans()):
                parts[name] = _npy(damage.CODE, array.tobytes())
    packed = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(path, "w", packed) as file:
        for each, value in arrays.items():
            file.writestr(f"{each}.npy", parts.get(each) or _saved(value))


def _npy(head: str, content: bytes) -> bytes:
    text = head.encode("utf-8", "surrogatepass") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _logits(path: Path, found: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
    """The numbers are those behind the heads; their divergence from nothing known is finite."""
    tokens, given, told = found
    with zipfile.ZipFile(path) as file:
        theirs = [_parsed(file.read(f"{name}.npy")) for name in ("tokens", "logits")]
    assert tokens.tolist() == theirs[0].tolist()
    assert given.tolist() == theirs[1].tolist()
    assert -1e-9 <= told["max_divergence"] <= np.log(readers.VOCAB) + 1e-9, told
    assert np.isfinite(told["max_difference"]), told


def _parsed(content: bytes) -> np.ndarray:
    """An array of the format npy, by its definition."""
    size = 2 if content[6] == 1 else 4
    start = 8 + size
    end = start + int.from_bytes(content[8:start], "little")
    head = ast.literal_eval(content[start:end].decode("latin1").strip())
    order = "F" if head["fortran_order"] else "C"
    count = int(np.prod(head["shape"]))
    flat = np.frombuffer(content, np.dtype(head["descr"]), count, end)
    return flat.reshape(head["shape"], order=order)


def _hurt_classifier(data: Draw, path: Path) -> None:
    name = data.draw(
        st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", ""])
    )
    if name == "config.json" and data.draw(st.integers(0, 4)) == 0:
        tiny.edit_json(path / name, auto_map={"AutoConfig": "evil.E"}, model_type="evil")
    elif name:
        damage.json_file(data, path / name)
    elif data.draw(st.booleans()):
        file = path / "model.safetensors"
        file.write_bytes(damage.bytes_of(data, file.read_bytes(), front=2000))
    else:
        _hurt_weights(data, path / "model.safetensors")


def _hurt_weights(data: Draw, file: Path) -> None:
    """A tensor that is not there, of another size, or not finite."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        match data.draw(st.sampled_from(["gone", "short", "odd", "other name"])):
            case "gone":
                del tensors[name]
            case "short":
                tensors[name] = tensors[name][:-1].copy()
            case "odd":
                tensors[name] = np.full_like(tensors[name], data.draw(st.sampled_from(ODD[:3])))
            case _:
                tensors[f"{name}s"] = tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})


def _classifier(folder: Path) -> Path:
    made = attempt(lambda: tiny.write_classifier(folder / "judge"))  # in a child, as it is read
    assert made.kind == OK, made.value
    (folder / "judge" / "evil.py").write_text(damage.CODE)
    return folder / "judge"


def _verdicts(path: Path, found: list[float]) -> None:
    """One answer at a time by transformers itself, where one label is clearly the likelier."""
    import torch
    import transformers

    no_code = {"trust_remote_code": False, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **no_code)
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(path, **no_code).eval()
    names = {name.lower(): number for number, name in model.config.id2label.items()}
    refuses = next((n for name, n in names.items() if "ref" in name or name == "safe"), 0)
    for text, verdict in zip(readers.ANSWERS, found, strict=True):
        if not text:
            assert verdict == 0.5
            continue
        with torch.no_grad():
            scores = model(torch.tensor([tokenizer.encode(text)[:512]])).logits[0]
        best, next_best = scores.sort(descending=True).values[:2].tolist()
        assert np.isfinite(best), text
        assert best - next_best < 1e-3 or verdict == float(int(scores.argmax()) == refuses), text


MEASURING: dict[str, Target] = {
    "logits": Target(_reference, _hurt_reference, readers.read_logits, _logits),
    # Read in children alone: torch would start threads, which children cannot use.
    "classifier": Target(
        _classifier, _hurt_classifier, readers.read_classifier, _verdicts, warm=False
    ),
}
