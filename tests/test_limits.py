"""Bounds: input beyond them is refused in one line, in a second and 200 MB; real files are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nt_jax import limits
from nt_jax.checkpoints.chat_template import render
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tensors import read_header
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.checkpoints.trial import _problem
from nt_jax.data.sources import load_harmless
from nt_jax.errors import DataError
from tests import tiny
from tests.faults.hostile import GOOD, HOSTILE

pytestmark = pytest.mark.xdist_group("limits")
ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "tests" / "checkpoints" / "templates"
SECONDS, MEMORY = 1.0, 200_000_000  # beyond what good input costs
MANY = {"2,000 wrong tensors": limits.PROBLEMS.value + 2}  # lines; all others get one


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> dict[str, dict]:
    """Every hostile input, each read in a process of its own."""
    words = [sys.executable, "-W", "ignore", "-m", "tests.faults.hostile"]
    done = subprocess.run(
        [*words, str(tmp_path_factory.mktemp("hostile"))],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", GOOD)
def test_good_input_is_read(tried, name):
    assert tried[f"good {name}"]["kind"] == "ok", tried[f"good {name}"]["value"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_gets_one_line_in_time(tried, name):
    found = tried[name]
    assert found["kind"] == "refused", found
    assert len(found["value"].splitlines()) == MANY.get(name, 1)
    assert len(found["value"]) < 800 * MANY.get(name, 1)
    assert found["seconds"] < SECONDS and found["memory"] < MEMORY, found


def test_a_csv_of_100_000_rows_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    rows = "".join(f'"What is {n}, and why?","It is {n}."\n' for n in range(100_000))
    path.write_text("request,answer\n" + rows)
    found = load_harmless(str(path))
    assert len(found) == 100_000 and found[-1].answer == "It is 99999."


def test_files_as_long_as_the_longest_real_ones_are_read(tmp_path):
    """An index of 9 MB (DeepSeek-V3 has 91,991 tensors), a header of 2 MB; sizes as they are."""
    names = [f"model.layers.{n // 1500}.mlp.experts.{n}.down_proj.weight" for n in range(100_000)]
    index = tmp_path / "model.safetensors.index.json"
    file = "model-00001-of-000163.safetensors"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}, indent=2))
    assert index.stat().st_size > 9_000_000
    found = limits.parse_json(limits.read_within(index, limits.JSON_BYTES))
    assert len(found["weight_map"]) == 100_000
    save_file({name: np.zeros((1, 1), np.float32) for name in names[:20_000]}, tmp_path / file)
    infos, problem = read_header(tmp_path / file)
    assert problem is None and len(infos) == 20_000
    assert infos[names[0]].start > 2_000_000


@pytest.mark.slow  # the gguf package reads each value by itself: half a minute
def test_a_gguf_file_with_as_many_values_as_gemma_3_is_read(tmp_path):
    """262,144 tokens with scores and types, 514,906 merges: 1.3 million, beside a tiny model."""
    words = [f"token {n}" for n in range(262_144)]
    arrays = {"words": words, "scores": [0.5] * len(words), "types": [1] * len(words)}
    arrays["merges"] = [f"{n} {n + 1}" for n in range(514_906)]
    many = {f"more.{name}": values for name, values in arrays.items()}
    assert 1_300_000 < sum(map(len, arrays.values())) < limits.GGUF_VALUES.value
    plain = open_checkpoint(str(tiny.write_gguf(tiny.checkpoint(), tmp_path / "plain.gguf")))
    path = tiny.write_gguf(tiny.checkpoint(), tmp_path / "many.gguf", metadata=many)
    found = open_checkpoint(str(path))
    assert found.config == plain.config and found.tensors.keys() == plain.tensors.keys()
    for name in plain.tensors:
        np.testing.assert_array_equal(found.read(name), plain.read(name))


def test_json_is_as_deep_as_it_says_and_no_deeper():
    most = limits.JSON_DEPTH.value
    assert limits.parse_json("[" * most + "]" * most) is not None
    in_texts = json.dumps(["[" * 500, '\\"[' * 500, {"{" * 500: 1}])
    assert limits.parse_json(in_texts) == json.loads(in_texts)
    for deep in ("[" * (most + 1), '{"a":' * (most + 1), '["\\\\"' + ",[" * most):
        with pytest.raises(ValueError, match="nested more than"):
            limits.parse_json(deep)


def test_depth_is_counted_across_pieces(monkeypatch):
    monkeypatch.setattr(limits, "_CHUNK", 7)
    text = json.dumps([{"a": "]]]]]]]]]]", "b": [[1], ["{{{{"]]}] * 60)
    limits.check_depth(text.encode())
    with pytest.raises(ValueError):
        limits.check_depth(("[" * 60 + text + "[" * 60).encode())


def test_a_key_that_stands_twice_is_told_where_it_matters():
    assert limits.parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="twice"):
        limits.parse_json('{"a": 1, "a": 2}', once=True)


@pytest.mark.parametrize(
    "source",
    ["{{ 1 + 'a' }}", "{{ 1 // 0 }}", "{{ messages[9]['content'] + 1 }}"],
)
def test_a_template_with_a_mistake_is_a_line_not_a_traceback(tmp_path, source):
    folder = tiny.copy("smollm2", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(source)
    tokenizer = load_tokenizer(open_checkpoint(str(folder)))
    with pytest.raises(DataError, match="chat template refuses this message"):
        render(tokenizer, [{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=str)
def test_real_templates_pass_their_trial(path):
    assert _problem(path.read_text("utf-8"), "{}") == ""


def test_the_documents_show_the_table():
    assert limits.table() in (ROOT / "docs" / "reliability.md").read_text("utf-8")
