"""What is fuzzed: a good file or folder, how it is damaged, what reads it, and who else can say.

`oracle(path, found)` raises an AssertionError where an input was taken for something else than it
says, as an independent reader has it: a silent difference.
"""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from nt_jax.config.help import setting_table
from tests import tiny
from tests.faults import damage, oracles, readers
from tests.faults.adapters import ADAPTERS
from tests.faults.commands import COMMANDS
from tests.faults.measuring import MEASURING
from tests.faults.target import Draw, Target, model_folder, written


def _gguf(folder: Path) -> Path:
    return tiny.write_gguf(tiny.checkpoint(), folder / "m.gguf")


def _safetensors(data: Draw, path: Path) -> None:
    file = path / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if data.draw(st.integers(0, 2)) == 0:
        file.write_bytes(damage.bytes_of(data, content, front=length + 8))
        return
    table = damage.json_of(data, json.loads(content[8 : 8 + length]))
    head = damage.dumps(table).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + length :])


def _gguf_bytes(data: Draw, path: Path) -> None:
    path.write_bytes(damage.bytes_of(data, path.read_bytes(), front=3000))


def _of(name: str) -> Callable[[Draw, Path], None]:
    return lambda data, path: damage.json_file(data, path / name)


def _config(data: Draw, path: Path) -> None:
    file = path / data.draw(st.sampled_from(["config.json"] * 3 + ["generation_config.json"]))
    if data.draw(st.integers(0, 5)) == 0:
        tiny.edit_json(file, auto_map={"AutoConfig": "evil.E"}, **{"model_type": "evil"})
    else:
        damage.json_file(data, file)


def _tokenizer(data: Draw, path: Path) -> None:
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    if name == "tokenizer_config.json" and data.draw(st.integers(0, 3)) == 0:
        tiny.edit_json(path / name, auto_map={"AutoTokenizer": ["evil.E", "evil.E"]})
    else:
        damage.json_file(data, path / name)


PIECES = (
    "{{ messages }}", "{% for m in messages %}", "{% endfor %}", "{{ m['content'] }}", "{{ 1/0 }}",
    "{{ m.role.__class__ }}", "{% if add_generation_prompt %}", "{% endif %}", "{{ bos_token }}",
    "{{ raise_exception('no') }}", "{{ messages[0]['content'] * 3 }}", "<|im_end|>",
    "{% set x = 1 %}", "{{ range(10**9) | list }}", "{{ 'x' * 10**10 }}", "{{ messages | tojson }}",
    "{%", "}}", "{#",
)  # fmt: skip


def _template(data: Draw, path: Path) -> None:
    parts = st.lists(st.sampled_from(PIECES) | damage.TEXTS, min_size=1, max_size=6)
    text = "".join(data.draw(parts))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(tiny.CHAT_TEMPLATE)))
        text = tiny.CHAT_TEMPLATE[:place] + text + tiny.CHAT_TEMPLATE[place:]
    (path / "chat_template.jinja").write_text(text, "utf-8", "surrogatepass")


RECIPE = """\
name: mine
model: {source: x, dtype: float32}
neurons: {safety: 5, utility: 6}
tune:
  epochs: 3
  safety_weight: 0.5
data: {harmful: {source: demo, limit: 3}}
eval: {datasets: [demo_direct], judges: [phrases]}
"""


PLAIN = st.sampled_from([1, 2, 7, 100, 0.5, True, False, None, "auto", "demo", "float32", []])
TAGS = ("", "", "", "", "!!bool ", "!!int ", "!!python/name:os.system ", "&a ", "*a ")


def _recipe(data: Draw, path: Path) -> None:
    if data.draw(st.integers(0, 2)) == 0:
        path.write_bytes(damage.bytes_of(data, path.read_bytes()))
        return
    lines = ["model: {source: x}"] * data.draw(st.integers(0, 1))
    keys = st.sampled_from(sorted(setting_table())) | damage.TEXTS
    for _ in range(data.draw(st.integers(1, 3))):
        key, value = data.draw(keys), damage.dumps(data.draw(PLAIN | damage.VALUES))
        tag = data.draw(st.sampled_from(TAGS))
        nested = value
        for part in reversed(key.split(".")[1:]):
            nested = "{" + json.dumps(part) + ": " + tag + nested + "}"
        lines.append(f"{json.dumps(key.split('.')[0])}: {nested}")
    path.write_text("\n".join(lines), "utf-8", "surrogatepass")


def _override(data: Draw, path: Path) -> None:
    key = data.draw(st.sampled_from(sorted(setting_table())) | damage.TEXTS)
    value = data.draw((PLAIN | damage.VALUES).map(damage.dumps) | damage.TEXTS)
    path.write_text(f"{key}={value}", "utf-8", "replace")


ROWS = [{"request": f"What is {n}?", "answer": f"It is {n}.", "split": "train"} for n in range(6)]


def _rows(data: Draw) -> list[Any]:
    if data.draw(st.booleans()):  # texts of any kind, which are mostly taken
        count = data.draw(st.integers(1, 6))
        texts = st.lists(damage.TEXTS, min_size=count, max_size=count)
        return [{"request": text, "answer": "Yes."} for text in data.draw(texts)]
    rows = damage.json_of(data, ROWS)
    return rows if isinstance(rows, list) else [rows]


def _jsonl(data: Draw, path: Path) -> None:
    text = "".join(damage.dumps(row) + "\n" for row in _rows(data)).encode()
    broken = data.draw(st.integers(0, 2)) == 0
    path.write_bytes(damage.bytes_of(data, text) if broken else text)


def _json(data: Draw, path: Path) -> None:
    text = damage.dumps(_rows(data)).encode()
    broken = data.draw(st.integers(0, 2)) == 0
    path.write_bytes(damage.bytes_of(data, text) if broken else text)


def _csv(data: Draw, path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["request", "answer"])
    for row in ROWS:
        writer.writerow([data.draw(damage.TEXTS) if data.draw(st.integers(0, 4)) == 0 else cell
                         for cell in (row["request"], row["answer"])])  # fmt: skip
    text = out.getvalue().encode("utf-8", "replace")
    broken = data.draw(st.integers(0, 1)) == 0
    path.write_bytes(damage.bytes_of(data, text) if broken else text)


def _parquet(data: Draw, path: Path) -> None:
    path.write_bytes(damage.bytes_of(data, path.read_bytes()))


def _write_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, write_page_checksum=True)
    return path


TARGETS = {
    "safetensors": Target(model_folder(), _safetensors, readers.read_model, oracles.tensors),
    "index": Target(
        model_folder(shards=True), _of("model.safetensors.index.json"), readers.read_model,
        oracles.tensors,
    ),
    "GGUF": Target(_gguf, _gguf_bytes, readers.read_model, oracles.gguf),
    "config.json": Target(model_folder(), _config, readers.read_model, oracles.config),
    "tokenizer": Target(model_folder(), _tokenizer, readers.read_tokenizer, oracles.chat),
    "template": Target(model_folder(), _template, readers.read_tokenizer, oracles.chat),
    "recipe": Target(written("r.yaml", RECIPE), _recipe, readers.read_recipe, oracles.recipe),
    "override": Target(written("o.txt", "seed=1"), _override, readers.read_override),
    "JSONL": Target(
        written("rows.jsonl", ""), _jsonl, readers.read_requests, oracles.rows(oracles.jsonl)
    ),
    "JSON": Target(
        written("rows.json", ""), _json, readers.read_requests, oracles.rows(oracles.whole_json)
    ),
    "CSV": Target(
        written("rows.csv", ""), _csv, readers.read_requests, oracles.rows(oracles.comma_separated)
    ),
    "parquet": Target(
        _write_parquet, _parquet, readers.read_requests, oracles.rows(oracles.parquet)
    ),
    **ADAPTERS,
    **COMMANDS,
    **MEASURING,
}  # fmt: skip


def fresh(good: Path, folder: Path) -> Path:
    """A copy of good input to be damaged."""
    if good.is_dir():
        return Path(shutil.copytree(good, folder / good.name))
    return Path(shutil.copy(good, folder / good.name))
