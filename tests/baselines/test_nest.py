"""NeST: maxima as torch has them, the probe's own optimum, clusters, tied updates."""

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.baselines import nest
from nt_jax.baselines.adapters import merged
from nt_jax.baselines.clusters import clusters_of, distances, k_means, silhouette
from nt_jax.baselines.nest import GATE, UP, Nest, find_clusters, gather_maxima, probe
from nt_jax.errors import DataError
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import logits
from tests import torch_twin
from tests.baselines import made_up

TOKENS = np.array([[5, 9, 30, 11, 7, 60]], np.int32)


def test_maxima_are_those_of_what_enters_torchs_down_projections():
    prompts = made_up.rows(4, 7, 12)
    found_RLF = gather_maxima(made_up.model(), prompts, 3)
    twin = torch_twin.load("qwen2")
    for ids, found_LF in zip(prompts, found_RLF, strict=True):
        token_BT = np.array([ids])
        _, act_LBTF = torch_twin.logits_and_neurons(twin, token_BT, np.ones_like(token_BT))
        np.testing.assert_allclose(found_LF, act_LBTF[:, 0].max(axis=1), rtol=1e-4, atol=1e-5)


def test_the_probe_lies_where_the_gradient_of_its_loss_is_zero():
    generator = np.random.default_rng(0)
    x_RF, harmful_R = generator.normal(size=(40, 60)), np.arange(40) < 18
    x_RF[:18, 5] += 3
    w_F = probe(x_RF, harmful_R)
    assert w_F.argmax() == 5
    # At the optimum w = -X' (p - y) and the residuals sum to 0; the intercept from the second.
    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        p_R = 1 / (1 + np.exp(-(x_RF @ w_F + middle)))
        low, high = (middle, high) if (p_R - harmful_R).sum() < 0 else (low, middle)
    np.testing.assert_allclose(w_F, -x_RF.T @ (p_R - harmful_R), atol=1e-3)


def test_clusters_are_the_clouds_that_points_come_from():
    generator = np.random.default_rng(1)
    cloud_N = np.repeat([0, 1, 2], [5, 9, 7])
    point_NX = 10 * np.eye(3, 4)[cloud_N] + generator.normal(size=(21, 4))
    found_N = clusters_of(point_NX, 8, seed=0)
    assert len({*zip(cloud_N.tolist(), found_N.tolist(), strict=True)}) == 3
    np.testing.assert_array_equal(found_N, clusters_of(point_NX, 8, seed=0))
    assert found_N.max() == 2
    assert clusters_of(point_NX, 2, seed=0).max() == 1
    assert not clusters_of(point_NX[:2], 8, seed=0).any()
    assert len(set(k_means(np.zeros((6, 2)), 3, 0).tolist())) == 1  # all alike


def test_the_silhouette_is_what_rousseeuw_writes():
    point_NX = np.random.default_rng(2).normal(size=(9, 3))
    cluster_N = np.array([0, 0, 0, 1, 1, 1, 1, 2, 0])
    values = []
    for n, mine in enumerate(cluster_N):
        to = {
            k: [np.linalg.norm(point_NX[n] - point_NX[m]) for m in range(9)
                if cluster_N[m] == k and m != n] for k in range(3)
        }  # fmt: skip
        if not to[mine]:
            values.append(0.0)
            continue
        a, b = np.mean(to[mine]), min(np.mean(to[k]) for k in range(3) if k != mine)
        values.append((b - a) / max(a, b))
    found = silhouette(distances(point_NX, point_NX), cluster_N)
    assert found == pytest.approx(np.mean(values), rel=1e-9)


def test_a_neuron_that_fires_for_harm_is_found(monkeypatch):
    generator = np.random.default_rng(0)
    lm = made_up.model()
    maxima_RLF = generator.normal(size=(30, 2, 48)).astype(np.float32)
    maxima_RLF[:15, 1, [3, 4, 40]] += 4
    monkeypatch.setattr(nest, "gather_maxima", lambda *_: maxima_RLF)
    found = find_clusters(lm, [[1]] * 15, [[1]] * 15)
    upper = [index for layer, index in zip(found.layer, found.index, strict=True) if layer == 1]
    assert {3, 4, 40} <= {*upper} and len(upper) <= 5
    assert sorted({*found.cluster}) == [*range(max(found.cluster) + 1)]
    for cluster in {*found.cluster}:  # no cluster spans layers
        mine = zip(found.layer, found.cluster, strict=True)
        assert len({layer for layer, one in mine if one == cluster}) == 1
    monkeypatch.setattr(nest, "gather_maxima", lambda *_: np.zeros_like(maxima_RLF))
    with pytest.raises(DataError, match="NeST finds no neuron"):
        find_clusters(lm, [[1]] * 15, [[1]] * 15)


def test_neurons_of_a_cluster_share_one_vector_and_others_stay():
    lm, adapter = made_up.model(), Nest((0, 0, 1), (3, 7, 7), (0, 0, 1))
    fresh = adapter.fresh(lm.config, jnp.float32, 0)
    for name in leaf_names(lm):
        np.testing.assert_array_equal(
            get_leaf(merged(lm, adapter, fresh), name), get_leaf(lm, name)
        )
    generator = np.random.default_rng(0)
    params = {
        n: jnp.asarray(generator.normal(size=x.shape).astype(np.float32)) for n, x in fresh.items()
    }
    new = merged(lm, adapter, params, 0.5)
    for name in (GATE, UP):
        change_LDF = np.array(get_leaf(new, name) - get_leaf(lm, name))
        vector_CD = 0.5 * np.asarray(params[name])
        for layer, index, cluster in zip(
            adapter.layer, adapter.index, adapter.cluster, strict=True
        ):
            np.testing.assert_allclose(change_LDF[layer, :, index], vector_CD[cluster], atol=1e-6)
            change_LDF[layer, :, index] = 0
        assert not change_LDF.any()


def test_the_update_acts_as_torch_computes_it():
    torch = pytest.importorskip("torch")
    lm, twin, adapter = made_up.model(), torch_twin.load("qwen2"), Nest((1, 1), (3, 40), (0, 0))
    fresh = adapter.fresh(lm.config, jnp.float32, 0)
    generator = np.random.default_rng(0)
    params = {n: generator.normal(size=x.shape).astype(np.float32) for n, x in fresh.items()}
    mlp, handles = twin.model.layers[1].mlp, []
    for name, module in ((GATE, mlp.gate_proj), (UP, mlp.up_proj)):
        row = torch.tensor(params[name][0])

        def hook(_, args, out, row=row):
            more = torch.zeros_like(out)
            more[..., [3, 40]] = (args[0] @ row)[..., None]
            return out + more

        handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        expected = torch_twin.logits(twin, TOKENS, np.ones_like(TOKENS)).numpy()
    for handle in handles:
        handle.remove()
    new = merged(lm, adapter, {n: jnp.asarray(x) for n, x in params.items()})
    np.testing.assert_allclose(logits(new, TOKENS, TOKENS > 0), expected, rtol=1e-4, atol=1e-4)
