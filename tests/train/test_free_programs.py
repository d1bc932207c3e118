"""Compiled programs are let go before their memory maps reach what Linux grants a process."""

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.train import memory
from nt_jax.train.slopes import LIKELIHOOD, measured_values
from nt_jax.train.tuned_layers import TunedLayers
from tests.train.test_maml import NEURONS, model, some_rows

linux = pytest.mark.skipif(not memory.MAPS.exists(), reason="Linux alone tells of memory maps")


def _maps() -> int:
    return memory.MAPS.read_bytes().count(b"\n")


def _grant(monkeypatch, folder: Path, maps: int):
    (folder / "limit").write_text(f"{maps}\n")
    monkeypatch.setattr(memory, "MAP_LIMIT", folder / "limit")


@linux
def test_maps_fall_where_half_of_the_limit_is_reached(monkeypatch, tmp_path):
    program = jax.jit(jax.grad(lambda x: jnp.tanh(x @ x.T).sum() * jnp.sin(x).mean()))
    for width in range(2, 32):
        program(jnp.ones((width, 3)))
    before = _maps()
    _grant(monkeypatch, tmp_path, 4 * before)
    assert not memory.free_programs()
    assert program._cache_size() == 30
    _grant(monkeypatch, tmp_path, before)
    assert memory.free_programs()
    gc.collect()
    assert _maps() < before


@linux
def test_rows_are_measured_the_same_after_programs_were_let_go(monkeypatch, tmp_path):
    lm, rows = model(), some_rows(np.random.default_rng(5), 11, longest=9)
    tuned = TunedLayers.of(lm, NEURONS)
    before_M = measured_values(tuned, tuned.ones_P, rows, LIKELIHOOD)
    program = jax.jit(jnp.sin)
    program(1.0)
    _grant(monkeypatch, tmp_path, 2)
    after_M = measured_values(tuned, tuned.ones_P, rows, LIKELIHOOD)
    assert program._cache_size() == 0
    np.testing.assert_array_equal(after_M, before_M)


def test_elsewhere_nothing_is_let_go(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MAP_LIMIT", tmp_path / "absent")
    assert not memory.free_programs()
