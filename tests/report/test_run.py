"""The screen table, the examples and the report, on made-up data."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from nt_jax.config.test_sets import labels_of
from nt_jax.eval.metrics.result import Measurements, ResultRow, read_rows
from nt_jax.eval.metrics.rows import all_rows
from nt_jax.report import examples, figures, terminal
from nt_jax.report import run as report
from tests.made_up import HARM, made_up_answers

ANSWERS = made_up_answers()
ROWS = all_rows(Measurements(ANSWERS, judges={"phrases-v2": "ab12" * 16}))
SETTINGS = {"name": "made_up", "model": {"source": "a/model"}, "eval": {"max_new_tokens": 48}}
TIMINGS = {"attribute": 58.2, "tune": 304.0}
MACHINE = {"python": "3.11.7", "platform": "Linux", "versions": {"nt_jax": "0.1.0"}}
NEURONS = {
    "layer": np.array([0, 1, 1, 2]),
    "index": np.array([5, 6, 7, 8]),
    "set": np.array(["safety", "safety", "utility", "utility"]),
    "score": np.array([0.5, 0.4, 0.3, -0.2]),
    "num_layers": 4,
}
HISTORY = [
    {"epoch": 1, "safety_loss": 3.0, "utility_loss": 2.0},
    {"epoch": 2, "safety_loss": 1.0, "utility_loss": 2.1, "validation_su_f1": 0.7, "best": True},
]
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = report.write_report(
        folder, ROWS, ANSWERS, SETTINGS, TIMINGS, NEURONS, HISTORY, machine=MACHINE
    )
    assert path == folder / "report.md"
    return folder


def printed(rows) -> str:
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(terminal.screen_table(rows, labels_of({})))
    return console.file.getvalue()


def test_screen_table_has_the_published_shape():
    rows = [
        ResultRow("demo_attack", "refusal_rate", "base", 4 / 60, 60, 0.03, 0.16, "phrases-v2"),
        ResultRow("demo_attack", "refusal_rate", "tuned", 53 / 60, 60, 0.78, 0.94, "phrases-v2"),
        ResultRow("demo_attack", "mcnemar_p", "tuned", 1e-12, 60),
        ResultRow("demo_harmless", "refusal_rate", "base", 0.0, 120, 0.0, 0.03, "phrases-v2"),
        ResultRow("demo_harmless", "refusal_rate", "tuned", 3 / 120, 120, 0.01, 0.07, "phrases-v2"),
        ResultRow("demo_harmless", "mcnemar_p", "tuned", 0.25, 120),
        ResultRow("demo_harmless", "entropy", "base", 5.21, 120),
        ResultRow("demo_harmless", "entropy", "tuned", 5.17, 120),
        ResultRow("demo_attack+demo_harmless", "su_f1", "base", 0.551, 180),
        ResultRow("demo_attack+demo_harmless", "su_f1", "tuned", 0.802, 180),
    ]
    lines = [" ".join(line.split()) for line in printed(rows).splitlines()]
    assert lines == [
        "refuses before after 95 % difference",
        "unseen attacks 7 % 4/60 88 % 53/60 78..94 % +82 points",
        "harmless requests 0 % 0/120 2 % 3/120 1..7 % within noise",
        "entropy (bit), harmless 5.21 5.17 -0.8 %",
        "SU-F1 0.551 0.802 +45.6 %",
        "judge: phrases-v2 (see docs/evaluation.md)",
    ]


def test_screen_table_of_one_model_and_of_nothing():
    base = [row for row in ROWS if row.model == "base"]
    assert "unseen attacks" in printed(base)
    assert "judge: none" in printed([])
    same = [ResultRow("x", "refusal_rate", model, 0.5, 4, 0.1, 0.9) for model in ("base", "tuned")]
    assert "no change" in printed(same)


def test_examples_cover_every_kind_and_cut_harm():
    chosen = examples.choose_examples(ANSWERS, 12)
    counts = examples.count_disagreements(ANSWERS)
    assert len(chosen) == 12
    assert {example.kind for example in chosen} == {kind for kind, n in counts.items() if n}
    assert sum(counts.values()) == sum(
        a["refused"] != b["refused"] for a, b in zip(ANSWERS[::2], ANSWERS[1::2], strict=True)
    )
    for example in chosen:
        assert example.before.refused != example.after.refused
        for shown in (example.before, example.after):
            limit = 80 if shown.cut_for_harm else 300
            assert len(shown.text) <= limit
    assert any(example.before.cut_for_harm for example in chosen)


def test_examples_of_a_large_kind_fill_up_what_small_ones_leave():
    only_gains = [a for a in ANSWERS if a["dataset"] == "demo_attack" and a["id"] not in ("r0",)]
    chosen = examples.choose_examples(only_gains, 5)
    assert [example.kind for example in chosen] == ["now refuses a harmful request"] * 5
    assert len({example.id for example in chosen}) == 5
    assert examples.choose_examples([], 5) == []


def test_report_files(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "results.json",
        "report.md",
        "report.html",
        "figures/before_after.png",
        "figures/layers.png",
        "figures/tuning.png",
    }
    assert read_rows(folder / "results.json") == ROWS
    assert all(path.read_bytes().startswith(PNG) for path in (folder / "figures").iterdir())


def test_markdown_report(folder):
    text = (folder / "report.md").read_text()
    assert "Of 12 harmful requests under attack, the model refused 1 before tuning and 10" in text
    for link in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (folder / link).is_file()
    for part in (
        "within noise",
        "Dual use",
        "## Limits",
        "max_new_tokens: 48",
        "made\\_up",
        "5:04",
    ):
        assert part in text, part
    assert "<b>" not in text  # a model's answer is text, never markup
    assert HARM[:60] in text
    assert HARM[:120].strip() not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_html_report_is_one_file_and_escapes_answers(folder):
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "&lt;b&gt;It&lt;/b&gt;" in page
    assert "<b>It</b>" not in page


def test_report_without_neurons_history_or_a_second_model(tmp_path):
    answers = [answer for answer in ANSWERS if answer["model"] == "base"]
    path = report.write_report(
        tmp_path, all_rows(Measurements(answers)), answers, {}, {}, machine=MACHINE
    )
    assert "No request was refused by one model" in path.read_text()
    assert not (tmp_path / "figures" / "layers.png").exists()


def test_tuning_curves_need_something_to_draw():
    assert figures.curves_png([]) is None
    assert figures.curves_png([{"epoch": 1, "seconds": 2.0}]) is None
    assert figures.curves_png([{"epoch": 1, "safety_loss": float("nan")}]) is None
    assert figures.curves_png(HISTORY).startswith(PNG)


def test_markdown_text_escapes_markup():
    text = examples.markdown_text("a|b\n*c* <i> `d` [e] #f")
    assert text == r"a\|b \*c\* \<i\> \`d\` \[e\] \#f"


def test_no_jax_is_imported():
    code = "import sys, nt_jax.report.run; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True
    )
    assert not {"jax", "torch", "transformers"} & set(json.loads(out.stdout))


def test_differences_within_noise_are_said_in_one_sentence():
    sentence = terminal.noise_sentence(ROWS, labels_of({}))
    p = next(r for r in ROWS if (r.dataset, r.metric) == ("demo_harmless", "mcnemar_p"))
    assert p.value >= 0.05
    assert "harmless requests (8 % against 17 % of 12, p = " in sentence
    assert "unseen attacks" not in sentence and "paired McNemar test" in sentence
    sure = [row for row in ROWS if row.dataset != "demo_harmless"]
    assert "harmless requests" not in terminal.noise_sentence(sure, labels_of({}))
    assert terminal.noise_sentence([], labels_of({})) == ""


def test_a_table_in_the_layout_of_the_papers_table_2(folder):
    sets = ("demo_attack", "demo_harmless")
    base, tuned = report.paper_table(ROWS, sets)
    assert (base[0], tuned[0]) == ("Default", "NeuronTune")
    values = {(r.dataset, r.metric, r.model): r.value for r in ROWS}
    assert tuned[1] == [
        f"{100 * values['demo_attack', 'refusal_rate', 'tuned']:.2f}%",
        f"{values['demo_attack', 'entropy', 'tuned']:.3f} bit",
        f"{100 * values['demo_harmless', 'refusal_rate', 'tuned']:.2f}%",
        f"{values['demo_harmless', 'entropy', 'tuned']:.3f} bit",
        f"{values['demo_attack+demo_harmless', 'su_f1', 'tuned']:.3f}",
    ]
    text = (folder / "report.md").read_text()
    assert f"| a/model | NeuronTune | {' | '.join(tuned[1])} |" in text
    assert "entropies of 1.0 to 7.5 bit count as 0 to 1" in text


def test_the_papers_own_pairs_have_tables_too(tmp_path):
    renamed = {"demo_attack": "safeedit", "demo_direct": "advbench", "demo_harmless": "truthfulqa"}
    answers = [row | {"dataset": renamed[row["dataset"]]} for row in ANSWERS]
    rows = all_rows(Measurements(answers))
    found = [row.dataset for row in rows if row.metric == "su_f1"]
    assert found == ["safeedit+truthfulqa"] * 2 + ["advbench+truthfulqa"] * 2
    text = report.write_report(tmp_path, rows, answers, SETTINGS, {}, machine=MACHINE).read_text()
    for sets in (("safeedit", "truthfulqa"), ("advbench", "truthfulqa")):
        _, (_, cells) = report.paper_table(rows, sets)
        assert f"| a/model | NeuronTune | {' | '.join(cells)} |" in text


def test_judges_stand_with_hash_and_agreement(tmp_path):
    answers = [
        row | {"verdicts": {"one": float(row["refused"]), "two": float(row["harmful"])}}
        for row in ANSWERS
    ]
    judges = {"one": "1a" * 32, "two": "2b" * 32}
    rows = all_rows(Measurements(answers, judges=judges))
    machine = MACHINE | {"overlap": {"demo_direct": 3}, "attack_overlap": {"demo_attack": 2}}
    report.write_report(tmp_path, rows, answers, SETTINGS, TIMINGS, machine=machine)
    text = (tmp_path / "report.md").read_text()
    assert "one (1a1a1a1a), two (2b2b2b2b)" in text
    assert "Cohen's kappa of one / two, tuned: " in text and "refused \\[two\\]" in text
    assert "also tuned on, which flatters the tuned model: direct harmful requests 3." in text
    assert "say nothing about unseen attacks: unseen attacks 2." in text


def test_up_to_twenty_examples():
    many = made_up_answers(60)
    assert report.EXAMPLES == 20
    assert len(examples.choose_examples(many, report.EXAMPLES)) == 20
