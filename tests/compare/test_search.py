"""The search: equal budgets, the best by one criterion, trials that a kill does not lose."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest

from nt_jax.compare import search as module
from nt_jax.compare.measure import take_over
from nt_jax.compare.method import TRIED, Method, UnusableMethodError, UnusableSettingError
from nt_jax.compare.search import balance, budget, read_chosen, search
from nt_jax.config.schema import CompareConfig, TuneConfig
from nt_jax.errors import DataError
from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.answering import answers_path
from nt_jax.eval.prompts import TestPrompt, Tests
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.train.validate import HARMLESS, Look
from tests.train.test_validate import verdict


def rates(attack: float, direct: float, harmless: float, su_f1: float = 0.5) -> dict[str, float]:
    return {
        "refusal_attack": attack, "refusal_direct": direct, "refusal_harmless": harmless,
        "su_f1": su_f1, "perplexity": 9.0,
    }  # fmt: skip


def look(attack: float, direct: float, harmless: int, su_f1: float = 0.5) -> Look:
    """So many refused, of a hundred harmless requests."""
    found = rates(attack, direct, harmless / 100, su_f1)
    return Look(found, {HARMLESS: verdict(100, harmless)})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (rates(1, 1, 0), 1),
        (rates(0, 0, 0), 0),
        (rates(1, 1, 1), 0),
        (rates(0.5, 1, 0.25), 0.75),
        (rates(0.4, 0.2, 0.5), 2 * 0.3 * 0.5 / 0.8),
    ],
)
def test_balance_is_a_harmonic_mean(found, expected):
    assert balance(found) == pytest.approx(expected)


@pytest.fixture
def data(monkeypatch):
    """Enough of a FittingData for a search whose models are numbers."""
    config = types.SimpleNamespace(
        compare=CompareConfig(search=3, criterion="balance"), tune=TuneConfig(max_over_refusal=0.2)
    )
    monkeypatch.setattr(module, "validate_model", lambda _, subject: LOOKS[subject.model])
    return types.SimpleNamespace(config=config, untuned=look(0, 0, 0))


LOOKS = {
    1: look(0.5, 0.5, 0),
    2: look(0.9, 0.7, 10, 0.4),
    3: look(0.7, 0.9, 10, 0.6),  # as good as 2
    4: look(1, 1, 0, 1),
}


def method(fits: list, **changes) -> Method:
    """A method whose settings are the numbers 1 to 4; each fit adds its setting to `fits`."""

    def fit(_, setting, folder: Path):
        fits.append(setting["x"])
        if setting["x"] in changes.get("broken", ()):
            raise UnusableSettingError("diverged")
        return {"x": np.asarray(setting["x"]), TRIED: np.asarray(changes.get("inside", 0))}

    return Method(
        "m", "M", fit, lambda _, setting, learned: ModelUnderTest("", int(setting["x"])),  # type: ignore
        [{"x": x} for x in (1, 2, 3, 4)], changes.get("fit_on", ("x",)),
    )  # fmt: skip


def run(data, tmp_path, **changes):
    tmp_path.mkdir(exist_ok=True)
    fits: list = []
    made = method(fits, **changes)
    return search(data, made, made.settings, tmp_path), fits


def test_the_best_within_the_budget_is_kept_su_f1_deciding_among_equals(data, tmp_path):
    chosen, fits = run(data, tmp_path)
    assert chosen.setting == {"x": 3} and chosen.tried == 3 and fits == [1, 2, 3]
    assert [trial["score"] for trial in chosen.trials] == pytest.approx(
        [2 / 3, 1.44 / 1.7, 1.44 / 1.7]
    )
    again, learned = read_chosen(tmp_path)
    assert again == chosen and learned["x"] == 3


def test_limits_count_the_lesser_rate_and_hold_back_what_is_past_them(data, tmp_path):
    data.config.compare = CompareConfig(search=3)
    chosen = run(data, tmp_path / "a")[0]
    assert chosen.setting == {"x": 3} and not chosen.past_bound
    assert [trial["score"] for trial in chosen.trials] == [0.5, 0.7, 0.7]
    data.config.tune = TuneConfig(max_over_refusal=0.05)  # 2 and 3 refuse 10 % more
    chosen = run(data, tmp_path / "b")[0]
    assert chosen.setting == {"x": 1} and chosen.trials[2]["score"] < 0


def test_a_method_without_a_setting_within_the_limits_is_known(data, tmp_path):
    over = method([], broken=(1,))  # 2 and 3 refuse 10 % of the harmless requests
    for bound, criterion, past in (
        (0.05, "limits", True), (0.2, "limits", False), (0.05, "balance", False),
    ):  # fmt: skip
        data.config.tune = TuneConfig(max_over_refusal=bound)
        data.config.compare = CompareConfig(search=3, criterion=criterion)
        folder = tmp_path / f"{bound}{criterion}"
        folder.mkdir()
        chosen = search(data, over, over.settings, folder)
        assert chosen.past_bound == past


def test_validations_inside_a_fit_use_up_the_budget(data, tmp_path):
    assert run(data, tmp_path / "a", inside=1)[0].tried == 3
    chosen, fits = run(data, tmp_path / "b", inside=7)
    assert chosen.tried == 8 and fits == [1]  # but one setting is always tried


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ({}, 6),  # five lifts and one more: too few to search anything
        (
            {"epochs": 45, "validate_every": 5},
            15,
        ),  # nine epochs, five lifts, one more
        ({"epochs": 11, "validate_every": 2, "strengths": (0.5, 0.7, 2), "lifts": ()}, 9),
        ({"epochs": 12, "validate_every": 2, "strengths": (), "lifts": ()}, 7),
        ({"epochs": 100, "validate_every": 5}, 15),  # more than the grids hold: the report says
    ],
)
def test_untold_every_method_tries_as_many_settings_as_tuning_does(tune, expected):
    config = types.SimpleNamespace(compare=CompareConfig(), tune=TuneConfig(**tune))
    assert budget(config) == expected
    config.compare = CompareConfig(search=3)
    assert budget(config) == 3


def test_settings_of_one_fit_share_it(data, tmp_path):
    chosen, fits = run(data, tmp_path, fit_on=())
    assert fits == [1] and len(chosen.trials) == 3


def test_a_fit_that_diverges_is_not_fitted_again_for_settings_that_share_it(data, tmp_path):
    fits: list = []
    made = dataclasses.replace(method(fits, broken=(1, 2, 3)), fit_on=())
    with pytest.raises(UnusableMethodError, match="diverged"):
        search(data, made, made.settings, tmp_path)
    assert fits == [1]


def test_a_setting_that_diverges_is_tried_and_never_chosen(data, tmp_path):
    chosen, _ = run(data, tmp_path / "a", broken=(3,))
    assert chosen.setting == {"x": 2} and chosen.tried == 3
    assert chosen.trials[2]["failed"] == "diverged"
    with pytest.raises(UnusableMethodError, match="diverged"):
        run(data, tmp_path / "b", broken=(1, 2, 3))


def test_a_setting_whose_prompts_do_not_fit_the_context_is_tried_and_never_chosen(
    data, tmp_path, monkeypatch
):
    looked = module.validate_model

    def too_long(found, subject):
        if subject.model in data.long:
            raise DataError("prompt 3 of 5 has 900 tokens")
        return looked(found, subject)

    monkeypatch.setattr(module, "validate_model", too_long)
    data.long = (3,)
    chosen, _ = run(data, tmp_path / "a")
    assert chosen.setting == {"x": 2} and chosen.tried == 3
    assert chosen.trials[2]["failed"] == "prompt 3 of 5 has 900 tokens"
    data.long = (1, 2, 3)
    with pytest.raises(UnusableMethodError, match="900 tokens"):
        run(data, tmp_path / "b")


def test_trials_before_a_kill_are_not_repeated(data, tmp_path, monkeypatch):
    append = RecordFile.append

    def die(self, rows):
        append(self, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecordFile, "append", die)
        run(data, tmp_path)
    chosen, fits = run(data, tmp_path)
    assert fits == [2, 3] and chosen.setting == {"x": 3} and chosen.tried == 3
    whole, _ = run(data, tmp_path / "whole")
    assert dataclasses.asdict(whole) == dataclasses.asdict(chosen)


def test_the_first_of_each_set():
    prompt = lambda name, n: TestPrompt(name, str(n), "r", "p", True)  # noqa: E731
    rows = [prompt("a", 1), prompt("b", 1), prompt("a", 2), prompt("a", 3), prompt("b", 2)]
    assert Tests(rows, []).first(2) == Tests([rows[0], rows[1], rows[2], rows[4]], [])
    assert Tests(rows, []).first(None) == Tests(rows, [])


def test_answers_are_taken_over_once_under_the_new_name(tmp_path):
    source, folder = tmp_path / "from", tmp_path / "to"
    source.mkdir(), folder.mkdir()
    row = {"dataset": "a", "id": "1", "model": "tuned", "answer": "x"}
    answers_path(source, "tuned").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for _ in range(2):
        take_over(source, "tuned", "neurontune", folder)
    (kept,) = answers_path(folder, "neurontune").read_text(encoding="utf-8").splitlines()
    assert json.loads(kept) == row | {"model": "neurontune"}
    assert [path.name for path in folder.iterdir()] == ["neurontune.jsonl"]
