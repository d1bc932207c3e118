"""How much of a file is read before it is refused in one line: every bound, in one table.

They lie above the largest real files that we know of. docs/reliability.md shows the table.
"""

import json
import stat
from pathlib import Path
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """The largest value that is taken, its unit, of what, and the largest one in use."""

    value: int
    unit: str
    of: str
    largest: str


RECIPE_BYTES = Limit(100_000, "bytes", "a recipe or an override", "5 kB")
RECIPE_VALUES = Limit(10_000, "values", "a recipe, aliases written out", "a few hundred")
RECIPE_DEPTH = Limit(100, "levels", "brackets within each other in a recipe", "three")
JSON_BYTES = Limit(
    16_000_000, "bytes", "config.json, an index, an adapter's config", "9 MB (DeepSeek-V3)"
)
JSON_DEPTH = Limit(100, "levels", "JSON: lists and objects within each other", "a dozen")
HEADER_BYTES = Limit(
    16_000_000, "bytes", "the header of a safetensors file (the library: 100 MB)", "2 MB"
)
TOKENIZER_BYTES = Limit(64_000_000, "bytes", "each file of a tokenizer", "33 MB (Gemma 3)")
TEMPLATE_BYTES = Limit(250_000, "bytes", "a chat template", "20 kB")
TEMPLATE_MILLISECONDS = Limit(
    500, "CPU milliseconds", "the first renderings of a chat template", "10"
)
TEMPLATE_MEMORY = Limit(150_000_000, "bytes", "memory of these renderings", "10 MB")
TEMPLATE_CHARACTERS = Limit(1_000_000, "characters", "what they may give", "10,000")
GGUF_VALUES = Limit(1 << 21, "values", "all metadata of a GGUF file", "1,300,000 (Gemma 3)")
GGUF_TENSORS = Limit(100_000, "tensors", "a GGUF file", "2,000")
LAYERS = Limit(1_000, "layers", "a model", "126 (LLaMA-3.1 405B)")
SIZE = Limit(1 << 24, "", "every other size in config.json", "10,485,760 positions")
PROBLEMS = Limit(20, "lines", "problems shown of one checkpoint; the rest are counted", "")
DATA_BYTES = Limit(
    1 << 30, "bytes", "a data file, and what a parquet file unpacks to", "23 MB (Alpaca)"
)
DATA_CELLS = Limit(
    10_000_000, "cells", "rows times columns of a parquet file; lines", "208,008 (Alpaca)"
)
REPLY_BYTES = Limit(16_000_000, "bytes", "a reply of a server", "0.5 MB (a list of models)")

TABLE = {name: limit for name, limit in globals().items() if isinstance(limit, Limit)}
_CHUNK = 1 << 24  # bytes looked at together, so that temporaries stay small


def read_within(path: Path, limit: Limit) -> bytes:
    """The bytes of a file of at most `limit`; raises a ValueError that says so if it has more.

    A device or a pipe, which may never end, is an OSError.
    """
    size = check_file(path, limit)
    with path.open("rb") as file:
        content = file.read(size + 1)  # not limit.value: so much memory would be taken at once
    if len(content) > size:
        raise OSError(f"{path} grew while it was read")
    return content


def check_file(path: Path, limit: Limit) -> int:
    """The size of a file, by its file system; raises what `read_within` would."""
    size = check_regular(path)
    if size > limit.value:
        raise ValueError(f"it has {size:,} bytes; at most {limit.value:,} are read of {limit.of}")
    return size


def check_regular(path: Path) -> int:
    """The size of a file; raises an OSError for a device or a pipe, which may never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no regular file")
    return found.st_size


def parse_json(text: bytes | str, once: bool = False) -> Any:
    """`json.loads` of bytes in UTF-8, or of a text; raises a ValueError whatever is wrong.

    `once`: a key that stands twice in an object is wrong, too.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    check_depth(content)
    return json.loads(content.decode("utf-8"), object_pairs_hook=_once if once else None)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def check_depth(content: bytes) -> None:
    """Raises a ValueError where JSON is nested too deeply for the readers of JSON.

    Some of them end the process there.
    """
    if content.count(b"[") + content.count(b"{") <= JSON_DEPTH.value:
        return
    import numpy as np  # here: --help and typos answer before it is imported

    brackets = np.zeros(256, np.int8)
    brackets[[*b"[{"]], brackets[[*b"]}"]] = 1, -1
    plain = content.replace(rb"\\", b"").replace(rb"\"", b"")  # what is left of quotes bounds texts
    depth, within = 0, False
    for start in range(0, len(plain), _CHUNK):
        part = np.frombuffer(plain, np.uint8, min(_CHUNK, len(plain) - start), start)
        inside = np.logical_xor.accumulate(part == ord('"')) ^ within
        steps = brackets[part[~inside]]
        depths = depth + steps[steps != 0].cumsum(dtype=np.int64)
        if depths.size and int(depths.max()) > JSON_DEPTH.value:
            raise ValueError(f"it is nested more than {JSON_DEPTH.value} levels deep")
        depth, within = int(depths[-1]) if depths.size else depth, bool(inside[-1])


def table() -> str:
    """The table as docs/reliability.md has it, in Markdown."""
    lines = ["| bound | of | at most | largest known |", "|---|---|--:|--:|"]
    for name, limit in TABLE.items():
        lines.append(f"| `{name}` | {limit.of} | {limit.value:,} {limit.unit} | {limit.largest} |")
    return "\n".join(line.replace("  |", " |") for line in lines)
