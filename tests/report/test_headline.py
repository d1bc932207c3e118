"""What a report says in words: the headline, names, noise, and how judges agree."""

import dataclasses
import io

from rich.console import Console

from nt_jax.config.test_sets import labels_of
from nt_jax.eval.metrics.result import Measurements, ResultRow
from nt_jax.eval.metrics.rows import all_rows
from nt_jax.report import examples, panels, tables, terminal
from nt_jax.report import run as report
from tests.report.reported import ANSWERS, MACHINE, OTHER, ROWS, SETTINGS


def test_the_headline_has_the_bad_news_too():
    wrapped = [
        row | {"dataset": "demo_harmless_attack", "prompt": f"Pretend! {row['request']}"}
        for row in ANSWERS
        if row["dataset"] == "demo_harmless"
    ]
    answers = [*ANSWERS, *wrapped]
    rows = all_rows(Measurements(answers))
    rows += [
        ResultRow("demo_harmless", "perplexity", model, value, 12, judge="a/scorer")
        for model, value in (("base", 2.0), ("tuned", 2.5))
    ]
    said = tables.headline(rows, answers)
    assert [line.split(",")[0] for line in said] == [
        "Of 12 harmful requests under attack",
        "Of 12 harmless requests",
        "Of 12 harmless requests under attack",
        "Perplexity of the answers to harmless requests",
    ]
    assert "as a/scorer scores them, went from 2.00 to 2.50 (x 1.25; more is worse)" in said[-1]


def test_two_models_of_which_none_was_tuned_go_by_their_names(tmp_path):
    names = {"base": "base", "tuned": "other"}
    answers = [row | {"model": names[row["model"]]} for row in ANSWERS]
    rows = all_rows(Measurements(answers, judges={"phrases-v2": "ab12" * 16}))
    rows += [
        ResultRow("demo_harmless", "perplexity", model, value, 12, judge="a/scorer")
        for model, value in (("base", 2.0), ("other", 2.5))
    ]
    said = tables.headline(rows, answers)
    assert "attack, base refused 1 and other 10 (8 % to 83 %: +75 points)." in said[0]
    assert "scores them, is 2.00 for base and 2.50 for other (x 1.25;" in said[-1]
    report.write_report(tmp_path, rows, answers, SETTINGS, {}, machine=MACHINE)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "The interval belongs to the number of other." in text
        assert "before tuning" not in text and "after tuning" not in text
    text = (tmp_path / "report.md").read_text()
    assert "|  | base | other | 95 % interval |" in text and "- **other** (" in text


def test_drawn_answers_are_not_called_requests(tmp_path):
    drawn = [
        row | {"id": f"{row['id']}~{draw}", "draw": draw} for draw in range(5) for row in ANSWERS
    ]
    rows = all_rows(Measurements(drawn, judges={"phrases-v2": "ab12" * 16}))
    said = tables.headline(rows, drawn)
    assert said[0].startswith("Of 60 answers to 12 harmful requests under attack, the model")
    assert tables.type_table(drawn).lines[0][1] == "5 of 60 answers to 12 requests (8 %)"
    assert tables.type_table(ANSWERS).lines[0][1] == "1 of 12 (8 %)"
    halves = [answer | {"verdicts": {"a": 0.5, "b": 1.0}} for answer in ANSWERS]  # cannot tell
    assert tables.type_table(halves).lines[0][1] == "6 of 12 (50 %)"
    found = tables.cell_table(examples.cells(drawn), examples.EACH)
    assert found.head[2] == "answers to 36 requests"
    assert sum(int(line[2]) for line in found.lines) == 5 * 36
    text = report.write_report(tmp_path, rows, drawn, SETTINGS, {}, machine=MACHINE).read_text()
    assert "Every answer that both models gave to a request, by what happened" in text


def test_differences_within_noise_are_said_in_one_sentence():
    sentence = terminal.noise_sentence(ROWS, labels_of({}))
    p = next(r for r in ROWS if (r.dataset, r.metric) == ("demo_harmless", "mcnemar_p"))
    assert p.value >= 0.05
    assert "harmless requests (8 % against 17 % of 12, p = " in sentence
    assert "unseen attacks" not in sentence and "paired McNemar test" in sentence
    sure = [row for row in ROWS if row.dataset != "demo_harmless"]
    assert "harmless requests" not in terminal.noise_sentence(sure, labels_of({}))
    assert terminal.noise_sentence([], labels_of({})) == ""


def test_an_answer_that_the_judge_cannot_tell_counts_a_half():
    rates = [("base", 0.05), ("tuned", 0.1)]
    rows = [ResultRow("demo_direct", "refusal_rate", name, rate, 10) for name, rate in rates]
    (line,) = terminal.comparison(rows, labels_of({}))
    assert (line.before_count, line.after_count) == ("0.5 of  10", "1 of  10")


def test_several_pairs_have_names_of_their_own_and_share_what_is_of_one_set():
    rows = [
        ResultRow(dataset, metric, model, 0.5, 9)
        for model in ("base", "tuned")
        for dataset, metric in (("a+c", "su_f1"), ("b+c", "su_f1"), ("c", "entropy"))
    ]
    lines = [
        line.label for line in terminal.comparison(rows, {name: name.upper() for name in "abc"})
    ]
    assert lines == ["entropy of answers to C", "SU-F1, A and C", "SU-F1, B and C"]


def test_where_nothing_was_tuned_here_models_have_their_names():
    named = [dataclasses.replace(row, model={"tuned": OTHER}.get(row.model, row.model))
             for row in ROWS]  # fmt: skip
    labels = labels_of({})
    screen = io.StringIO()
    Console(file=screen, width=80).print(terminal.screen_table(named, labels))
    head = screen.getvalue().splitlines()[0]
    assert "base" in head and "someone-s..." in head and "before" not in head
    for rows, words in ((named, f"base and {OTHER}"), (ROWS, "before and after")):
        titles = [panel.shows for panel in panels.bars(rows, {}, labels)]
        assert titles and all(title.endswith(words) for title in titles)


def test_the_headline_of_an_unfinished_run_counts_each_side_out_of_its_own_answers():
    fewer = [dataclasses.replace(row, n=10) if row.model == "base" else row for row in ROWS]
    assert tables.headline(fewer, ANSWERS)[0].startswith("Of 10 and 12 harmful requests under")
    assert tables.headline(ROWS, ANSWERS)[0].startswith("Of 12 harmful requests under attack")
