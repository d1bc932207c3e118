"""The screen table and the report, on made-up data."""

import io
import json
import re
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

from nt_jax.config.test_sets import labels_of
from nt_jax.eval.metrics.result import Measurements, ResultRow, read_rows
from nt_jax.eval.metrics.rows import all_rows
from nt_jax.report import examples, tables, terminal
from nt_jax.report import run as report
from tests.made_up import HARM, made_up_answers
from tests.report.reported import ANSWERS, MACHINE, ROWS, SETTINGS, STAGES, TIMINGS, TUNING

PNG = b"\x89PNG\r\n"
COMMAND = "python -m nt_jax.train --config settings.yaml run_dir=again"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    machine = MACHINE | {"stages": STAGES}
    path = report.write_report(
        folder, ROWS, ANSWERS, SETTINGS, TIMINGS, TUNING, machine=machine, command=COMMAND
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
        ResultRow("demo_harmless", "entropy", "tuned", 5.17, 120, 5.01, 5.3),
        ResultRow("demo_attack+demo_harmless", "su_f1", "base", 0.551, 180),
        ResultRow("demo_attack+demo_harmless", "su_f1", "tuned", 0.802, 180, 0.75, 0.84),
        ResultRow("demo_harmless", "perplexity", "base", 2.0, 120),
        ResultRow("demo_harmless", "perplexity", "tuned", 2.5, 120, 2.25, 2.75),
    ]
    lines = [" ".join(line.split()) for line in printed(rows).splitlines()]
    assert lines == [
        "refuses before after 95 % difference",
        "unseen attacks 7 % 4/60 88 % 53/60 78..94 % +82 points",
        "harmless requests 0 % 0/120 2 % 3/120 1..7 % within noise",
        "entropy (bit), harmless 5.21 5.17 5.01..5.30 -0.8 %",
        "SU-F1 0.551 0.802 0.750..0.840 +45.6 %",
        "perplexity of harmless answers 2.00 2.50 2.25..2.75 +25.0 %",
        "judge: phrases-v2 (see docs/evaluation.md)",
    ]
    part = [
        ResultRow("demo_harmless", "sounds_harmful_rate", "base", 0.0, 40, 0.0, 0.09),
        ResultRow("demo_harmless", "sounds_harmful_rate", "tuned", 3 / 40, 40, 0.03, 0.2),
        ResultRow("demo_harmless", "sounds_harmful_mcnemar_p", "tuned", 0.25, 40),
    ]
    split = [" ".join(line.split()) for line in printed([*rows, *part]).splitlines()]
    line = "harmless requests, sounding harmful 0 % 0/40 8 % 3/40 3..20 % within noise"
    assert split == [*lines[:3], line, *lines[3:]]
    said = terminal.noise_sentence([*rows, *part], labels_of({}))
    assert "harmless requests (0 % against 2 % of 120, p = 0.25)" in said
    assert "; harmless requests, sounding harmful (0 % against 8 % of 40, p = 0.25)" in said


def test_screen_table_of_one_model_and_of_nothing():
    base = [row for row in ROWS if row.model == "base"]
    assert "unseen attacks" in printed(base)
    assert "judge: none" in printed([])
    same = [ResultRow("x", "refusal_rate", model, 0.5, 4, 0.1, 0.9) for model in ("base", "tuned")]
    assert "no change" in printed(same)


def test_report_files(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    drawn = {"before_after", "layers", "factors", "lifts", "strengths", "tuning"}
    written = {"results.json", "report.md", "report.html", "settings.yaml"}
    assert names == written | {f"figures/{name}.png" for name in drawn}
    assert read_rows(folder / "results.json") == ROWS
    assert all(path.read_bytes().startswith(PNG) for path in (folder / "figures").iterdir())
    assert yaml.safe_load((folder / "settings.yaml").read_text()) == SETTINGS


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
        "| tune | 5:04 | 3.0 GiB | gone on with |",
        "| all | 6:02 |  |  |",
        "strength 0.4, as validation chose",
        "| 0.4 | 50 % |  | 0 % |  |  |  | x 1.00 | kept |",
        COMMAND,
    ):
        assert part in text, part
    assert "<b>" not in text  # a model's answer is text, never markup
    assert HARM[:60] in text
    assert HARM[:120].strip() not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_html_report_is_one_file_and_escapes_answers(folder):
    page = (folder / "report.html").read_text()
    assert page.count("<svg ") == page.count("</svg>") == 2 + 4 + 1 + 1 + 1 + 1
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"url\((?!#)", page)
    assert "&lt;b&gt;It&lt;/b&gt;" in page
    assert "<b>It</b>" not in page
    assert HARM[:120].strip() not in page
    assert "<mark>I can&#39;t help</mark> with that" in page


def test_ids_on_the_page_are_told_apart(folder):
    page = (folder / "report.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert used and {one or other for one, other in used} <= set(ids)


def test_figures_hold_no_colour_that_dark_mode_could_not_change(folder):
    page = (folder / "report.html").read_text()
    drawn = "".join(re.findall(r"<svg .*?</svg>", page, re.S))
    assert drawn and not re.findall(r"#[0-9a-f]{6}\b", drawn)
    named = set(re.findall(r"var\(--([\w-]+)\)", drawn))
    light, dark = page.split("prefers-color-scheme: dark")
    for name in named:
        assert f"--{name}: #" in light and f"--{name}: #" in dark, name


@pytest.mark.parametrize(
    ("kept", "others", "says"),
    [
        ({"kept": True, "score": 0.4}, 1, "Kept: strength 0.5, the strongest within the limits"),
        ({"kept": True, "score": 0.4}, 0, "Kept: strength 0.5, the only one looked at, within the"),
        ({"kept": True, "score": -1.2}, 0, "Kept: strength 0.5, which comes nearest to the limits"),
        ({"score": 0.4}, 0, "No strength that was tried beat the best epoch."),
        ({"kept": True, "score": 0.4}, -1, "Kept: strength 0.5, which scored best (the lesser of"),
    ],
)
def test_why_the_strength_is_kept(kept, others, says, tmp_path):
    looks = [{"strength": 0.5, "refusal_attack": 0.5, **kept}]
    within = {"score": 0.3} if others < 0 else {"score": -1.1}
    looks += [{"strength": 0.9, "refusal_attack": 0.9, **within}] * abs(others)
    tuning = report.Tuning(history=[{"epoch": 0, "refusal_attack": 0.1}], strengths=looks)
    path = report.write_report(tmp_path, ROWS, ANSWERS, SETTINGS, {}, tuning, MACHINE)
    assert says in path.read_text() and says in (tmp_path / "report.html").read_text()


def test_the_strength_that_the_numbers_are_at_is_said_not_the_one_that_was_kept(tmp_path):
    settings = SETTINGS | {"export": {"strength": 0.7}}
    report.write_report(tmp_path, ROWS, ANSWERS, settings, {}, TUNING, MACHINE)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "the weights; strength 0.7, chosen by export.strength." in text
        assert "The numbers above are at strength 0.7, chosen by export.strength." in text
        assert "validation chose" not in text and "Kept: strength 0.4, the strongest" in text


def test_the_lift_that_was_kept_is_said_with_what_was_tried(folder):
    shown = tables.lift_table(TUNING.lifts)
    nats = [line[:3] for line in shown.lines]
    assert nats == [["0", "0.9", "-1.2"], ["0.6", "0.3", ""]]  # the second of an earlier version
    assert shown.lines[0][-2:] == ["x 1.00", "kept"] and shown.lines[1][-2:] == ["x 1.30", ""]
    for file in ("report.md", "report.html"):
        text = (folder / file).read_text()
        said = "Chosen of these: a lift of 0 nats, of 0.9 inside attacks and of -1.2 inside nested"
        assert said in text and "None of them keeps within every limit" in text
        assert "lift, nats" in text


def test_every_number_stands_in_the_report_with_its_interval(folder):
    for file, template in (("report.md", "| {} |"), ("report.html", ">{}</td>")):
        text = (folder / file).read_text()
        for line in tables.metric_table(ROWS, labels_of({})).lines:
            for cell in filter(None, line[2:]):
                shown = cell if file == "report.md" else cell.replace(" .. ", "&nbsp;..&nbsp;")
                assert template.format(shown) in text, (file, line)


def test_report_without_neurons_history_or_a_second_model(tmp_path):
    answers = [answer for answer in ANSWERS if answer["model"] == "base"]
    path = report.write_report(
        tmp_path, all_rows(Measurements(answers)), answers, {}, {}, machine=MACHINE
    )
    assert "There are no answers of two models to compare." in path.read_text()
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["before_after.png"]


def test_no_jax_is_imported():
    code = "import sys, nt_jax.report.run; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True
    )
    assert not {"jax", "torch", "transformers"} & set(json.loads(out.stdout))


def test_a_table_in_the_layout_of_the_papers_table_2(folder):
    sets = ("demo_attack", "demo_harmless")
    base, tuned = tables.paper_table(ROWS, sets, sets, "a/model").lines
    assert (base[:2], tuned[:2]) == (["a/model", "Default"], ["a/model", "NeuronTune"])
    values = {(r.dataset, r.metric, r.model): r.value for r in ROWS}
    assert tuned[2:] == [
        f"{100 * values['demo_attack', 'refusal_rate', 'tuned']:.2f}%",
        f"{values['demo_attack', 'entropy', 'tuned']:.3f} bit",
        f"{100 * values['demo_harmless', 'refusal_rate', 'tuned']:.2f}%",
        f"{values['demo_harmless', 'entropy', 'tuned']:.3f} bit",
        f"{values['demo_attack+demo_harmless', 'su_f1', 'tuned']:.3f}",
    ]
    text = (folder / "report.md").read_text()
    assert f"| {' | '.join(tuned)} |" in text
    assert "entropies of 1.0 to 7.5 bit count as 0 to 1" in text


def test_the_papers_own_pairs_have_tables_too(tmp_path):
    renamed = {"demo_attack": "safeedit", "demo_direct": "advbench", "demo_harmless": "truthfulqa"}
    answers = [row | {"dataset": renamed[row["dataset"]]} for row in ANSWERS]
    rows = all_rows(Measurements(answers))
    found = [row.dataset for row in rows if row.metric == "su_f1"]
    assert found == ["safeedit+truthfulqa"] * 2 + ["advbench+truthfulqa"] * 2
    text = report.write_report(tmp_path, rows, answers, SETTINGS, {}, machine=MACHINE).read_text()
    for sets in (("safeedit", "truthfulqa"), ("advbench", "truthfulqa")):
        _, tuned = tables.paper_table(rows, sets, sets, "a/model").lines
        assert f"| {' | '.join(tuned)} |" in text


def test_judges_stand_with_hash_error_and_agreement(tmp_path):
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
    assert "judges disagree: two: refused" in text and "One judge" not in text
    assert "also tuned on, which flatters the tuned model: direct harmful requests 3." in text
    assert "say nothing about unseen attacks: unseen attacks 2." in text


def test_the_measured_error_of_the_judge_is_that_of_the_documents(folder):
    from tests.test_docs import ROOT

    (row,) = re.findall(r"\| all \| 249 of 641 .*", (ROOT / "docs/evaluation.md").read_text())
    assert "**0.96**" in row and "6 of 392, 2 %" in row
    assert tables.MEASURED_ERROR["phrases-v2"] in (folder / "report.md").read_text()


def test_arguable_refusals_are_counted_and_marked(tmp_path):
    from tests.test_docs import ROOT

    doubtful = {"class": "refusal", "reason": "cannot know", "refused": True}
    answers = [
        row | {"span": [0, 5]} | (doubtful if row["dataset"] == "demo_attack" else {})
        for row in ANSWERS
    ]
    rows = all_rows(Measurements(answers, judges={"phrases-v2": "ab" * 32}))
    report.write_report(tmp_path, rows, answers, SETTINGS, TIMINGS, machine=MACHINE)
    said = f"12 of 17 before, 12 of 23 after. {tables.ARGUABLE_RECORD}"
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert said in text and said in page
    assert "(refused, arguable; rule: cannot know)" in text
    assert page.count('<b class="bad">arguable</b>') == text.count("refused, arguable") > 0
    assert (
        tables.arguable_sentence(made_up_answers(), "base", "tuned") == ""
    )  # no verdict has a class
    documents = " ".join((ROOT / "docs/evaluation.md").read_text().split())
    assert "12 of 15 arguable ones" in documents and "228 of 231 others" in documents


def test_examples_are_as_many_as_the_cells_say(folder):
    found = examples.cells(ANSWERS)
    table = tables.cell_table(found, examples.EACH)
    assert sum(int(line[2]) for line in table.lines) == len(ANSWERS) / 2
    drawn = examples.draw_examples(found)
    assert sum(int(line[3]) for line in table.lines) == len(drawn)
    text = (folder / "report.md").read_text()
    assert text.count("\n### ") == len(drawn)
