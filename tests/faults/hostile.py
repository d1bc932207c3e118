"""Inputs that would take a machine's time or memory: each is one file or folder, made in a moment.

`python -m tests.faults.hostile FOLDER` tries each beside its good sibling, and prints one JSON
object: name -> how it ended, what it said, CPU seconds and bytes beyond the good one. Seconds are
those of an ordinary core: a fixed piece of work is timed before and after each input, and where it
takes twice its time, as on a core whose other half is busy, the input's seconds count half.
"""

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from nt_jax.checkpoints import trial
from tests import tiny
from tests.faults import readers
from tests.faults.box import Outcome, attempt

Make = Callable[[Path], Path]  # a fresh folder -> what is read
GIGABYTES = 10**10
YARDSTICK_SECONDS = 0.12  # of the fixed piece of work, on an ordinary core


def model(change: Callable[[Path], None] = lambda folder: None) -> Make:
    """A tiny model that was changed."""

    def make(folder: Path) -> Path:
        change(tiny.copy("smollm2", folder / "model"))
        return folder / "model"

    return make


def text(name: str, content: str | bytes) -> Make:
    """A file of some content."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def _template(source: str) -> Make:
    return model(lambda folder: (folder / "chat_template.jinja").write_text(source) and None)


def _config(content: str) -> Make:
    return model(lambda folder: (folder / "config.json").write_text(content) and None)


def _edit(**fields) -> Make:
    return model(lambda folder: tiny.edit_json(folder / "config.json", **fields))


def _aliases() -> str:
    """304 bytes that stand for 10**9 values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines)


def _announcing_array(folder: Path) -> Path:
    key = b"general.tags"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    return text("m.gguf", head + struct.pack("<IIQ", 9, 4, 1 << 60))(folder)


def _long_header(folder: Path) -> Path:
    path = folder / "model" / "model.safetensors"
    tiny.copy("smollm2", folder / "model")
    with path.open("wb") as file:  # sparse: it takes no room on the disk
        file.write((101_000_000).to_bytes(8, "little"))
        file.truncate(8 + 101_000_000)
    return folder / "model"


def _header(change: Callable[[dict], None], tail: int = 0) -> Make:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        table = json.loads(content[8 : 8 + length])
        change(table)
        head = json.dumps(table).encode()
        data = content[8 + length :] + bytes(tail)
        path.write_bytes(len(head).to_bytes(8, "little") + head + data)

    return model(apply)


def _hole(table: dict) -> None:
    last = max((n for n in table if n != "__metadata__"), key=lambda n: table[n]["data_offsets"][1])
    table[last]["data_offsets"] = [place + 64 for place in table[last]["data_offsets"]]


def _many_wrong(table: dict) -> None:
    some = next(entry for name, entry in table.items() if name != "__metadata__")
    size = some["data_offsets"][1] - some["data_offsets"][0]
    top = max(e["data_offsets"][1] for n, e in table.items() if n != "__metadata__")
    for n in range(2000):
        table[f"model.layers.0.odd{n}.weight"] = some | {
            "data_offsets": [top + n * size, top + (n + 1) * size]
        }


def _many_wrong_tensors(folder: Path) -> Path:
    path = folder / "model" / "model.safetensors"
    _header(_many_wrong)(folder)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    table = json.loads(path.read_bytes()[8 : 8 + length])
    top = max(e["data_offsets"][1] for n, e in table.items() if n != "__metadata__")
    with path.open("r+b") as file:
        file.truncate(8 + length + top)
    return folder / "model"


def _parquet(values: int, letters: int, compression: str) -> Make:
    def make(folder: Path) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / "rows.parquet"
        column = ["x" * letters]
        schema = pa.schema([("request", pa.string())])
        with pq.ParquetWriter(path, schema, compression=compression) as file:
            for _ in range(values):
                file.write_table(pa.table({"request": column}, schema=schema))
        return path

    return make


def _dictionary(folder: Path) -> Path:
    """One long text, and 2,500 references to it: small even to its own metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = pa.DictionaryArray.from_arrays(pa.array([0] * 2500, pa.int32()), ["x" * 10**6])
    pq.write_table(pa.table({"request": words}), folder / "rows.parquet", compression="zstd")
    return folder / "rows.parquet"


def _nested(name: str, depth: int = 100_000) -> Make:
    return text(name, '{"request": ' + "[" * depth + "]" * depth + "}\n")


def _link(name: str, target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def _pipe(folder: Path) -> Path:
    import os

    (folder / "data").mkdir()
    os.mkfifo(folder / "data" / "train.jsonl")
    return folder / "data"


GOOD: dict[str, tuple[Make, Callable[[Path], object]]] = {
    "recipe": (text("r.yaml", "model: {source: x}\n"), readers.read_recipe),
    "model": (model(), readers.read_model),
    "gguf": (lambda to: tiny.write_gguf(tiny.checkpoint(), to / "m.gguf"), readers.read_model),
    "data": (
        text("rows.jsonl", '{"request": "Why is the sky blue?"}\n' * 20), readers.read_requests
    ),
    "parquet": (_parquet(2, 10, "none"), readers.read_requests),
}  # fmt: skip
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='xx') %}" + "{% set n.x = n.x ~ n.x %}" * 50 + "{{ n.x }}"
HOSTILE: dict[str, tuple[str, Make]] = {
    "YAML aliases": ("recipe", text("r.yaml", _aliases())),
    "a long recipe": ("recipe", text("r.yaml", "a: 1\n" * 100_000)),
    "a deep recipe": ("recipe", text("r.yaml", "[" * 40_000)),
    "a recipe that is a device": ("recipe", _link("r.yaml", "/dev/zero")),
    "data that are a device": ("data", _link("rows.jsonl", "/dev/zero")),
    "data that are a pipe": ("data", _pipe),
    "deep JSONL": ("data", _nested("rows.jsonl")),
    "deep JSON": ("data", text("rows.json", "[" * 100_000)),
    "blank lines": ("data", text("rows.jsonl", b"\n" * 30_000_000)),
    "a GGUF array of 2**60": ("gguf", _announcing_array),
    "2**64 layers": ("model", _edit(num_hidden_layers=2**64)),
    "10**9 neurons": ("model", _edit(intermediate_size=10**9)),
    "a number of 4,000 digits": ("model", _edit(vocab_size=10**4000)),
    "deep config.json": ("model", _config("[" * 100_000)),
    "a config.json of 20 MB": ("model", _config('{"a": "' + "x" * 20_000_000)),
    "a header of 101 MB": ("model", _long_header),
    "a hole between tensors": ("model", _header(_hole, tail=64)),
    "2,000 wrong tensors": ("model", _many_wrong_tensors),
    "compressed parquet": ("parquet", _parquet(125, 10**7, "zstd")),
    "parquet of one repeated text": ("parquet", _dictionary),
    "a template that loops": ("model", _template(LOOP)),
    "a template of 10 GB": ("model", _template("{{ 'x' * 10**10 }}")),
    "a template that doubles": ("model", _template(DOUBLING)),
    "a template of a huge number": ("model", _template("{{ 9 ** (9 ** 9) }}")),
    "a template of 300 kB": ("model", _template("x" * 300_000)),
}  # fmt: skip


def main() -> None:
    """Try everything; what was good is tried first, so that what it imports is not counted."""
    root, costs, found = Path(sys.argv[1]), {}, {}
    for name, (make, read) in GOOD.items():
        path = make(_fresh(root, f"good-{name}"))
        read(path)  # imports
        trial._problem.cache_clear()
        outcome = _timed(lambda path=path, read=read: read(path) and None)
        trial._problem.cache_clear()
        costs[name] = outcome
        found[f"good {name}"] = asdict(outcome)
    for name, (kind, make) in HOSTILE.items():
        path, read = make(_fresh(root, name.replace(" ", "-").replace("/", ""))), GOOD[kind][1]
        outcome = _timed(lambda path=path, read=read: read(path) and None)
        beyond = {
            "seconds": outcome.seconds - costs[kind].seconds,
            "memory": outcome.memory - costs[kind].memory,
        }
        found[name] = asdict(outcome) | beyond
    print(json.dumps(found))


def _timed(work: Callable[[], object]) -> Outcome:
    """What trying `work` gave, its seconds by the yardstick."""
    before = attempt(_yardstick).seconds
    outcome = attempt(work, cpu=60)
    pace = (before + attempt(_yardstick).seconds) / 2 / YARDSTICK_SECONDS
    return replace(outcome, seconds=outcome.seconds / max(1.0, pace))


def _yardstick() -> int:
    """Some work of an interpreter, always the same."""
    return sum(len(json.loads(f'{{"a": [{n}, "b"]}}')) for n in range(40_000))


def _fresh(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
