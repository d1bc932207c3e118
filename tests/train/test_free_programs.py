"""Compiled programs are let go before their memory maps reach what Linux grants a process."""

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from nt_jax.train.memory import MAPS, free_programs


def _limit(tmp_path: Path, maps: int) -> Path:
    (tmp_path / "limit").write_text(f"{maps}\n")
    return tmp_path / "limit"


def _maps() -> int:
    return MAPS.read_bytes().count(b"\n")


@pytest.mark.skipif(not MAPS.exists(), reason="memory maps are told by Linux alone")
def test_maps_fall_where_half_of_the_limit_is_reached(tmp_path):
    program = jax.jit(jax.grad(lambda x: jnp.tanh(x @ x.T).sum() * jnp.sin(x).mean()))
    for width in range(2, 32):
        program(jnp.ones((width, 3)))
    before = _maps()
    assert not free_programs(_limit(tmp_path, 4 * before))
    assert program._cache_size() == 30
    assert free_programs(_limit(tmp_path, before))
    gc.collect()
    assert _maps() < before


def test_elsewhere_nothing_is_let_go(tmp_path):
    assert not free_programs(tmp_path / "absent", MAPS)
