"""A whole comparison: every method, its tables beside its numbers; killed and carried on."""

import csv
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nt_jax.attribution.store import load_neurons
from nt_jax.compare.fitting_data import FittingData
from nt_jax.config.registry import METHODS
from nt_jax.data.sources import load_harmful, load_harmless
from nt_jax.errors import DataError, RunError
from nt_jax.generate import chat
from tests.compare import small

# One worker makes the finished run, once; all methods on it take longer than a minute.
pytestmark = [pytest.mark.xdist_group("run"), pytest.mark.slow]
ROOT = Path(__file__).parents[2]
LEFT_OUT = "lora_metric"  # the small run measures no slopes
FITTED = [name for name in METHODS if name != LEFT_OUT]
SETS = ("demo_attack", "demo_direct", "demo_harmless", "demo_harmless_attack")


def lines_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:  # not splitlines: answers may hold U+2028
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory) -> tuple[Path, dict, str]:
    """(the run, the JSON object, the screen) of a comparison of all methods."""
    folder = tmp_path_factory.mktemp("compare") / "run"
    shutil.copytree(finished.folder, folder)
    facts, screen = small.carry_on(small.settings(finished.recipe, folder), tuple(METHODS))
    return folder, facts, screen


@pytest.fixture(scope="module")
def numbers(compared) -> dict[tuple[str, str, str], dict]:
    rows = json.loads((compared[0] / "compare" / "report" / "results.json").read_text())
    return {(row["dataset"], row["metric"], row["model"]): row for row in rows}


def test_what_was_written_before_a_kill_is_kept(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    command = [sys.executable, "-m", "tests.compare.small", str(finished.recipe), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    inside = folder / "compare"
    assert (inside / "fit-dinm" / "DONE").is_file() and not (inside / "answers-dinm").exists()
    written = {
        str(path): path.read_text(encoding="utf-8")
        for path in (inside / ".answers-dinm.tmp" / "dinm.jsonl", inside / "fit-dinm/trials.jsonl")
    }
    assert all(written.values())
    _, screen = small.carry_on(small.settings(finished.recipe, folder), ("dinm", "scans"))
    assert re.search(r"^fit-dinm +kept from before$", screen, re.M)
    for path, before in written.items():
        now = Path(path.replace(".answers-dinm.tmp", "answers-dinm")).read_text(encoding="utf-8")
        assert now.startswith(before)
    assert len(lines_of(folder / "compare/answers-dinm/dinm.jsonl")) == len(SETS) * small.LIMIT


def test_preferences_join_the_table_by_name(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    facts, screen = small.carry_on(small.settings(finished.recipe, folder), ("dpo",))
    trials = facts["search"]["dpo"]["trials"]
    assert [row["setting"]["learning_rate"] for row in trials] == [1e-3, 3e-4]
    assert {row["setting"]["beta"] for row in trials} == {0.1} and "failed" not in trials[0]
    assert {row["model"] for row in facts["results"]} == {"base", "dpo"}
    assert re.search(r"^dpo +\d+ harmful prompts; \d+ that the model refuses itself", screen, re.M)
    with (folder / "compare/report/table2.csv").open(newline="", encoding="utf-8") as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["Default", "DPO"]


def test_every_method_answers_the_same_prompts_as_the_untuned_model(compared):
    answers = lines_of(compared[0] / "compare" / "numbers" / "answers.jsonl")
    asked: dict[str, list] = {}
    for row in answers:
        asked.setdefault(row["model"], []).append((row["dataset"], row["id"], row["prompt"]))
    assert list(asked) == ["base", *FITTED]
    assert all(rows == asked["base"] for rows in asked.values())
    assert len(asked["base"]) == len(SETS) * small.LIMIT
    said = {name: [r["answer"] for r in answers if r["model"] == name] for name in asked}
    for name in FITTED:  # every one of them does something to the model ...
        # ... but CAVGAN flags nothing where random states tell nothing apart
        if not name.startswith("cavgan"):
            assert said[name] != said["base"], name


def test_every_method_has_every_number(numbers):
    for model in ("base", *FITTED):
        for dataset in SETS:
            assert numbers[dataset, "refusal_rate", model]["n"] == small.LIMIT
            assert (dataset, "entropy", model) in numbers
        assert math.isfinite(numbers["demo_harmless", "perplexity", model]["value"])
        assert ("demo_attack+demo_harmless", "su_f1", model) in numbers
    weights_only = {"neurontune", "dinm", "descent", "lora", "ia3", "ia3_full", "nest", "random"}
    weights_only |= {"paper", "dpo"}  # DINM as published has its suffix
    kl = {model for dataset, metric, model in numbers if metric == "kl"}
    assert kl == weights_only  # an intervention acts on the prompt, so there is no KL to speak of


def test_table_2_shows_the_numbers_of_results_json(compared, numbers):
    with (compared[0] / "compare/report/table2.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {"Default": "base", **{line.label: name for name, line in METHODS.items()}}
    assert [names[row["row"]] for row in rows] == ["base", *FITTED]
    places = {
        "refuses unseen attacks": ("demo_attack", "refusal_rate", 100),
        "entropy, unseen attacks (bit)": ("demo_attack", "entropy", 1),
        "refuses harmless requests": ("demo_harmless", "refusal_rate", 100),
        "entropy, harmless requests (bit)": ("demo_harmless", "entropy", 1),
        "refuses direct harmful requests": ("demo_direct", "refusal_rate", 100),
        "refuses harmless, in attacks": ("demo_harmless_attack", "refusal_rate", 100),
        "perplexity, harmless requests": ("demo_harmless", "perplexity", 1),
        "SU-F1": ("demo_attack+demo_harmless", "su_f1", 1),
    }
    assert {name for name in rows[0] if not re.search(" (low|high|n|paper)$", name)} == {
        "row", *places, "numbers learned", "seconds to learn",
    }  # fmt: skip
    learned = {names[row["row"]]: row["numbers learned"] for row in rows}
    assert learned["base"] == "" and learned["system_prompt"] == "0"
    assert {learned[name] for name in ("neurontune", "descent", "random", "paper")} == {"24"}
    assert learned["ia3"] == str(2 * 48) and learned["ia3_full"] == str(2 * (48 + 2 * 16))
    assert (
        learned["dpo"] == learned["lora"] == str(2 * 8 * (48 + 32))
        and int(learned["nest"]) % 64 == 0
    )
    for row in rows:
        for title, (dataset, metric, scale) in places.items():
            expected = numbers[dataset, metric, names[row["row"]]]
            assert float(row[title]) == pytest.approx(scale * expected["value"], rel=1e-9)
            assert float(row[f"{title} low"]) == pytest.approx(scale * expected["low"], rel=1e-9)
            assert int(row[f"{title} n"]) == expected["n"]
            assert row[f"{title} paper"] == ""  # a tiny model is none of the paper's


def test_the_runs_own_answers_serve_where_the_setting_is_the_runs(finished, compared):
    folder, facts, _ = compared
    assert facts["search"]["neurontune"]["setting"] == {"strength": 1.0}
    own = {(r["dataset"], r["id"]): r["answer"] for r in lines_of(folder / "tuned/tuned.jsonl")}
    ours = lines_of(folder / "compare/answers-neurontune/neurontune.jsonl")
    assert all(own[row["dataset"], row["id"]] == row["answer"] for row in ours)


def test_no_method_tries_more_settings_than_the_others(compared):
    search = compared[1]["search"]
    assert list(search) == FITTED
    assert "measures no slopes" in compared[1]["left_out"][METHODS[LEFT_OUT].label]
    for name, chosen in search.items():
        learned = np.load(compared[0] / "compare" / f"fit-{name}" / "learned.npz")
        inside = int(learned["tried"]) if "tried" in learned else 0
        own = {"neurontune": (4, 5), "descent": (4, 5), "random": (4, 5), "paper": (2, 2)}
        low, high = own.get(name, (0, 0))  # 2 epochs, and halving among 6 strengths
        assert low <= inside <= high, name
        most = small.SEARCH if METHODS[name].searched else 1
        assert chosen["tried"] == max(most, inside + 1), name
        assert len(chosen["trials"]) == max(1, most - inside)
        best = max(trial["score"] for trial in chosen["trials"])
        assert chosen["score"] == best
    folder = compared[0] / "compare/report"
    assert (folder / "trade_off.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "comparison.md").read_text()
    assert "Refused rightly and wrongly" in text
    assert f"Each method may try {small.SEARCH} settings" in text
    assert f"{', '.join(METHODS[name].label for name in own)} tried more than that" in text


def test_the_search_sees_no_test_request(compared):
    answers = lines_of(compared[0] / "compare" / "numbers" / "answers.jsonl")
    other = {
        r.request for load in (load_harmful, load_harmless) for r in load() if r.split != "test"
    }
    assert not other & {answer["request"] for answer in answers}


def test_a_second_comparison_keeps_everything(finished, compared, monkeypatch):
    monkeypatch.setattr(chat, "load_weights", lambda *_: pytest.fail("weights were read"))
    config = small.settings(finished.recipe, compared[0])
    facts, screen = small.carry_on(config, tuple(METHODS))
    assert facts == json.loads(json.dumps(compared[1]))
    stages = re.findall(r"^(\S+) +kept from before$", screen, re.M)
    assert set(stages) >= {f"{kind}-{name}" for name in FITTED for kind in ("fit", "answers")}


def test_another_table_or_label_makes_the_report_anew_and_nothing_else(
    finished, compared, tmp_path
):
    folder = shutil.copytree(compared[0], tmp_path / "run")
    config = small.settings(finished.recipe, folder)
    _, screen = small.carry_on(config, tuple(METHODS), ("2", "5"))
    kept = re.findall(r"^(\S+) +kept from before$", screen, re.M)
    assert "numbers" in kept and "report" not in kept[kept.index("numbers") :]
    report = folder / "compare/report"
    assert (report / "table5.csv").exists() and "## Table 5" in (
        report / "comparison.md"
    ).read_text()
    renamed = config.model_copy(update={"name": "renamed"})
    small.carry_on(renamed, tuple(METHODS), ("2",))
    assert "renamed" in (report / "comparison.md").read_text()
    assert not (report / "table5.csv").exists()


def test_a_method_that_cannot_be_fitted_is_left_out_with_its_reason(
    finished, tmp_path, monkeypatch
):
    def refuses_everything(self):
        raise DataError("DINM needs one unsafe answer")

    monkeypatch.setattr(FittingData, "unsafe_answer", property(refuses_everything))
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    config = small.settings(finished.recipe, folder)
    facts, screen = small.carry_on(config, ("dinm", "system_prompt"), ("1", "2"))
    assert list(facts["search"]) == ["system_prompt"]
    assert facts["left_out"]["DINM"] == "DINM needs one unsafe answer"
    assert "is left out" in facts["left_out"]["DINM, 5%"] and "left out of the tables" in screen
    text = (folder / "compare/report/comparison.md").read_text()
    assert "DINM is left out: DINM needs one unsafe answer." in text
    with pytest.raises(RunError, match=r"could be fitted\. DINM: DINM needs"):
        small.carry_on(config, ("dinm",))


def test_the_ablations_and_grids_fill_their_tables(finished, compared):
    """Tables 1, 4 and 7 on what is there already; a table that cannot be made says why."""
    config = small.settings(finished.recipe, compared[0])
    _, _ = small.carry_on(config, ("neurontune", "dinm"), ("1", "3", "4", "5", "6", "7"))
    folder = compared[0] / "compare" / "report"
    rows = {}
    for number in "13457":
        with (folder / f"table{number}.csv").open(newline="", encoding="utf-8") as file:
            rows[number] = [row["row"] for row in csv.DictReader(file)]
        assert (folder / f"table{number}.tex").read_text().startswith(r"\begin{table}")
    assert rows["1"] == ["Default", *(f"DINM, {n}%" for n in (100, 50, 20, 10, 5))]
    assert rows["3"] == ["Default", "NeuronTune", "DINM"]
    assert len(rows["4"]) == 6 and rows["4"][2] == "w/o Neuron Pinpointing, mean of 2 draws"
    assert len(rows["5"]) == 2 and rows["7"] == ["9/7"]
    text = (folder / "comparison.md").read_text()
    assert "Table 6 needs advbench and truthfulqa" in text and not (folder / "table6.csv").exists()
    assert (folder / "figure3.png").read_bytes().startswith(b"\x89PNG")
    learned = {
        name: np.load(compared[0] / "compare" / f"fit-{name}" / "learned.npz")
        for name in ("random_neurons_0", "random_neurons_1", "first_factors", "neurons_9_7")
    }
    assert set(learned["first_factors"]["theta_P"]) == {np.float32(1.6), np.float32(0.6)}
    # The run is still one, not a sweep: the same command goes on with what it has.
    _, screen = small.carry_on(config, ("neurontune", "dinm"), ("7",))
    assert "kept from before" in screen
    cell = compared[0] / "counts" / "9-7"  # as a sweep would tune it
    neurons, kept = load_neurons(cell / "train" / "neurons.csv")
    assert learned["neurons_9_7"]["layer_P"].tolist() == neurons.layer_P.tolist()
    theta_P = [row["factor"] for row in kept]
    assert learned["neurons_9_7"]["theta_P"].tolist() == theta_P and len(theta_P) == 16
    stages = json.loads((cell / "run.json").read_text())["stages"]
    taken = {name for name, facts in stages.items() if "taken_from" in facts}
    assert taken == {"answers", "attribute"} and set(stages) == taken | {"select", "train"}
    draws = [learned[f"random_neurons_{seed}"]["index_P"].tolist() for seed in (0, 1)]
    assert draws[0] != draws[1]
