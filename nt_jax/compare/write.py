"""The comparison on disk: results.json, comparison.md, and each table as CSV and LaTeX."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nt_jax.attribution.store import load_neurons
from nt_jax.compare.method import Method
from nt_jax.compare.methods.ablations import first_factors
from nt_jax.compare.paper import PAIRS, figures, paper_model
from nt_jax.compare.render import Cell, Column, Table, csv_text, latex, markdown
from nt_jax.compare.results import Results
from nt_jax.compare.search import CRITERIA, Chosen, budget
from nt_jax.compare.tables import build_tables, mean_label, random_draws
from nt_jax.compare.trade_off import FIGURE, explained, points, trade_off_png
from nt_jax.config.evaluation import MOST_SETTINGS
from nt_jax.config.registry import METHODS
from nt_jax.config.schema import RunConfig
from nt_jax.eval.measure import result_rows
from nt_jax.eval.metrics.average import text_rows
from nt_jax.eval.metrics.result import BASE, Answer, ResultRow, in_order, is_attacked, write_rows
from nt_jax.eval.metrics.suf1 import su_f1_pairs
from nt_jax.models.config import ModelConfig
from nt_jax.report.terminal import judge_names
from nt_jax.seal import reading

DEFAULT = "Default"  # what the paper calls the untuned model


def write_comparison(
    config: RunConfig,
    model: ModelConfig,
    numbers: Path,
    found: Sequence[Chosen],
    methods: Mapping[str, Method],
    left_out: Mapping[str, str],
    select: Path,
    folder: Path,
) -> str:
    """Everything for one run into `folder`, from the merged numbers; what to say about it."""
    rows, answers = result_rows(numbers, config.seed)
    wanted = config.compare.tables
    labels = {name: method.label for name, method in methods.items()}
    pairs = su_f1_pairs(answers)
    under_attack = {a["dataset"] for a in answers if is_attacked(a)}
    rows += ability_rows(answers, pairs[0], config.seed)
    write_rows(folder / "results.json", rows)
    (folder / "search.json").write_text(
        json.dumps({chosen.method: chosen.trials for chosen in found}, indent=2), encoding="utf-8"
    )
    results = Results(
        rows,
        {BASE: DEFAULT, **labels},
        config.eval.labels,
        pairs[0],
        harmful={a["dataset"]: a["harmful"] for a in answers},
        attacked={a["dataset"]: a["dataset"] in under_attack for a in answers},
        model=paper_model(config.model.source, model.layers, model.width),
        reasons=json.loads((numbers / "scores.json").read_text(encoding="utf-8"))["not_measured"],
        begun={a["dataset"] for a in answers if a.get("prefill")},
        costs={chosen.method: (chosen.learned, chosen.seconds) for chosen in found},
        first_factors=first_factors(config.tune),
    )
    possible = [n for n in wanted if n != "6" or PAIRS["6"] in pairs]
    compared = [name for name in labels if name in METHODS]
    tables = build_tables(results, possible, compared)
    past = [labels[chosen.method] for chosen in found if chosen.past_bound]
    draws = random_draws(labels)
    if any(labels[draw] in past for draw in draws):
        past.append(mean_label(draws))
    tables = [dataclasses.replace(table, past_bound=past) for table in tables]
    for table in tables:
        name = f"table{table.number}"
        (folder / f"{name}.csv").write_text(csv_text(table), encoding="utf-8")
        (folder / f"{name}.tex").write_text(latex(table), encoding="utf-8")
    kept = [dataclasses.asdict(table) for table in tables]
    (folder / "tables.json").write_text(json.dumps(kept), encoding="utf-8")
    text = "\n".join(markdown(table) for table in tables)
    parts = [f"# Comparison: {config.name}\n", about(config, results, rows), text]
    if "6" in wanted and "6" not in possible:
        parts.append(f"Table 6 needs {' and '.join(PAIRS['6'])} in eval.datasets.\n")
    parts += [f"{label} is left out: {reason}.\n" for label, reason in left_out.items()]
    parts.append(trade_off_section(results, [BASE, *compared], folder))
    parts += [search_section(config, found, methods), layers_section(results, select, folder)]
    (folder / "comparison.md").write_text("\n".join(parts), encoding="utf-8")
    return f"{len(rows)} numbers, tables {', '.join(table.number for table in tables)}"


def read_tables(folder: Path) -> list[Table]:
    """The tables that `write_comparison` wrote."""
    with reading(folder / "tables.json"):
        tables = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
        for table in tables:
            table["columns"] = [Column(**column) for column in table["columns"]]
            table["rows"] = [(name, [Cell(**cell) for cell in row]) for name, row in table["rows"]]
        return [Table(**table) for table in tables]


def ability_rows(answers: Sequence[Answer], pair: tuple[str, str], seed: int) -> list[ResultRow]:
    """Table 3's fluency and entropy of every model that answered both test sets of the pair."""
    rows = []
    for model in in_order(answer["model"] for answer in answers):
        mine = [answer for answer in answers if answer["model"] == model]
        groups = [[answer for answer in mine if answer["dataset"] == name] for name in pair]
        if all(groups):
            rows += text_rows(model, groups[0], groups[1], seed)
    return rows


def about(config: RunConfig, results: Results, rows: Sequence[ResultRow]) -> str:
    """How to read the tables: what was asked, who judged, and what of the paper stands beside."""
    sets = " and ".join(results.sets[name] for name in results.pair)
    lines = [
        f"Model {config.model.source}, seed {config.seed}, answers of at most "
        f"{config.eval.max_new_tokens} tokens, judge {judge_names(rows) or 'none'}. SU-F1 is over "
        f"{sets}. In brackets: 95 % interval and number of answers.\n"
    ]
    if results.compared:
        lines.append(
            f"Beside ours stand the paper's figures for {results.compared}; it judged with its own "
            "classifier, so they are comparable only as far as the judges agree.\n"
        )
    elif results.model:
        lines.append(
            f"The paper measured {results.model} on SafeEdit and Alpaca; these are other test "
            "sets, so its figures of tables 1 to 5 and 7 are not set beside.\n"
        )
    return "\n".join(lines)


def search_section(
    config: RunConfig, found: Sequence[Chosen], methods: Mapping[str, Method]
) -> str:
    """The budget, and what each method made of it."""
    settings, most = config.compare, budget(config)
    labels = {name: method.label for name, method in methods.items()}
    cut = f"at most {settings.validation} of each kind" if settings.validation else "all"
    lines = [
        "## How settings were chosen\n",
        f"Each method may try {most} settings on validation requests ({cut}: attacked, "
        f"direct, harmless), never on a test set. Criterion: {CRITERIA[settings.criterion]}. A "
        "tuning that has itself chosen an epoch or a strength has used up as many trials. The "
        "thresholds of SCANS and CAVGAN and the layer of CAVGAN are read off the states of the "
        "same prompts, and count as no trial. Variants of tables 1, 4 and 7 keep to the method "
        "that they vary; a published setting is taken as it is.\n",
        "| | tried | best setting | score | refuses attacks | refuses direct | refuses harmless |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for chosen in found:
        best = next(row for row in chosen.trials if row["setting"] == chosen.setting)
        setting = methods[chosen.method].words(chosen.setting) or "-"
        rates = [f"{best[f'refusal_{kind}']:.0%}" for kind in ("attack", "direct", "harmless")]
        lines.append(
            f"| {labels[chosen.method]} | {chosen.tried} | {setting} | {chosen.score:.3f} | "
            f"{' | '.join(rates)} |"
        )
    if over := [labels[c.method] for c in found if c.tried > most]:
        lines.append(
            f"\n{', '.join(over)} tried more than that, by the validations inside their tuning "
            "(tune.validate_every, tune.lifts, tune.strengths): their rows are favoured. A higher "
            f"compare.search ({MOST_SETTINGS} at most) or fewer validations there make the "
            "budgets equal."
        )
    return "\n".join([*lines, ""])


def trade_off_section(results: Results, models: Sequence[str], folder: Path) -> str:
    """The figure of what a method refuses rightly and wrongly; "" where no sets make one."""
    found = points(results, models)
    if not found:
        return ""
    (folder / FIGURE).write_bytes(trade_off_png(found))
    return f"## Refused rightly and wrongly\n\n{explained(results)}\n\n![trade-off]({FIGURE})\n"


def layers_section(results: Results, select: Path, folder: Path) -> str:
    """Figure 3: where the chosen neurons lie."""
    neurons, _ = load_neurons(select / "neurons.csv")
    shutil.copyfile(select / "layers.png", folder / "figure3.png")
    said = []
    for name, mask_P in (("safety", neurons.is_safety_P), ("utility", ~neurons.is_safety_P)):
        per_layer_L = np.bincount(neurons.layer_P[mask_P])
        said.append(
            f"most {name} neurons: layer {per_layer_L.argmax()} ({per_layer_L.max()} of "
            f"{int(mask_P.sum())})"
        )
    theirs, paper = figures()["figure3"], ""
    if results.model == theirs["model"]:
        safety, utility = theirs["max_safety"], theirs["max_utility"]
        paper = (
            f" The paper, with {theirs['neurons_each']} of each: safety layer {safety['layer']} "
            f"({safety['count']}), utility layer {utility['layer']} ({utility['count']})."
        )
    return (
        f"## Figure 3: neurons per layer\n\n{'; '.join(said)}.{paper}\n\n![layers](figure3.png)\n"
    )
