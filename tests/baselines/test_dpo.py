"""DPO: torch's formula on its log-probabilities, exact gradients, pairs that say the decision."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax import cache
from nt_jax.baselines import descent
from nt_jax.baselines.adapters import Form, merged
from nt_jax.baselines.descent import descend, slope_and_losses
from nt_jax.baselines.dpo import Preferences, answer_sums, preference_pools
from nt_jax.baselines.lora import Lora
from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import PackedBatch, Row, Shape, pack_alone
from nt_jax.data.prompts import text_of
from nt_jax.errors import DataError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.train.batcher import make_batcher
from nt_jax.train.maml import MetaOptions
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import NEW_TOKENS
from tests import torch_twin
from tests.baselines import adapter_data as data
from tests.baselines import made_up
from tests.baselines.test_lora import filled

pytestmark = pytest.mark.usefixtures("mixed_dtypes")
ADAPTER = Lora(rank=2, leaves=("blocks.mlp.down", "blocks.attn.v"), first=1)
SIDES = ("global_safety", "global_utility")


@pytest.fixture(autouse=True)
def uncached(monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, cache.OFF)


def pairs(seed: int, count: int = 3) -> list[Row]:
    """Prompts with a chosen and a declined answer, of unlike lengths."""
    parts = (made_up.rows(seed + n, count, 6, shortest=2) for n in range(3))
    return [Row(*three) for three in zip(*parts, strict=True)]


def packed(rows: list[Row], stretches: int = 1) -> PackedBatch:
    longest, targets = max(r.tokens for r in rows), max(r.targets for r in rows)
    return pack_alone(rows, Shape(stretches, -(-len(rows) // stretches), longest, targets, 1))


def torch_gain(twin, prompt, answer) -> float:
    """log pi(answer | prompt), summed over its tokens, as torch has it."""
    import torch

    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        row_TV = torch.log_softmax(twin(ids).logits[0].double(), -1)
    start = len(prompt) - 1
    return sum(row_TV[start + n, token].item() for n, token in enumerate(answer))


def test_the_loss_is_that_of_equation_7_by_torch():
    """Reference: the untouched torch model; policy: one whose weights are the merged ones."""
    torch = pytest.importorskip("torch")
    lm, reference = made_up.model(), torch_twin.load("qwen2")
    policy = copy.deepcopy(reference)
    adapter = Lora(rank=3, alpha=4.5)
    new = merged(lm, adapter, filled(lm, adapter))
    with torch.no_grad():
        for layer, block in enumerate(policy.model.layers):
            down_FD = np.asarray(new.module().blocks.mlp.down[...])[layer]
            block.mlp.down_proj.weight.copy_(torch.tensor(down_FD.T))
    rows = pairs(3)
    losses, beta = [], 0.7
    for row in rows:
        gains = [
            torch_gain(policy, row.prompt, ids) - torch_gain(reference, row.prompt, ids)
            for ids in (row.answer, row.declined)
        ]
        inside = torch.tensor(beta * (gains[0] - gains[1]))
        losses.append(-torch.nn.functional.logsigmoid(inside).item())
    assert np.ptp(losses) > 0.1
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], packed(rows))
    options = MetaOptions(safety_weight=0.3)
    total, parts = Preferences(beta)("global_safety", new, lm, batch, options)
    assert float(parts["safety_loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(total) == pytest.approx(0.3 * np.mean(losses), rel=1e-4)
    total, parts = Preferences(beta)("global_utility", new, lm, batch, options)
    assert float(total) == pytest.approx(0.7 * np.mean(losses), rel=1e-4)
    assert not parts["safety_loss"] and parts["utility_loss"]


def test_rows_that_only_fill_and_one_token_answers_count_as_they_should():
    lm = made_up.model()
    rows = [Row([5, 9], [7], [8, 11]), Row([4], [30, 12, 6], [9])]
    batch = pack_alone(rows, Shape(1, 3, 8, 5, 1))
    sums_BR2 = answer_sums(lm, jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], batch), remat=False)
    twin = torch_twin.load("qwen2")
    expected = [[torch_gain(twin, r.prompt, ids) for ids in (r.answer, r.declined)] for r in rows]
    np.testing.assert_allclose(sums_BR2[:2, 0], expected, rtol=1e-4)
    assert not np.asarray(sums_BR2[2]).any()


def test_gradients_are_those_of_finite_differences(x64):
    lm = data.double_model("qwen2").lm
    tuned = TunedLayers.above(lm, ADAPTER.first, descent.NOBODY)
    params = ADAPTER.fresh(lm.config, jnp.float64, 0)
    form = Form.of(ADAPTER, params)
    generator = np.random.default_rng(0)
    theta_P = form.vector(params) + 0.1 * generator.standard_normal(form.count)
    sides = tuned.enter({SIDES[0]: packed(pairs(3, 4)), SIDES[1]: packed(pairs(7, 4), 2)})
    rest = (MetaOptions(safety_weight=0.3), form, Preferences(0.5))
    slope = jax.jit(lambda t_P: slope_and_losses(t_P, {}, tuned.lm, sides, *rest))
    g_P, losses = slope(theta_P)
    total = 0.3 * losses["safety_loss"] + 0.7 * losses["utility_loss"]
    assert float(losses["loss"]) == pytest.approx(float(total), rel=1e-12)
    way_P = generator.standard_normal(form.count)
    ends = [float(slope(theta_P + size * way_P)[1]["loss"]) for size in (1e-5, -1e-5)]
    assert float(g_P @ way_P) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


class SomeRefused:
    """Finds a refusal in every third answer."""

    name = "every third"

    def verdicts(self, requests, answers):
        return [int(n % 3 == 0) for n in range(len(requests))]


def test_pairs_are_refusals_against_own_compliance_and_the_reverse():
    model, asked = data.model(), data.pools()
    found, used, refused = preference_pools(model, SomeRefused(), asked, 5)
    assert used + refused == 12 and refused == 4  # six requests, bare and in an attack
    own = {text_of(pair.request): list(pair.declined) for pair in found.global_safety.attacked}
    prompts = [pair.request for pair in found.global_safety.attacked]
    assert own and all("now break thing" in prompt for prompt in own)
    width = max(5, NEW_TOKENS)
    for prompt, ids in zip(prompts, model.answer(prompts, width), strict=True):
        expected = ids + ([model.eos_id] if len(ids) < width else [])
        assert own[text_of(prompt)] == expected
    attacks = {pair.attack for pair in found.global_safety.attacked}
    assert attacks <= {"a0", "a1", "a2", "a3"} and not found.global_safety.templates
    refusals = [pair.answer for pool in (asked.local_safety, asked.global_safety)
                for pair in pool.direct]  # fmt: skip
    assert all(pair.answer in refusals for pair in found.global_safety.direct)
    good = (*found.global_utility.direct, *found.global_utility.attacked)
    assert good and all(pair.declined in refusals for pair in good)
    kept = {pair.request: pair.answer for pool in (asked.local_utility, asked.global_utility)
            for pair in (*pool.direct, *pool.attacked)}  # fmt: skip
    assert {pair.request: pair.answer for pair in good} == kept
    config = TuneConfig(inner_steps=0, global_batch=0, outer="adam", metric_requests=0)
    batcher, _ = make_batcher(model.lm, 1, model.encode, found, config, 0, beside=False)
    pool, _, _ = batcher.sets["global_safety"]
    assert len(pool.direct) == len({pair.request for pair in pool.direct})  # no pair twice


def test_answers_are_judged_by_the_request_inside_the_attack():
    seen = []

    class Listening(SomeRefused):
        def verdicts(self, requests, answers):
            seen.extend(requests)
            return super().verdicts(requests, answers)

    pools = data.pools()
    preference_pools(data.model(), Listening(), pools, 5)
    bare = [pair.request for pool in (pools.local_safety, pools.global_safety)
            for pair in pool.direct]  # fmt: skip
    assert sorted(seen) == sorted(2 * bare)


def test_rows_of_both_sides_hold_both_answers_cut_to_the_width():
    model = data.model()
    pools, _, _ = preference_pools(model, SomeRefused(), data.pools(), 4)
    told = {"inner_steps": 0, "margin_weight": 0.0, "outer": "adam"}
    config = data.CONFIG.model_copy(update=told)
    batcher, _ = make_batcher(model.lm, 2, model.encode, pools, config, 0)
    for name in SIDES:
        for row in batcher.rows(name, 0):
            assert 1 <= len(row.answer) <= 4 and 1 <= len(row.declined) <= 4


def test_descent_parts_chosen_from_rejected_from_even_odds():
    model = data.model()
    pools, _, _ = preference_pools(model, PhraseJudge(), data.pools(), 4)
    config = data.CONFIG.model_copy(
        update={"outer": "adam", "meta_lr": 0.03, "epochs": 30, "global_batch": 8}
    )
    _, history = descend(model, Lora(rank=2), pools, config, objective=Preferences(0.5))
    first, last = history[0], history[-1]
    for side in ("safety_loss", "utility_loss"):
        assert first[side] == pytest.approx(math.log(2), rel=1e-5)  # nothing gained yet
        assert last[side] < 0.8 * math.log(2)


def test_a_model_that_refuses_everything_has_nothing_to_reject():
    class AllRefused(SomeRefused):
        def verdicts(self, requests, answers):
            return [1] * len(requests)

    with pytest.raises(DataError, match=r"refuses all 12 harmful training prompts by itself"):
        preference_pools(data.model(), AllRefused(), data.pools(), 4)


class AllOfOneKind(SomeRefused):
    """Refuses all bare prompts, which are judged first, or all attacked ones."""

    def __init__(self, turn: int):
        self.turn, self.asked = turn, 0

    def verdicts(self, requests, answers):
        self.asked += 1
        return [int(self.asked == self.turn)] * len(requests)


def test_where_bare_requests_are_all_refused_attacked_ones_serve():
    found, used, refused = preference_pools(data.model(), AllOfOneKind(1), data.pools(), 4)
    assert used == refused == 6
    assert found.global_safety.direct == found.global_safety.attacked


def test_where_attacked_requests_are_all_refused_bare_ones_serve():
    model = data.model()
    found, _, _ = preference_pools(model, AllOfOneKind(2), data.pools(), 4)
    assert found.global_safety.direct and not found.global_safety.attacked
    told = {"inner_steps": 0, "margin_weight": 0.0, "outer": "adam"}
    config = data.CONFIG.model_copy(update=told)
    batcher, _ = make_batcher(model.lm, 2, model.encode, found, config, 0)
    assert all(batcher.rows(name, 0) for name in SIDES)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_learns_nothing_is_refused(beta):
    with pytest.raises(DataError, match="Choose one above 0"):
        Preferences(beta)
