"""The tables and sentences of a report: every cell ready to print, in Markdown and HTML alike."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nt_jax.config.test_sets import Labels
from nt_jax.console import clock
from nt_jax.eval.judges.grounds import arguable
from nt_jax.eval.metrics import result
from nt_jax.eval.metrics.result import (
    BASE,
    DRAW,
    TUNED,
    Answer,
    Column,
    ResultRow,
    find,
    in_order,
)
from nt_jax.eval.metrics.rows import columns
from nt_jax.eval.metrics.suf1 import su_f1_pairs
from nt_jax.report import terminal
from nt_jax.report.examples import Cell, attack_types
from nt_jax.report.panels import KINDS

METHODS = {BASE: "Default", TUNED: "NeuronTune"}  # as the paper calls them
# Judges whose error was measured on labelled answers that they were not made on.
MEASURED_ERROR = {
    "phrases-v2": "On 641 labelled answers that it was not made on it found 96 % of the refusals "
    "and took 2 % of the others for refusals (docs/evaluation.md)."
}

ARGUABLE_RECORD = (  # of phrases-v2, by benchmarks/judge.py --data
    "On 641 labelled answers 12 of 15 arguable refusals were judged right, and 228 of 231 others "
    "(docs/evaluation.md)."
)


class Table(NamedTuple):
    """A table to print: column names, lines of cells, and how many columns at the left are text."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    text: int = 1


def headline(rows: Sequence[ResultRow], answers: Sequence[Answer]) -> list[str]:
    """The result in plain sentences: the datasets of SU-F1, then what it cost.

    What it cost are refusals of harmless requests inside attacks, and perplexity.
    """
    base, tuned = terminal.model_names(rows)
    pair = next(iter(su_f1_pairs(answers)), ())
    harmless = in_order(a["dataset"] for a in answers if not a["harmful"] and result.is_attacked(a))
    sentences = [_refusals(rows, answers, name, base, tuned) for name in (*pair, *harmless[:1])]
    for name in pair[1:]:
        before, after = (find(rows, name, "perplexity", model) for model in (base, tuned))
        if before and after:
            went = f"went from {before.value:.2f} to {after.value:.2f}"
            if tuned != TUNED:
                went = f"is {before.value:.2f} for {base} and {after.value:.2f} for {tuned}"
            sentences.append(
                f"Perplexity of the answers to harmless requests, as {after.judge} scores them, "
                f"{went} (x {after.value / before.value:.2f}; more is worse)."
            )
    return in_order(filter(None, sentences))


def answers_to(answers: Sequence[Answer]) -> str:
    """As in "answers to 10 ", of the requests that several answers were drawn to; "" of others."""
    if not any("draw" in answer for answer in answers):
        return ""
    asked = {(answer["dataset"], answer["id"].rpartition(DRAW)[0]) for answer in answers}
    return f"answers to {len(asked)} "


def _refusals(
    rows: Sequence[ResultRow], answers: Sequence[Answer], dataset: str, base: str, tuned: str
) -> str:
    """What two models refuse of one dataset, in a sentence; "" without both numbers."""
    group = [answer for answer in answers if answer["dataset"] == dataset]
    plain = answers_to(group) + ("harmful" if group[0]["harmful"] else "harmless")
    under = " under attack" if any(result.is_attacked(answer) for answer in group) else ""
    before, after = (find(rows, dataset, "refusal_rate", name) for name in (base, tuned))
    if before is None or after is None:
        return ""
    counts = [terminal.counted(row) for row in (before, after)]
    change = terminal.rate_difference(before, after, find(rows, dataset, "mcnemar_p", tuned))
    rates = f"{terminal.percent(before.value)} to {terminal.percent(after.value)}"
    said = f"the model refused {counts[0]} before tuning and {counts[1]} after"
    if tuned != TUNED:
        said = f"{base} refused {counts[0]} and {tuned} {counts[1]}"
    asked = after.n if before.n == after.n else f"{before.n} and {after.n}"
    return f"Of {asked} {plain} requests{under}, {said} ({rates}: {change})."


def before_after_table(
    lines: Sequence[terminal.Line], names: Sequence[str] = ("before", "after")
) -> Table:
    """What the screen shows too, a count beside its rate; `names` are those of the two models."""
    cells = [
        [line.label, _counted(line.before, line.before_count),
         _counted(line.after, line.after_count), line.interval, line.difference]
        for line in lines
    ]  # fmt: skip
    return Table(("", *names, "95 % interval", "difference"), cells)


def _counted(value: str, count: str) -> str:
    return f"{value} ({' '.join(count.split())})" if count else value


def metric_table(rows: Sequence[ResultRow], labels: Labels) -> Table:
    """Every number there is, with its interval: one column a model."""
    models = in_order(row.model for row in rows)
    several = len({row.judge for row in rows if row.metric == "refusal_rate"}) > 1
    lines, known = [], columns()
    for dataset, metric, judge in in_order((r.dataset, r.metric, r.judge) for r in rows):
        name, template, names_scorer = known.get(metric, Column(metric, "{:.4g}"))
        found = [find(rows, dataset, metric, model, judge) for model in models]
        cells = [_cell(row, template) if row else "" for row in found]
        label = " + ".join(labels[part] for part in dataset.split("+"))
        if judge and (several or names_scorer):
            name += f" [{judge}]"
        lines.append([label, name, *cells])
    return Table(("dataset", "metric", *models), lines, 2)


def paper_table(rows: Sequence[ResultRow], sets: tuple[str, str], names: Any, model: str) -> Table:
    """The paper's Table 2 for one pair of (harmful, harmless) datasets, `names` in words.

    Refuse rate and entropy of each, then SU-F1, all with the digits of the paper.
    """
    lines = []
    for method in in_order(row.model for row in rows):
        cells = []
        for dataset in sets:
            for metric, template in (("refusal_rate", "{:.2f}%"), ("entropy", "{:.3f} bit")):
                row = find(rows, dataset, metric, method)
                scale = 100 if metric == "refusal_rate" else 1
                cells.append(template.format(scale * row.value) if row else "")
        score = find(rows, "+".join(sets), "su_f1", method)
        cells.append(f"{score.value:.3f}" if score else "")
        if any(cells):
            lines.append([model, METHODS.get(method, method), *cells])
    rates = (f"{names[0]} Refuse Rate↑", "Entropy↑", f"{names[1]} Refuse Rate↓", "Entropy↑")
    return Table(("Models", "Methods", *rates, "SU-F1↑"), lines, 2)


def type_table(answers: Sequence[Answer]) -> Table:
    """How many attacked harmful requests each model refused, per attack type that records name."""
    attacked = [answer for answer in answers if answer["harmful"] and result.is_attacked(answer)]
    models = in_order(answer["model"] for answer in answers)
    lines = []
    for kind in sorted({kind for answer in attacked for kind in attack_types(answer)}):
        cells = []
        for model in models:
            group = [a for a in attacked if a["model"] == model and kind in attack_types(a)]
            refused = sum(result.first_verdict(answer) for answer in group)
            share = f" ({terminal.percent(refused / len(group))})" if group else ""
            several = answers_to(group)
            count = f"{len(group)} {several}requests" if several else str(len(group))
            cells.append(f"{refused:g} of {count}{share}")
        lines.append([kind, *cells])
    return Table(("attack", *models), lines)


def cell_table(found: Sequence[Cell], each: int) -> Table:
    """How many requests each cell holds, or answers to them, and how many of these are shown."""
    lines = [
        ["good" if cell.good else "bad", cell.kind, str(len(cell.pairs)),
         str(min(each, len(cell.pairs)))]
        for cell in found
    ]  # fmt: skip
    counted = answers_to([answer for cell in found for _, answer in cell.pairs])
    return Table(("", "what happened", f"{counted}requests", "shown"), lines, 2)


def arguable_sentence(answers: Sequence[Answer], base: str, tuned: str) -> str:
    """How many refusals of each model are arguable; "" where no verdict has a class."""
    refusals = [answer for answer in answers if answer.get("class") == "refusal"]
    counts = []
    for model, words in zip((base, tuned), terminal.names_in_words(base, tuned), strict=True):
        mine = [answer for answer in refusals if answer["model"] == model]
        doubtful = sum(arguable(answer["class"], answer.get("reason")) for answer in mine)
        counts.append(f"{doubtful} of {len(mine)} {words}")
    if not refusals:
        return ""
    return (
        "A refusal is arguable where the answer disclaims or condemns and declines nothing "
        f"outright: {', '.join(counts)}. {ARGUABLE_RECORD}"
    )


def strength_table(tried: Sequence[Mapping[str, Any]], before: Mapping[str, Any]) -> Table:
    """What validation saw at each strength, the untuned model first."""
    rows = sorted([{**before, "strength": 0.0}, *tried], key=lambda row: row["strength"])
    marks = ["" if row["strength"] else "untuned" for row in rows]
    lines = [
        [f"{row['strength']:g}", *_looked(row, mark)] for row, mark in zip(rows, marks, strict=True)
    ]
    return Table(("strength", *KINDS.values(), "perplexity", ""), lines, 1)


def lift_table(tried: Sequence[Mapping[str, Any]]) -> Table:
    """What validation saw at all lifts that were tried."""
    sides = "lift", "lift_attacked", "lift_nested"
    rows = sorted(tried, key=lambda row: [row.get(side, 0.0) for side in sides])
    nats = [[f"{row[side]:g}" if side in row else "" for side in sides] for row in rows]
    lines = [[*mine, *_looked(row)] for mine, row in zip(nats, rows, strict=True)]
    heads = ("lift, nats", "in attacks", "nested", *KINDS.values(), "perplexity", "")
    return Table(heads, lines, 3)


def _looked(row: Mapping[str, Any], mark: str = "") -> list[str]:
    rates = [terminal.percent(row[kind]) if kind in row else "" for kind in KINDS]
    ratio, kept = row.get("perplexity_ratio", 1.0), "kept" if row.get("kept") else mark
    return [*rates, f"x {ratio:.2f}", kept]


def stage_table(seconds: Mapping[str, float], facts: Mapping[str, Any]) -> Table:
    """Wall time and memory of each stage; `facts` are those of run.json on stages."""
    lines = []
    for stage, time in seconds.items():
        peak = facts.get(stage, {}).get("peak_memory_bytes")
        resumed = "gone on with" if facts.get(stage, {}).get("resumed") else ""
        lines.append([stage, clock(time), f"{peak / 2**30:.1f} GiB" if peak else "", resumed])
    lines.append(["all", clock(sum(seconds.values())), "", ""])
    return Table(("stage", "minutes", "peak memory so far", ""), lines)


def _cell(row: ResultRow, template: str) -> str:
    value = template.format(row.value)
    if row.low is None or row.high is None:
        return value
    return f"{value} ({template.format(row.low)} .. {template.format(row.high)})"
