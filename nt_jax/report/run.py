"""The report of a run: results.json, report.md and report.html from rows, answers and settings.

Nothing here measures: everything printed was handed in, so a report can be written again at once.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nt_jax.config.test_sets import Labels, labels_of
from nt_jax.console import clock
from nt_jax.eval.metrics import result
from nt_jax.eval.metrics.result import BASE, TUNED, Answer, Column, ResultRow, find, in_order
from nt_jax.eval.metrics.rows import columns
from nt_jax.eval.metrics.suf1 import ENTROPY_BOUNDS, su_f1_pairs
from nt_jax.report import examples, figures, terminal
from nt_jax.report.examples import attack_types
from nt_jax.runinfo import this_machine

EXAMPLES = 20
METHODS = {BASE: "Default", TUNED: "NeuronTune"}  # as the paper calls them


def write_report(
    folder: Path,
    rows: Sequence[ResultRow],
    answers: Sequence[Answer],
    settings: Mapping[str, Any],
    timings: Mapping[str, float],
    neurons: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    machine: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
) -> Path:
    """Write results.json, report.md, report.html and figures/*.png; returns report.md's path.

    `settings` is the resolved recipe as plain values, `timings` seconds per stage. `neurons` has
    arrays layer, index, set, score (see figures.layers_png), `history` the entries of
    metrics.jsonl (see figures.curves_png), `machine` what runinfo.this_machine() gives, which is
    the default, with `notes` on the data where there are any, `labels` EvalConfig.labels, by
    default those of the sets that ship with us.
    """
    labels = labels_of({}) if labels is None else labels
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    result.write_rows(folder / "results.json", rows)
    pictures = {}
    if any(row.metric == "refusal_rate" for row in rows):
        harmful = {answer["dataset"]: bool(answer["harmful"]) for answer in answers}
        pictures["before_after"] = figures.bars_png(rows, harmful, labels)
    if neurons is not None and len(neurons["layer"]):
        pictures["layers"] = figures.layers_png(neurons)
    if curves := figures.curves_png(history):
        pictures["tuning"] = curves
    for name, png in pictures.items():
        (folder / "figures" / f"{name}.png").write_bytes(png)
    machine = machine or this_machine()
    context = _context(rows, answers, labels, settings, timings, neurons, machine)
    links = {name: f"figures/{name}.png" for name in pictures}
    encoded = {name: base64.b64encode(png).decode() for name, png in pictures.items()}
    embedded = {name: f"data:image/png;base64,{png}" for name, png in encoded.items()}
    path = folder / "report.md"
    path.write_text(_render("report.md.jinja", context, links), encoding="utf-8")
    html = _render("report.html.jinja", context, embedded)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return path


def headline(rows: Sequence[ResultRow], answers: Sequence[Answer]) -> list[str]:
    """The result in plain sentences, about the two datasets that SU-F1 is made of."""
    sentences = []
    base, tuned = terminal.model_names(rows)
    for dataset in next(iter(su_f1_pairs(answers)), ()):
        group = [answer for answer in answers if answer["dataset"] == dataset]
        plain = "harmful requests" if group[0]["harmful"] else "harmless requests"
        under = " under attack" if any(result.is_attacked(answer) for answer in group) else ""
        before, after = (find(rows, dataset, "refusal_rate", name) for name in (base, tuned))
        if before is None or after is None:
            continue
        counts = [f"{row.value * row.n:.0f}" for row in (before, after)]
        change = terminal.rate_difference(before, after, find(rows, dataset, "mcnemar_p", tuned))
        rates = f"{terminal.percent(before.value)} to {terminal.percent(after.value)}"
        sentences.append(
            f"Of {after.n} {plain}{under}, the model refused {counts[0]} before tuning and "
            f"{counts[1]} after ({rates}: {change})."
        )
    return sentences


def metric_table(rows: Sequence[ResultRow], labels: Labels) -> list[tuple[str, str, list[str]]]:
    """(dataset, metric, one cell a model) for every number there is, intervals included."""
    models = in_order(row.model for row in rows)
    several = len({row.judge for row in rows if row.metric == "refusal_rate"}) > 1
    table, known = [], columns()
    for dataset, metric, judge in in_order((r.dataset, r.metric, r.judge) for r in rows):
        name, template, names_scorer = known.get(metric, Column(metric, "{:.4g}"))
        found = [find(rows, dataset, metric, model, judge) for model in models]
        cells = [_cell(row, template) if row else "" for row in found]
        label = " + ".join(labels[part] for part in dataset.split("+"))
        if judge and (several or names_scorer):
            name += f" [{judge}]"
        table.append((label, name, cells))
    return table


def paper_table(rows: Sequence[ResultRow], sets: tuple[str, str]) -> list[tuple[str, list[str]]]:
    """(method, cells) of the paper's Table 2 for one pair of (harmful, harmless) datasets.

    Cells: refuse rate and entropy of each, then SU-F1, all with the digits of the paper.
    """
    lines = []
    for name in in_order(row.model for row in rows):
        cells = []
        for dataset in sets:
            for metric, template in (("refusal_rate", "{:.2f}%"), ("entropy", "{:.3f} bit")):
                row = find(rows, dataset, metric, name)
                scale = 100 if metric == "refusal_rate" else 1
                cells.append(template.format(scale * row.value) if row else "")
        score = find(rows, "+".join(sets), "su_f1", name)
        cells.append(f"{score.value:.3f}" if score else "")
        if any(cells):
            lines.append((METHODS.get(name, name), cells))
    return lines


def type_table(answers: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    """(attack type, "refused of n" per model) over the attacked harmful answers that name types."""
    attacked = [answer for answer in answers if answer["harmful"] and result.is_attacked(answer)]
    models = in_order(answer["model"] for answer in answers)
    table = []
    for kind in sorted({kind for answer in attacked for kind in attack_types(answer)}):
        cells = []
        for model in models:
            group = [a for a in attacked if a["model"] == model and kind in attack_types(a)]
            refused = sum(bool(answer["refused"]) for answer in group)
            share = f" ({terminal.percent(refused / len(group))})" if group else ""
            cells.append(f"{refused} of {len(group)}{share}")
        table.append((kind, cells))
    return table


def _context(
    rows: Sequence[ResultRow],
    answers: Sequence[Answer],
    labels: Labels,
    settings: Mapping[str, Any],
    timings: Mapping[str, float],
    neurons: Mapping[str, Any] | None,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the templates print, ready to print."""
    chosen = list(neurons["set"]) if neurons else []
    base, tuned = terminal.model_names(rows)
    models = in_order(row.model for row in rows)
    return {
        "name": settings.get("name", "run"),
        "model": settings.get("model", {}).get("source", "the model"),
        "headline": headline(rows, answers),
        "lines": terminal.comparison(rows, labels, base, tuned),
        "noise": terminal.noise_sentence(rows, labels, base, tuned),
        "judges": terminal.judge_names(rows, hashes=True) or "none",
        "kappa": terminal.kappa_line(rows),
        "paper_tables": [
            ([labels[name] for name in pair], paper_table(rows, pair))
            for pair in su_f1_pairs(answers)
        ],
        "bounds": ENTROPY_BOUNDS,
        "models": models,
        "metric_table": metric_table(rows, labels),
        "type_table": type_table(answers),
        "type_models": in_order(answer["model"] for answer in answers),
        "answer_count": len(answers),
        "answer_tokens": settings.get("eval", {}).get("max_new_tokens"),
        "examples": examples.choose_examples(answers, EXAMPLES, base, tuned),
        "disagreements": examples.count_disagreements(answers, base, tuned),
        "neuron_counts": {str(kind): chosen.count(kind) for kind in in_order(chosen)},
        "settings": yaml.safe_dump(dict(settings), sort_keys=False, width=100).strip(),
        "timings": [(stage, clock(seconds)) for stage, seconds in timings.items()],
        "total": clock(sum(timings.values())),
        "machine": machine,
        "notes": machine.get("notes", []),
        "overlap": _labelled(labels, machine.get("overlap", {})),
        "attack_overlap": _labelled(labels, machine.get("attack_overlap", {})),
    }


def _labelled(labels: Labels, counts: Mapping[str, int]) -> dict[str, int]:
    return {labels[name]: count for name, count in counts.items()}


def _render(template: str, context: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """One template filled in; HTML is escaped by jinja, Markdown by the filter `text`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nt_jax.report", "templates"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = examples.markdown_text
    return environment.get_template(template).render(**context, pictures=pictures)


def _cell(row: ResultRow, template: str) -> str:
    value = template.format(row.value)
    if row.low is None or row.high is None:
        return value
    return f"{value} ({template.format(row.low)} .. {template.format(row.high)})"
