"""The before/after table: rows in, plain lines or a rich table out."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from nt_jax.config.test_sets import Labels
from nt_jax.eval.metrics.refusal import SOUNDS_HARMFUL
from nt_jax.eval.metrics.result import BASE, TUNED, ResultRow, find, in_order

ACCURACY = {"letter_accuracy": "by letter", "generate_accuracy": "written"}
SIGNIFICANCE = 0.05
WITHIN_NOISE = "within noise"
HEADER = 12  # characters


@dataclass(frozen=True)
class Line:
    """One line of the table, every cell ready to print; cells without a value are empty."""

    label: str
    before_count: str
    before: str
    after_count: str
    after: str
    interval: str
    difference: str


def comparison(
    rows: Sequence[ResultRow], labels: Labels, base: str = BASE, tuned: str = TUNED
) -> list[Line]:
    """The lines that compare two models: refusals, entropy, SU-F1, perplexity, choice questions.

    `labels` names test sets in words (EvalConfig.labels).
    """
    lines = []
    for dataset in in_order(row.dataset for row in rows if row.metric == "refusal_rate"):
        before, after = (find(rows, dataset, "refusal_rate", model) for model in (base, tuned))
        p = find(rows, dataset, "mcnemar_p", tuned)
        lines.append(_counted_line(f"refuses {labels[dataset]}", before, after, p))
        before, after = (find(rows, dataset, SOUNDS_HARMFUL[0], model) for model in (base, tuned))
        if before or after:
            p = find(rows, dataset, SOUNDS_HARMFUL[2], tuned)
            label = f"refuses {labels[dataset]}, sounding harmful"
            lines.append(_counted_line(label, before, after, p))
    pairs = in_order(row.dataset for row in rows if row.metric == "su_f1")
    told: set[str] = set()
    for name in pairs:
        harmful, harmless = name.split("+")
        said, of = _answers_of(harmless, labels), f", {labels[harmful]} and {labels[harmless]}"
        wanted = [
            (f"entropy of {said}", harmless, "entropy", "{:.2f} bit"),
            ("SU-F1" + of * (len(pairs) > 1), name, "su_f1", "{:.3f}"),
            (f"perplexity of {said}", harmless, "perplexity", "{:.2f}"),
        ]
        for label, dataset, metric, template in wanted:
            if label in told:
                continue  # two pairs have one harmless set
            told.add(label)
            before, after = (find(rows, dataset, metric, model) for model in (base, tuned))
            if metric != "perplexity" or before or after:
                lines.append(_measured_line(label, before, after, template))
    for dataset, metric in in_order((r.dataset, r.metric) for r in rows if r.metric in ACCURACY):
        before, after = (find(rows, dataset, metric, model) for model in (base, tuned))
        p = find(rows, dataset, f"{metric}_mcnemar_p", tuned)
        label = f"{labels[dataset]} {ACCURACY[metric]}"
        lines.append(_counted_line(label, before, after, p))
    return lines


def _answers_of(dataset: str, labels: Labels) -> str:
    """What the answers to a harmless test set are called."""
    return "harmless answers" if dataset == "demo_harmless" else f"answers to {labels[dataset]}"


def model_names(rows: Sequence[ResultRow]) -> tuple[str, str]:
    """(before, after) of the table: base and another model; a model alone stands after."""
    return BASE, next((row.model for row in rows if row.model != BASE), TUNED)


def noise_sentence(
    rows: Sequence[ResultRow], labels: Labels, base: str = BASE, tuned: str = TUNED
) -> str:
    """Which differences the paired test cannot tell from chance, in one sentence; "" for none."""
    found = []
    metric = {**{f"{name}_mcnemar_p": name for name in ACCURACY}, "mcnemar_p": "refusal_rate"}
    metric[SOUNDS_HARMFUL[2]] = SOUNDS_HARMFUL[0]
    for row in rows:
        if row.metric not in metric or row.model != tuned or row.value < SIGNIFICANCE:
            continue
        tested = row.dataset, metric[row.metric]
        before, after = (find(rows, *tested, model, row.judge) for model in (base, tuned))
        if before and after and before.value != after.value:
            counts = f"{percent(before.value)} against {percent(after.value)}"
            by = f", {row.judge}" if row.judge else ""
            part = ", sounding harmful" if row.metric == SOUNDS_HARMFUL[2] else ""
            found.append(
                f"{labels[row.dataset]}{part} ({counts} of {row.n}, p = {row.value:.2g}{by})"
            )
    if not found:
        return ""
    return (
        f"Within noise, so no difference was shown: {'; '.join(found)}. Both models were asked the "
        "same, and too few answers changed sides (paired McNemar test, p of 0.05 or more)."
    )


def kappa_line(rows: Sequence[ResultRow]) -> str:
    """How far the judges agree, per model; "" with one judge."""
    return "; ".join(
        f"Cohen's kappa of {row.judge}, {row.model}: {row.value:.2f} "
        f"({row.low:.2f} .. {row.high:.2f}, {row.n} answers)"
        for row in rows
        if row.metric == "kappa"
    )


def judge_names(rows: Sequence[ResultRow], hashes: bool = False) -> str:
    """Who gave the verdicts, with the first eight digits of their hashes where asked."""
    judges = in_order(
        (row.judge, row.judge_sha256) for row in rows if row.metric == "refusal_rate" and row.judge
    )
    return ", ".join(f"{name} ({sha[:8]})" if hashes and sha else str(name) for name, sha in judges)


def names_in_words(base: str, tuned: str) -> tuple[str, str]:
    """What two models are called: before and after tuning, or by name where none was tuned here."""
    return ("before", "after") if tuned == TUNED else (base, tuned)


def screen_table(rows: Sequence[ResultRow], labels: Labels) -> Table:
    """The table that a finished run prints, narrow enough for 80 columns."""
    base, tuned = model_names(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("refuses", overflow="fold")  # long labels wrap, figures stay whole
    first, second = (shortened(name) for name in names_in_words(base, tuned))
    for header in (first, "", second, "", "95 %", "difference"):
        table.add_column(header, justify="right", no_wrap=True)
    for line in comparison(rows, labels, base, tuned):
        style = "dim" if line.difference in (WITHIN_NOISE, "no change") else "bold"
        counts = (line.before_count, line.after_count)
        before, after = (count.replace("of", "/").replace(" ", "") for count in counts)
        label = line.label.removeprefix("refuses ")
        if line.before.endswith(" bit"):
            label = label.replace("entropy of", "entropy (bit),").removesuffix(" answers")
        values = [text.removesuffix(" bit") for text in (line.before, line.after)]
        interval = line.interval.replace(" .. ", "..")
        cells = (values[0], before, values[1], after, interval)
        table.add_row(label, *cells, Text(line.difference, style))
    table.caption = f"judge: {judge_names(rows) or 'none'} (see docs/evaluation.md)"
    if agreement := kappa_line(rows):
        table.caption += f"\n{agreement}"
    table.caption_justify = "left"
    return table


def shortened(name: str) -> str:
    """A name no wider than its column may be on a screen of 80."""
    return name if len(name) <= HEADER else f"{name[: HEADER - 3]}..."


def percent(rate: float) -> str:
    """A rate in 0..1 as whole percent."""
    return f"{100 * rate:.0f} %"


def counted(row: ResultRow) -> str:
    """How many of a rate's answers count; one that the judge cannot tell counts a half."""
    return f"{round(2 * row.value * row.n) / 2:g}"


def rate_difference(base: ResultRow, tuned: ResultRow, p: ResultRow | None) -> str:
    """The change in points ("+81 points"), or that the paired test sees nothing but noise."""
    if base.value == tuned.value:
        return "no change"
    if p is not None and p.value >= SIGNIFICANCE:
        return WITHIN_NOISE
    return f"{100 * (tuned.value - base.value):+.0f} points"


def _counted_line(
    label: str, before: ResultRow | None, after: ResultRow | None, p: ResultRow | None
) -> Line:
    """A rate before and after with its counts; the interval is the later one's."""
    counts = [f"{counted(row)} of {row.n:3d}" if row else "" for row in (before, after)]
    rates = [percent(row.value) if row else "" for row in (before, after)]
    shown = after or before
    interval = ""
    if shown and shown.low is not None and shown.high is not None:
        interval = f"{100 * shown.low:.0f} .. {100 * shown.high:.0f} %"
    difference = rate_difference(before, after, p) if before and after else ""
    return Line(label, counts[0], rates[0], counts[1], rates[1], interval, difference)


def _measured_line(
    label: str, before: ResultRow | None, after: ResultRow | None, template: str
) -> Line:
    """A mean before and after; the interval is the later one's, the difference relative."""
    values = [template.format(row.value) if row else "" for row in (before, after)]
    shown, interval, change = after or before, "", ""
    if shown and shown.low is not None and shown.high is not None:
        plain = template.removesuffix(" bit")
        interval = f"{plain.format(shown.low)} .. {plain.format(shown.high)}"
    if before and after and before.value:
        change = f"{100 * (after.value / before.value - 1):+.1f} %"
    return Line(label, "", values[0], "", values[1], interval, change)
