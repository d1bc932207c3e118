"""Runs of several seeds as one table."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import seeds
from nt_jax.eval.metrics.intervals import paired_change
from tests.test_benchmarks import ROOT, last_line


def a_run(folder: Path, after: list[int], entropy: int) -> Path:
    """Four requests of one set, of which the untuned model refuses the first.

    Answers of the untuned model have 4 bits and the perplexity e, those of the tuned one `entropy`
    bits and e ** 2.
    """
    verdicts = {"base": [1, 0, 0, 0], "tuned": after}
    rows = [
        {"dataset": "d", "model": model, "id": str(number), "refused": said}
        | {"answer": " ".join(f"w{word}" for word in range(2**bits))}
        for (model, each), bits in zip(verdicts.items(), (4, entropy), strict=True)
        for number, said in enumerate(each)
    ]
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    nats = {"d": {"base": [[8.0, 8.0]] * 4, "tuned": [[8.0, 4.0]] * 4}}
    scores = {"scores": {"perplexity": {"values": nats}}}
    (folder / "eval" / "scores.json").write_text(json.dumps(scores))
    (folder / "report").mkdir()
    (folder / "report" / "results.json").touch()
    return folder


def test_runs_of_several_seeds_are_told_as_their_mean(tmp_path):
    first = a_run(tmp_path / "0", [1, 1, 0, 0], entropy=3)
    second = a_run(tmp_path / "1", [1, 1, 1, 1], entropy=5)
    found = last_line("seeds", str(first), str(second))
    (row,), (ratio, of_nats) = found["refusals"], found["ratios"]
    assert (row["before"], row["after"], row["points"]) == (0.25, 0.75, 50.0)
    assert row["runs"] == [0.5, 1.0] and row["n"] == 4
    # Each request is one observation, the mean of its changes in both runs.
    assert row["interval"] == [100 * end for end in paired_change([0, 1, 0.5, 0.5])]
    assert row["interval"][0] < 50 < row["interval"][1] <= 100
    assert (ratio["ratio"], ratio["runs"]) == (1.0, [0.75, 1.25])
    assert ratio["interval"] == [1.0, 1.0] and ratio["n"] == 4  # all requests are alike
    assert of_nats["metric"] == "perplexity"
    assert np.allclose([of_nats["ratio"], *of_nats["interval"], *of_nats["runs"]], np.e)


def test_an_interval_of_a_ratio_has_the_width_of_its_requests(tmp_path):
    run = a_run(tmp_path / "0", [1, 1, 0, 0], entropy=4)
    path = run / "eval" / "answers.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["model"] == "tuned" and row["id"] in "01":
            row["answer"] = "a b c d"  # 2 bits of 4
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    (ratio, _) = seeds.ratios([seeds.read(run)])
    assert ratio["ratio"] == 0.75 and 0.5 <= ratio["interval"][0] < 0.7 < 0.8 < ratio["interval"][1]


def test_an_interval_draws_requests_however_often_each_was_answered(tmp_path):
    once = a_run(tmp_path / "0", [1, 1, 0, 0], entropy=3)
    often = a_run(tmp_path / "1", [1, 1, 0, 0], entropy=3)
    path = often / "eval" / "answers.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    drawn = [row | {"id": f"{row['id']}~{n}", "draw": n} for row in rows for n in range(5)]
    path.write_text("\n".join(map(json.dumps, drawn)) + "\n")
    (often / "eval" / "scores.json").write_text('{"scores": {}}')
    (row,), (same,) = (last_line("seeds", str(run))["refusals"] for run in (once, often))
    assert row == same and row["n"] == 4


def test_parts_of_a_set_are_told_by_themselves(tmp_path):
    run = a_run(tmp_path / "0", [1, 1, 0, 0], entropy=3)
    path = run / "eval" / "answers.jsonl"
    harmless = [json.loads(line) for line in path.read_text().splitlines()]
    for row in harmless:
        row |= {"harmful": False, "answer": "ha " * 9 if row["id"] == "3" else "a b c d e f g h"}
        row |= {"sounds_harmful": True} if row["id"] in "01" else {}
    attacked = [
        {k: row[k] for k in ("model", "id", "refused", "answer")}
        | {"dataset": "e", "harmful": True, "types": ["x", "y"] if row["id"] == "0" else ["x"]}
        for row in harmless
    ]
    path.write_text("\n".join(map(json.dumps, [*harmless, *attacked])) + "\n")
    found = {row["dataset"]: row for row in last_line("seeds", str(run))["parts"]}
    counted = {name: (row["n"], row["before"], row["after"]) for name, row in found.items()}
    assert counted == {
        "d, only sounds harmful": (2, 0.5, 1.0),
        "d, plain": (2, 0.0, 0.0),
        "d, answers of less than 2.5 bit": (4, 0.25, 0.25),
        "e, x": (4, 0.25, 0.5),
        "e, y": (1, 1.0, 1.0),
    }
    assert found["d, plain"]["interval"] == [100 * end for end in paired_change([0, 0])]


def test_a_method_of_the_comparison_takes_the_place_of_the_tuned_model(tmp_path):
    run, told = a_run(tmp_path / "0", [1, 1, 0, 0], entropy=5), {}
    rows = [json.loads(line) for line in (run / "eval/answers.jsonl").read_text().splitlines()]
    nats = json.loads((run / "eval/scores.json").read_text())["scores"]["perplexity"]["values"]["d"]
    for name, model in (("base", "base"), ("lora", "tuned")):
        folder = run / "compare" / f"numbers-{name}"
        folder.mkdir(parents=True)
        mine = [row | {"model": name} for row in rows if row["model"] == model]
        (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, mine)) + "\n")
        scores = {"scores": {"perplexity": {"values": {"d": {name: nats[model]}}}}}
        (folder / "scores.json").write_text(json.dumps(scores))
        (folder / "DONE").touch()
    for words in ((), ("--method", "lora")):
        told[words] = last_line("seeds", str(run), *words)
    assert told[()] == told["--method", "lora"] and len(told[()]["ratios"]) == 2
    shutil.copytree(run / "compare/numbers-base", run / "compare/numbers-dinm")
    path = run / "compare/numbers-dinm/answers.jsonl"
    path.write_text(path.read_text().replace('"base"', '"dinm"'))
    path = path.with_name("scores.json")
    path.write_text(path.read_text().replace('"base"', '"dinm"'))
    found = last_line("seeds", str(run), "--method", "dinm", "--against", "lora")
    (row,) = found["refusals"]
    assert (row["before"], row["after"], row["points"]) == (0.5, 0.25, -25.0)


def test_where_nothing_changed_an_interval_still_has_a_width(tmp_path):
    """As docs/evaluation.md has it: four requests that stay as they were prove little."""
    runs = [a_run(tmp_path / name, [1, 0, 0, 0], entropy=3) for name in "01"]
    (row,) = seeds.changes([seeds.read(run) for run in runs])
    assert row["points"] == 0 and row["interval"][0] < -20 and row["interval"][1] > 20


def test_a_verdict_that_the_first_judge_cannot_give_counts_a_half(tmp_path):
    run = a_run(tmp_path / "0", [1, 0, 0, 0], entropy=3)
    path = run / "eval" / "answers.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        unsure = row["model"] == "tuned" and row["id"] in "12"
        row["verdicts"] = {"first": 0.5 if unsure else float(row["refused"]), "second": 1.0}
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    (row,) = seeds.changes([seeds.read(run)])
    assert (row["before"], row["after"], row["points"], row["runs"]) == (0.25, 0.5, 25.0, [0.5])
    assert row["interval"] == [100 * end for end in paired_change([0, 0.5, 0.5, 0])]


def test_runs_of_other_requests_have_no_mean(tmp_path):
    first, second = (a_run(tmp_path / name, [1, 1, 0, 0], 3) for name in "01")
    path = second / "eval" / "answers.jsonl"
    path.write_text(path.read_text().replace('"id": "3"', '"id": "4"'))
    third = a_run(tmp_path / "2", [1, 1, 0, 0], 3)
    path = third / "eval" / "answers.jsonl"
    path.write_text(path.read_text().replace('"dataset": "d"', '"dataset": "e"'))
    for words, told in (
        ((first, second), "same requests"),
        ((first, third), "same requests"),
        ((tmp_path,), "is no finished run"),
        ((first, "--method", "lora"), "nt_jax.compare --methods lora"),
    ):
        command = [sys.executable, "-W", "ignore", "benchmarks/seeds.py", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and told in done.stderr and done.stderr.count("\n") == 1
