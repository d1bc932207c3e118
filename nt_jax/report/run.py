"""The report of a run: results.json, report.md and report.html from rows, answers and settings.

Nothing here measures: everything printed was handed in, so a report can be written again at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nt_jax.config.test_sets import Labels, labels_of
from nt_jax.eval.metrics import result
from nt_jax.eval.metrics.result import Answer, ResultRow, in_order
from nt_jax.eval.metrics.suf1 import ENTROPY_BOUNDS, su_f1_pairs
from nt_jax.report import examples, figures, neuron_panels, panels, tables, terminal
from nt_jax.runinfo import this_machine

SETTINGS = "settings.yaml"


@dataclass(frozen=True)
class Tuning:
    """What a report says of how a model was tuned; nothing where it was not.

    `neurons` has arrays layer, index, set, score and factor (see neuron_panels.layers), `history`
    the entries of metrics.jsonl, `strengths` and `lifts` those of strengths.jsonl and lifts.jsonl
    (see panels.strengths).
    """

    neurons: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    strengths: Sequence[Mapping[str, Any]] = ()
    lifts: Sequence[Mapping[str, Any]] = ()

    @property
    def before(self) -> Mapping[str, Any]:
        """Validation of the untuned model."""
        return next((row for row in self.history if row.get("epoch") == 0), {})

    @property
    def kept(self) -> Mapping[str, Any] | None:
        """Validation at the strength that was kept; None where an epoch's own factors were."""
        return next((row for row in self.strengths if row.get("kept")), None)

    def counts(self) -> dict[str, int]:
        """How many neurons each set has."""
        chosen = list(self.neurons.get("set", ()))
        return {str(kind): chosen.count(kind) for kind in in_order(chosen)}


def write_report(
    folder: Path,
    rows: Sequence[ResultRow],
    answers: Sequence[Answer],
    settings: Mapping[str, Any],
    timings: Mapping[str, float],
    tuning: Tuning | None = None,
    machine: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
    command: str = "",
) -> Path:
    """Write results.json, report.md, report.html, settings.yaml and figures/; report.md's path.

    `settings` is the resolved recipe as plain values, `timings` seconds per stage. `machine` is
    what runinfo.this_machine() gives, which is the default, with `notes` on the data, `stages` as
    in run.json and `source`, the model measured, where there are any, `labels` EvalConfig.labels,
    by default those of the sets that ship with us. `command` repeats the run with settings.yaml.
    """
    labels, tuning = labels or labels_of({}), tuning or Tuning()
    machine = machine or this_machine()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    result.write_rows(folder / "results.json", rows)
    context = _context(rows, answers, labels, settings, timings, tuning, machine)
    (folder / SETTINGS).write_text(f"{context['settings']}\n", encoding="utf-8")
    drawn = pictures(rows, answers, labels, tuning)
    links, inline = {}, {}
    for name, shown in drawn.items():
        links[name] = f"figures/{name}.png"
        (folder / links[name]).write_bytes(figures.panels_png(shown))
        inline[name] = [
            figures.panel_svg(panel, f"{name}-{number}") for number, panel in enumerate(shown)
        ]
    context |= {"command": command, "settings_file": SETTINGS}
    path = folder / "report.md"
    path.write_text(_render("report.md.jinja", context, links), encoding="utf-8")
    html = _render("report.html.jinja", context, inline)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return path


def pictures(
    rows: Sequence[ResultRow], answers: Sequence[Answer], labels: Labels, tuning: Tuning
) -> dict[str, list[figures.Panel]]:
    """Every picture that there is something for, by the name of its file."""
    harmful = {answer["dataset"]: bool(answer["harmful"]) for answer in answers}
    chosen = tuning.neurons if len(tuning.neurons.get("layer", ())) else None
    drawn = {
        "before_after": panels.bars(rows, harmful, labels),
        "lifts": panels.lifts(tuning.lifts),
        "strengths": panels.strengths(tuning.strengths, tuning.before),
        "layers": neuron_panels.layers(chosen) if chosen else [],
        "factors": neuron_panels.factors(chosen) if chosen else [],
        "tuning": panels.curves(tuning.history),
    }
    return {name: shown for name, shown in drawn.items() if shown}


def _context(
    rows: Sequence[ResultRow],
    answers: Sequence[Answer],
    labels: Labels,
    settings: Mapping[str, Any],
    timings: Mapping[str, float],
    tuning: Tuning,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the templates print, ready to print."""
    base, tuned = terminal.model_names(rows)
    model = machine.get("source") or settings.get("model", {}).get("source", "the model")
    lines = terminal.comparison(rows, labels, base, tuned)
    found, types = examples.cells(answers, base, tuned), tables.type_table(answers)
    names = [([labels[name] for name in pair], pair) for pair in su_f1_pairs(answers)]
    said = terminal.judge_names(rows)
    asked = settings.get("export", {}).get("strength")
    sides = terminal.names_in_words(base, tuned)
    return {
        "name": settings.get("name", "run"),
        "model": model,
        "headline": tables.headline(rows, answers),
        "lines": lines,
        "before_after": tables.before_after_table(lines, sides),
        "sides": sides,
        "interval_of": "after tuning" if sides[1] == "after" else f"of {tuned}",
        "noise": terminal.noise_sentence(rows, labels, base, tuned),
        "judges": terminal.judge_names(rows, hashes=True) or "none",
        "judge_error": " ".join(tables.MEASURED_ERROR.get(name, "") for name in said.split(", ")),
        "kappa": terminal.kappa_line(rows),
        "paper_tables": [
            (named, tables.paper_table(rows, pair, named, model)) for named, pair in names
        ],
        "bounds": ENTROPY_BOUNDS,
        "metric_table": tables.metric_table(rows, labels),
        "type_table": types if types.lines else None,
        "answer_count": len(answers),
        "answer_tokens": settings.get("eval", {}).get("max_new_tokens"),
        "cells": tables.cell_table(found, examples.EACH),
        "arguable": tables.arguable_sentence(answers, base, tuned),
        "several": bool(tables.answers_to(answers)),
        "examples": examples.draw_examples(found),
        "seed": examples.SEED,
        "neuron_counts": tuning.counts(),
        "strength": _strength(tuning, asked),
        "how_kept": _how_kept(tuning, asked),
        "strength_table": tables.strength_table(tuning.strengths, tuning.before),
        "lift_table": tables.lift_table(tuning.lifts),
        "lift": next((row for row in tuning.lifts if row.get("kept")), None),
    } | _made(settings, timings, machine, labels)


def _made(
    settings: Mapping[str, Any],
    timings: Mapping[str, float],
    machine: Mapping[str, Any],
    labels: Labels,
) -> dict[str, Any]:
    """What is printed about the making: settings, stages, machine, data."""
    return {
        "settings": yaml.safe_dump(dict(settings), sort_keys=False, width=100).strip(),
        "stage_table": tables.stage_table(timings, machine.get("stages", {})),
        "machine": machine,
        "notes": machine.get("notes", []),
        "overlap": _labelled(labels, machine.get("overlap", {})),
        "attack_overlap": _labelled(labels, machine.get("attack_overlap", {})),
    }


def _strength(tuning: Tuning, asked: float | None) -> str:
    """The strength that the numbers are at and who chose it; "" where it is an epoch's factors."""
    if asked is not None:
        return f"strength {asked:g}, chosen by export.strength"
    if tuning.kept is None:
        return ""
    return f"strength {tuning.kept['strength']:g}, as validation chose"


def _how_kept(tuning: Tuning, asked: float | None) -> str:
    """Why validation kept that strength; and which one the numbers are at where it was `asked`."""
    other = "" if asked is None else f" The numbers above are at {_strength(tuning, asked)}."
    if tuning.kept is None:
        return f"No strength that was tried beat the best epoch.{other}"
    mine = tuning.kept["strength"]
    said, limits = f"Kept: strength {mine:g},", "within the limits on refusals and on perplexity"
    if tuning.kept.get("score", 0.0) < 0:  # see nt_jax.train.validate.score
        why = "which comes nearest to the limits: none that was tried lies within them"
    elif len(tuning.strengths) == 1:
        why = f"the only one looked at, {limits}"
    elif any(row["strength"] > mine and row.get("score", -1.0) >= 0 for row in tuning.strengths):
        why = f"which scored best (the lesser of refusals under attack and direct ones) {limits}"
    else:
        why = f"the strongest {limits}"
    return f"{said} {why}.{other}"


def _labelled(labels: Labels, counts: Mapping[str, int]) -> dict[str, int]:
    return {labels[name]: count for name, count in counts.items()}


def _render(template: str, context: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    """One template filled in; HTML is escaped by jinja, Markdown by the filter `text`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nt_jax.report", "templates"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": examples.markdown_text, "escaped": examples.escaped}
    return environment.get_template(template).render(**context, pictures=drawn)
