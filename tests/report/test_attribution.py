"""The attribution report of a finished run: its files, and that they say what the scores say."""

import json

import datasets
import numpy as np
import pytest

from nt_jax.attribution import diagnostics as compare
from nt_jax.attribution.store import load_attribution, load_neurons, load_scores
from nt_jax.report.attribution import readable

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished.folder / "select" / "summary.json").read_text())


def test_all_examples_lie_in_one_file(finished):
    folder = finished.folder / "attribute"
    raw = np.load(folder / "scores.npz")
    files = [*sorted(folder.glob("safety-*.npz")), *sorted(folder.glob("utility-*.npz"))]
    assert raw["set"].tolist() == [file.name.split("-")[0] for file in files]
    for place, file in enumerate(files):
        one = load_attribution(file)
        for name in ("alpha", "standard", "v_q", "v_pq"):
            np.testing.assert_array_equal(raw[name][place], getattr(one, f"{name}_LF"))


def test_the_summary_follows_from_the_scores(finished, summary):
    folder = finished.folder
    scores = load_scores(folder / "attribute")
    raw = np.load(folder / "attribute" / "scores.npz")
    _, rows = load_neurons(folder / "select" / "neurons.csv")
    for name, count in (("safety", 14), ("utility", 10)):
        of = raw["set"] == name
        expected = compare.summarise(raw["alpha"][of], raw["standard"][of], count)
        chosen = [(r["layer"], r["index"]) for r in rows if r["set"] == name]
        assert len(chosen) == count
        held = np.array([scores[name][at] for at in chosen])
        expected |= compare.concentration(scores[name], held)
        assert summary["sets"][name] == pytest.approx(expected, nan_ok=True)
    lists = [compare.ranking(scores[name])[:n] for name, n in (("safety", 14), ("utility", 10))]
    assert summary["overlap"]["in_both_lists"] == np.intersect1d(*lists).size


def test_examples_are_named_with_their_attacks(finished, summary):
    assert [row["set"] for row in summary["examples"]] == ["safety", "utility"]
    assert all(row["types"] == ["pretending"] for row in summary["examples"])
    assert summary["examples"][0]["request"].startswith("harm-")
    assert summary["examples"][1]["request"].startswith("safe-")
    assert summary["templates_of_several_types_left_out"] > 0
    text = (finished.folder / "select" / "attribution.md").read_text()
    for row in summary["examples"]:
        assert f"| {row['set']} | pretending | {row['template']} | {row['request']} |" in text


def test_the_report_shows_both_figures_and_ten_neurons_of_each_set(finished):
    folder = finished.folder / "select"
    text = (folder / "attribution.md").read_text()
    for name in ("layers.png", "cumulative.png"):
        assert f"]({name})" in text
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    _, rows = load_neurons(folder / "neurons.csv")
    for name in ("safety", "utility"):
        section = text.split(f"## Best {name} neurons")[1].split("## ")[0]
        lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
        best = [row for row in rows if row["set"] == name][:10]
        assert len(lines) == len(best) == 10
        for line, row in zip(lines, best, strict=True):
            assert line.startswith(f"| {row['rank']} | {row['layer']} | {row['index']} | ")
            assert line.count("`") == 12


def test_the_tuned_neurons_carry_their_factors(finished):
    _, before = load_neurons(finished.folder / "select" / "neurons.csv")
    _, after = load_neurons(finished.folder / "train" / "neurons.csv")
    assert [{k: v for k, v in row.items() if k != "factor"} for row in after] == before
    assert all(0 <= row["factor"] <= 4 and row["factor"] != 1 for row in after)
    table = datasets.Dataset.from_parquet(str(finished.folder / "train" / "neurons.parquet"))
    assert table.to_list() == after


@pytest.mark.parametrize(
    ("token", "shown"), [(" the", "the"), ("\n", "space"), ("a|b", "a\\|b"), ("`", "'")]
)
def test_tokens_fit_a_table_cell(token, shown):
    assert readable(token) == shown
