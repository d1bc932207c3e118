"""A run made again from its run.json, and what is said where something is not the same."""

import hashlib
import io
import json
import random
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from rich.console import Console

from nt_jax import cli
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.console import shown_on
from nt_jax.errors import RunError
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run import reproduce as module
from nt_jax.run.export import config_of, run_factors
from nt_jax.run.hashes import differing_refusals, factors_sha256, weights_sha256
from nt_jax.run.reproduce import beside, differences, read_run, reproduce, say_factors
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


def facts_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


def said(work) -> str:
    screen = io.StringIO()
    with shown_on(Console(file=screen, width=150)), small.small_programs():
        work()
    return screen.getvalue()


def test_run_json_holds_full_hashes_and_every_refusal_count(finished):
    facts, known = facts_of(finished.folder), facts_of(finished.folder)["sha256"]
    file = finished.model / "model.safetensors"
    assert known["weights"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    report = finished.folder / "report" / "results.json"
    assert known["results"] == hashlib.sha256(report.read_bytes()).hexdigest()
    assert known["factors"] == factors_sha256(run_factors(finished.folder)[1])
    assert (known["data"], known["tests"]) == (facts["hashes"]["data"], facts["hashes"]["tests"])
    answers = (finished.folder / "eval" / "answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in answers]
    assert len(facts["refusals"]) == 8  # four sets, two models, one judge
    for count in facts["refusals"]:
        mine = [r for r in rows if (r["dataset"], r["model"]) == (count["dataset"], count["model"])]
        assert (count["refused"], count["n"]) == (sum(r["refused"] for r in mine), len(mine))


def test_the_new_run_lies_beside_the_old_one_wherever_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert beside(Path("runs/mine/run.json")) == "runs/mine-again"
    assert beside(Path("run.json")) == beside(Path("./run.json")) == f"{tmp_path}-again"
    assert beside(Path("../run.json")) == f"{tmp_path.parent}-again"


def test_code_of_ours_that_was_changed_may_change_results(finished):
    facts = facts_of(finished.folder)
    assert re.fullmatch("[0-9a-f]{12}", facts["versions"]["nt_jax source"])
    facts["versions"]["nt_jax source"] = "0" * 12
    (found,) = differences(facts)
    assert (found.severity, found.what, found.then) == (2, "nt_jax source", "0" * 12)


def test_a_run_is_made_again_bit_for_bit(finished, tmp_path):
    shutil.copy(finished.folder / "run.json", tmp_path / "run.json")  # alone, as it is sent
    screen = said(lambda: reproduce(tmp_path / "run.json", str(tmp_path / "again")))
    assert "bit for bit" in screen and "all 8 counts are the same" in screen
    assert "differs" not in screen and "reproduced" in screen
    new, old = facts_of(tmp_path / "again")["sha256"], facts_of(finished.folder)["sha256"]
    assert new == old  # results too
    # Another result of that run is said, line by line.
    facts = facts_of(finished.folder)
    facts["sha256"]["factors"], facts["refusals"][0]["refused"] = "0" * 64, 99
    facts["versions"]["jax"] = "0.1"
    (tmp_path / "run.json").write_text(json.dumps(facts))
    screens = []

    def again() -> None:
        with pytest.raises(RunError, match="was not reproduced"):
            reproduce(tmp_path / "run.json", str(tmp_path / "again"))

    screens = said(again)
    assert "jax: 0.1, here" in screens and "may change results" in screens
    assert "not the same bits" in screens and ": 99 of 5, now " in screens


def test_other_inputs_are_refused_before_any_work(finished, tmp_path):
    facts = facts_of(finished.folder)
    facts["sha256"]["data"], facts["sha256"]["fingerprint"] = "x", "y"
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="weights, data are not those of the run"):
        reproduce(tmp_path / "run.json", str(tmp_path / "again"))
    facts = facts_of(finished.folder)
    facts["sha256"]["weights"]["model.safetensors"] = "x"  # bytes that the fingerprint passes over
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="some bytes of them"):
        reproduce(tmp_path / "run.json", str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
    with pytest.raises(RunError, match="is the run itself"):
        reproduce(finished.folder / "run.json", str(finished.folder))


def test_differences_come_with_their_severity(finished):
    facts = facts_of(finished.folder)
    assert differences(facts) == []
    facts["versions"] |= {"jax": "0", "optax": "0"}
    facts["platform"], facts["devices"] = "Plan 9", ["one GPU"]
    found = {d.what: d.severity for d in differences(facts)}
    assert found == {"jax": 2, "optax": 1, "platform": 1, "devices": 2}
    del facts["versions"]["numpy"]
    assert {d.then for d in differences(facts) if d.what == "numpy"} == {"None"}


def factors(theta_P, index_P=(3, 4)) -> Factors:
    layers = np.zeros(2, np.int32)
    neurons = NeuronSet(layers, np.array(index_P, np.int32), np.array([True, False]))
    return Factors(neurons, np.array(theta_P, np.float32))


@pytest.mark.parametrize(
    ("then", "now", "words", "same"),
    [
        ((1.5, 0.5), (1.5, 0.5), "bit for bit", True),
        ((1.5, 0.5), (1.5, np.nextafter(np.float32(0.5), np.float32(1))), "apart by 6.0e-08", True),
        ((1.5, 0.5), (1.5, 0.50001), "apart by 1.0e-05", False),
        (None, (1.5, 0.5), "not the same bits", False),
    ],
)
def test_factors_are_the_same_to_a_millionth(then, now, words, same):
    old = None if then is None else factors(then)
    sha256 = "" if old is None else factors_sha256(old)
    told = []
    screen = said(lambda: told.append(say_factors(old, factors(now), sha256)))
    assert words in screen and told == [same]


def test_other_neurons_are_counted():
    old, new = factors((1.5, 0.5)), factors((1.5, 0.5), (3, 9))
    told = []
    screen = said(lambda: told.append(say_factors(old, new, factors_sha256(old))))
    assert "1 of 2 neurons are others" in screen and told == [False]


def test_refusals_that_differ_are_listed():
    one = {"dataset": "a", "model": "tuned", "judge": "phrases-v2", "refused": 3.0, "n": 5}
    other = one | {"refused": 4.0}
    assert differing_refusals([one], [one]) == []
    assert differing_refusals([one], [other]) == ["a, tuned, phrases-v2: 3 of 5, now 4 of 5"]
    assert differing_refusals([], [one]) == ["a, tuned, phrases-v2: not measured, now 3 of 5"]


def test_whatever_stands_in_the_file_is_a_run_json_or_one_line(finished, tmp_path, capsys):
    path, good = tmp_path / "run.json", (finished.folder / "run.json").read_bytes()
    rng, odd = random.Random(0), [b"", b"[]", b"null", b"{}", b'{"sha256": 3}', b"\xff"]
    for key in ("config", "sha256", "refusals", "versions"):
        odd.append(json.dumps({k: v for k, v in json.loads(good).items() if k != key}).encode())
    wrong = [("config", []), ("config", None), ("versions", [1]), ("refusals", {}), ("sha256", [])]
    wrong += [("refusals", [3]), ("refusals", [{"dataset": "a", "model": "b", "judge": "c"}])]
    wrong += [("refusals", [json.loads(good)["refusals"][0] | {"n": 10**400}])]
    wrong += [("sha256", {"weights": {"a": "b"}}), ("sha256", {"weights": [["a", "b"]]})]
    odd += [json.dumps(json.loads(good) | {key: value}).encode() for key, value in wrong]
    odd.append(b"[" * 100_000)
    for _ in range(30):
        cut = bytearray(good[: rng.randint(1, len(good) - 2)])
        for _ in range(rng.randint(0, 3)):
            cut[rng.randrange(len(cut))] = rng.randrange(256)
        odd.append(bytes(cut))
    for data in odd:
        path.write_bytes(data)
        with pytest.raises(RunError) as raised:
            read_run(path)
        assert "\n" not in str(raised.value)
    with mock.patch.object(cli, "_enter"):
        assert cli.main("reproduce", [str(tmp_path / "none.json")]) == 2
    told = capsys.readouterr().err
    assert "none.json is not there" in told and told.count("\n") == 1


def test_a_run_that_went_on_from_a_neighbour_is_not_made_again_by_itself(finished, monkeypatch):
    facts = facts_of(finished.folder)
    assert facts["begun"] is None and Path(facts["made_in"]).is_dir()
    monkeypatch.setattr(module, "read_run", lambda path: facts | {"begun": "k"})
    with pytest.raises(RunError, match=r"factors of a neighbour .*Repeat the sweep"):
        reproduce(finished.folder / "run.json")


@pytest.mark.parametrize("told", [[], "x", {"engine": 3}])
def test_a_config_of_other_types_is_one_line(told, finished):
    with pytest.raises(RunError, match="holds a config of another version: eval") as caught:
        config_of(finished.folder, facts_of(finished.folder)["config"] | {"eval": told})
    assert "\n" not in str(caught.value)


def test_factors_that_are_not_those_of_the_run_json_are_refused(finished):
    with pytest.raises(RunError, match="carry it on"):
        module.kept_factors(finished.folder / "run.json", "0" * 64)


def test_a_hash_covers_every_byte_of_the_weights(tmp_path, finished):
    shutil.copytree(finished.model, tmp_path / "model")
    before = weights_sha256(open_checkpoint(str(tmp_path / "model")))
    file = tmp_path / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    after = weights_sha256(open_checkpoint(str(tmp_path / "model")))
    assert before.keys() == after.keys() and before != after
