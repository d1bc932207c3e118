"""One table places every array; the mesh does not change what a model computes."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from nt_jax import mesh
from nt_jax.data.batching import pad_left
from nt_jax.errors import ConfigError
from nt_jax.mesh import filled, make_mesh, row_ways, sharding
from nt_jax.models.transformer import leaf_axes, logits
from tests import plain

CONFIG = plain.MESH_CONFIG


@pytest.mark.parametrize(
    ("letters", "spec"),
    [
        ("LDF", P(None, None, "model")),
        ("LFD", P(None, "model", None)),
        ("LDNH", P(None, None, "model", None)),
        ("VD", P("model", None)),
        ("BTD", P("data", None, None)),
        ("RD", P("data", None)),
        ("LD", P(None, None)),
        ("", P()),
        ("NF", P("model", None)),  # one mesh axis serves one dimension only
        ("BR", P("data", None)),
    ],
)
def test_letters_say_where_an_array_lies(letters, spec):
    assert sharding(make_mesh(2, 2), letters).spec == spec


@pytest.mark.parametrize(
    ("letters", "spec"),
    [
        ("LDF", P(None, "fsdp", "model")),
        ("LNHD", P(None, "model", None, "fsdp")),
        ("D", P("fsdp")),
        ("LF", P(None, "model")),
        ("BTD", P(("data", "fsdp"), None, None)),  # rows have taken the axis
        ("SB", P(None, ("data", "fsdp"))),
    ],
)
def test_fsdp_shares_out_rows_and_weights(letters, spec):
    mesh = make_mesh(2, 2, 2)
    assert sharding(mesh, letters).spec == spec
    assert row_ways(mesh) == 4 and filled(5, mesh) == 8


def test_a_mesh_takes_the_first_devices():
    mesh = make_mesh(2, 3)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "model": 3}
    assert mesh.devices.ravel().tolist() == jax.devices()[:6]


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(ConfigError, match=r"mesh.data=4 x mesh.model=4 needs 16 .* shows 8 \(cpu"):
        make_mesh(4, 4)
    with pytest.raises(ConfigError, match=r"mesh.model=2 x mesh.fsdp=3 needs 12 "):
        make_mesh(2, 2, 3)


@pytest.mark.parametrize("mesh", [(2, 4), (1, 2, 4)])
def test_each_device_holds_its_share_of_every_leaf(mesh):
    lm = plain.random_model(CONFIG, mesh=mesh)
    _, model, fsdp = (*mesh, 1)[:3]
    split = {"F": model, "N": model, "K": model, "V": model, "D": fsdp}
    for path, leaf in plain.leaves_of(lm).items():
        sizes = zip(leaf.shape, leaf_axes(CONFIG)[path], strict=True)
        expected = tuple(size // split.get(letter, 1) for size, letter in sizes)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {expected}, path
    (scale_LF,) = jax.tree.leaves(lm.scale)
    assert {s.data.shape for s in scale_LF.addressable_shards} == {
        (CONFIG.layers, CONFIG.neurons // model)
    }
    assert lm.ones_LF.sharding.is_equivalent_to(scale_LF.sharding, 2)


def test_logits_are_the_same_on_every_mesh():
    rows = [[5, 9, 3], [7], [21, 4, 4, 8], [30, 1], [2], [3, 3], [8, 9], [1, 2, 3, 4, 5]]
    found = {}
    for shape in plain.MESHES:
        lm = plain.random_model(CONFIG, mesh=shape)
        batch = jax.device_put(pad_left(rows, 8), sharding(lm.mesh, "B"))
        found[shape] = np.asarray(jax.jit(logits)(lm, *batch))
    for shape in plain.MESHES[1:]:
        error = np.abs(found[shape] - found[1, 1]).max() / np.abs(found[1, 1]).max()
        assert error < 1e-5, shape


def test_one_memory_limit_serves_both_plans(monkeypatch):
    """What a device tells is taken; a CPU counts as half the machine, 8 GiB at most."""

    def room(stats: dict | None, machine: int = 0) -> tuple[int, int]:
        device = SimpleNamespace(memory_stats=lambda: stats)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])
        monkeypatch.setattr(mesh, "memory_bytes", lambda: machine)
        return mesh.memory_limit(), mesh.free_bytes()

    assert room({"bytes_limit": 100, "bytes_in_use": 30}) == (100, 70)
    assert room({"bytes_limit": 100}) == (100, 100)
    assert room(None, 4 << 30) == (2 << 30, 2 << 30)
    assert room(None, 64 << 30) == (8 << 30, 8 << 30)
