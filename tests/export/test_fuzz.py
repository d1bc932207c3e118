"""Files that others made, damaged at random: they are read, or refused in plain lines."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nt_jax.checkpoints.adapter import merged_adapter, open_adapter
from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.checkpoints.factors import FILE, load_factors
from nt_jax.errors import NtError
from nt_jax.export import factors, ia3, lora
from nt_jax.export.folder import Wanted
from nt_jax.generate.chat import open_model
from nt_jax.mesh import make_mesh
from tests import tiny
from tests.export.test_adapters import factors_of

WRITERS = {"ia3": ia3, "lora": lora, "factors": factors}
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root, model = tmp_path_factory.mktemp("made"), open_model(str(tiny.checkpoint()))
    for name, module in WRITERS.items():
        module.write(model, factors_of(), root / name, Wanted())
    return root


@pytest.fixture(scope="module")
def lm():
    return load_weights(str(tiny.checkpoint()), "float32", make_mesh())


def read(folder: Path, lm) -> None:
    """Whatever reads such a folder; an error must be one that a user can act on."""
    checkpoint = open_checkpoint(str(tiny.checkpoint()))
    try:
        if (folder / CONFIG).is_file():
            adapter = open_adapter(folder, checkpoint.config)
            merged_adapter(lm, adapter)
        found = load_factors(folder, checkpoint)
        found.scale_LF(tiny.LAYERS, tiny.NEURONS)
    except NtError as error:
        assert str(error).strip() and "Traceback" not in str(error)


def copy_of(made: Path, kind: str, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for file in (made / kind).iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


@quick
@given(data=st.data(), kind=st.sampled_from(sorted(WRITERS)))
def test_bytes_that_were_changed_or_lost(made, lm, tmp_path, data, kind):
    folder = copy_of(made, kind, tmp_path / kind)
    file = folder / (FILE if kind == "factors" else data.draw(st.sampled_from([WEIGHTS, CONFIG])))
    content = bytearray(file.read_bytes())
    # the table at the beginning is where a change has meaning
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, min(len(content), 900) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    file.write_bytes(bytes(content if cut is None else content[:cut]))
    read(folder, lm)


@quick
@given(data=st.data(), kind=st.sampled_from(["ia3", "lora"]), value=JSON)
def test_fields_of_any_kind(made, lm, tmp_path, data, kind, value):
    folder = copy_of(made, kind, tmp_path / kind)
    fields = json.loads((folder / CONFIG).read_text())
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    (folder / CONFIG).write_text(json.dumps(fields))
    read(folder, lm)


@quick
@given(value=JSON)
def test_a_config_that_is_anything(made, lm, tmp_path, value):
    folder = copy_of(made, "lora", tmp_path / "lora")
    (folder / CONFIG).write_text(json.dumps(value))
    read(folder, lm)
