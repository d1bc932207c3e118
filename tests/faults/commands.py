"""What commands are told: grids on the command line, lines of a chat, replies of a server."""

import json
import urllib.parse
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from nt_jax.config.help import setting_table
from tests import tiny
from tests.faults import damage, readers
from tests.faults.target import Draw, Target, written

AXES = sorted(key for key in setting_table() if key.startswith(("neurons.", "tune.")))
GOOD_AXES = ("neurons.safety=5,6", "neurons.utility=7, 8", "tune.epochs=1,2", "tune.meta_lr=1e-2,3")
MARKS = st.sampled_from([",", "[1,2]", '"a,b"', "'", "]", "{a: 1}", "null", "1e400", "1_0", "0x1f"])


def _grid(data: Draw, path: Path) -> None:
    words = [data.draw(st.sampled_from(GOOD_AXES)), f"seed={data.draw(st.integers(0, 9))}"]
    for _ in range(data.draw(st.integers(0, 2))):
        key = data.draw(st.sampled_from(AXES) | damage.TEXTS)
        plain = st.integers(-1, 40).map(str) | damage.NUMBERS.map(str) | MARKS
        values = data.draw(st.lists(plain | damage.TEXTS, min_size=1, max_size=3))
        words.append(f"{key}={','.join(values)}")
    path.write_text("\n".join(words), "utf-8", "replace")


def _cells(path: Path, found: list[tuple[dict, dict]]) -> None:
    """Axes and values are those that YAML reads between brackets."""
    words = [word.partition("=") for word in path.read_text("utf-8").split("\n")]
    count = 1
    for key, _, text in words:
        try:
            values = yaml.safe_load(f"[{text}]")
        except (yaml.YAMLError, ValueError):
            return  # one of theirs alone; which one it is, they say
        if len(values) < 2:
            continue
        count *= len(values)
        section, _, name = key.strip().partition(".")
        held = [settings[section][name] for _, settings in found]
        for value in values:
            assert any(_same(value, one) for one in held), (key, value, held)
        assert all(any(_same(value, one) for value in values) for one in held), (key, held)
    assert len(found) == count, (len(found), count)


def _same(written_: Any, held: Any) -> bool:
    if isinstance(written_, str) and isinstance(held, int | float):  # YAML 1.1 knows no 1e-2
        return float(written_) == held
    return written_ == held or str(written_) == str(held)


def _lines(data: Draw, path: Path) -> None:
    asked = st.sampled_from(
        ["How do I bake bread?", "/reset", "/system Be brief.", "/system", "/strength 0.5",
         "/strength -1", "/strength", "/quit", "/", "/nothing", "I can't.", "<|im_end|>", " "]
    )  # fmt: skip
    texts = data.draw(st.lists(asked | damage.TEXTS, min_size=1, max_size=6))
    content = "\n".join(texts).encode("utf-8", "surrogatepass")
    broken = data.draw(st.integers(0, 2)) == 0
    path.write_bytes(damage.bytes_of(data, content) if broken else content)


def _asked(path: Path, found: list[str]) -> None:
    """Every line that is no command was asked, as it stands there, until the end."""
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line.strip() for line in text.split("\n")]
    lines = lines[: lines.index("/quit")] if "/quit" in lines else lines
    wanted = [line for line in lines if line and not line.startswith("/")]
    assert found == wanted, (found, wanted)


FLAGS = ("--coordinator", "--processes", "--process")
GOOD_PLACE = ("--coordinator", "10.0.0.1:4321", "--processes", "4", "--process", "3")
HOSTS = st.sampled_from(["node-1", "127.0.0.1", "[::1]", "", "a b", "::1", "user@host", "ä", "-x"])
PORTS = st.sampled_from(["4321", "1", "65535", "0", "65536", "-1", "1_0", "٣", "", "9" * 400, " 1"])


def _place(data: Draw, path: Path) -> None:
    counts = st.integers(-1, 70_000).map(str) | PORTS | damage.TEXTS
    address = st.tuples(HOSTS, PORTS).map(":".join) | damage.TEXTS
    sound = (st.sampled_from(["node-1:4321", "127.0.0.1:1", "[::1]:65535"]),
             st.integers(3, 9).map(str), st.integers(0, 3).map(str))  # fmt: skip
    wrong = data.draw(st.integers(0, 5))  # one of the three, or none
    values = [(address, counts, counts)[n] if n == wrong else sound[n] for n in range(3)]
    words = [[flag, data.draw(each)] for flag, each in zip(FLAGS, values, strict=True)]
    kept = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=5))
    chosen = kept if data.draw(st.integers(0, 3)) == 0 else words
    text = "\n".join(word for pair in chosen for word in pair)
    path.write_text(text, "utf-8", "replace")


def _placed(path: Path, found: tuple[str, int, int] | None) -> None:
    """The address is one to Python's own reader of URLs; a process is below their number."""
    if found is None:
        return  # one process alone
    address, count, index = found
    parts = urllib.parse.urlsplit(f"//{address}")
    assert parts.hostname and parts.port and parts.username is None, address
    assert 0 <= index < count, found
    assert address in path.read_text("utf-8"), found


def _ray(data: Draw, path: Path) -> None:
    address = st.tuples(HOSTS, PORTS).map(":".join) | damage.TEXTS
    flag = data.draw(st.sampled_from(["--ray", "--ray", "--rays", "--ray="]))
    word = data.draw(address | st.sampled_from(["node-1:6379", "[::1]:1", "auto", "ray://a:1"]))
    words = [f"{flag}{word}"] if flag.endswith("=") else [flag, word]
    path.write_text("\n".join(words), "utf-8", "replace")


def _reached(path: Path, found: str | None) -> None:
    """The address is one to Python's own reader of URLs, and the one that was given."""
    if found is None:
        return  # the words hold no flag, as a text that begins with a line's end
    parts = urllib.parse.urlsplit(f"//{found}")
    assert parts.hostname and parts.port and parts.username is None, found
    assert found in path.read_text("utf-8"), found


REPLY = {
    "id": "x", "object": "text_completion",
    "choices": [{"index": 0, "text": "I can.", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}  # fmt: skip
STATUS = (*(200,) * 16, 400, 404, 429, 500, 503, 301, 100, 999)


def _reply(data: Draw, path: Path) -> None:
    changed = damage.json_of(data, REPLY) if data.draw(st.integers(0, 4)) else REPLY
    body = damage.dumps(changed).encode()
    if data.draw(st.integers(0, 9)) == 0:
        body = b"[" * 100_000
    length = len(body) + data.draw(st.sampled_from([*(0,) * 9, -1, 5, 10**12]))
    status = data.draw(st.sampled_from(STATUS))
    head = f"HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\n\r\n".encode()
    whole = head + body
    broken = data.draw(st.integers(0, 4)) == 0
    path.write_bytes(damage.bytes_of(data, whole, front=len(head)) if broken else whole)


def _said(path: Path, found: str) -> None:
    """The text is that of the JSON after the head, where that is whole."""
    _, _, body = path.read_bytes().partition(b"\r\n\r\n")
    try:
        value = json.loads(body)
    except ValueError:
        return  # damaged in its head, and cut where that says
    text = value["choices"][0]["text"]
    assert found == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


COMMANDS = {
    "place": Target(
        written("words.txt", "\n".join(GOOD_PLACE)), _place, readers.read_place, _placed
    ),
    "ray": Target(written("words.txt", "--ray\n10.0.0.1:6379"), _ray, readers.read_ray, _reached),
    "grid": Target(written("words.txt", "\n".join(GOOD_AXES)), _grid, readers.read_grid, _cells),
    "chat": Target(
        written("lines.txt", "Hello?\n/reset\nWhy?\n"), _lines,
        lambda path: readers.read_chat(path, tiny.checkpoint("smollm2")), _asked,
    ),
    "replies": Target(
        written("reply", "HTTP/1.1 200 OK\r\n\r\n" + json.dumps(REPLY)), _reply,
        readers.read_reply, _said,
    ),
}  # fmt: skip
