"""The paper's tables from measured rows: which number stands where, beside which of the paper's.

Everything here takes numbers and text only; what was answered and judged lies in files already.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from nt_jax.compare.paper import PAIRS, paper_row
from nt_jax.compare.render import Cell, Column, Table
from nt_jax.compare.results import Results
from nt_jax.eval.metrics.result import BASE, in_order

PERCENT, BITS = "{:.2f}%", "{:.3f}"
PINPOINTING = "w/o Neuron Pinpointing"
SOUNDS_HARMFUL = "sounds_harmful_rate"
LETTER, WRITTEN = "letter_accuracy", "generate_accuracy"


def main_columns(results: Results, pair: tuple[str, str]) -> list[Column]:
    """Refusals and entropies of a pair of test sets, and SU-F1: what most tables show."""
    harmful, harmless = (results.sets[name] for name in pair)
    return [
        Column(f"refuses {harmful}", PERCENT, "higher"),
        Column(f"entropy, {harmful} (bit)", BITS, "higher"),
        Column(f"refuses {harmless}", PERCENT, "lower"),
        Column(f"entropy, {harmless} (bit)", BITS, "higher"),
        Column("SU-F1", BITS, "higher"),
    ]


def main_cells(
    results: Results, pair: tuple[str, str], model: str, paper: Mapping[str, float]
) -> list[Cell]:
    """The cells below `main_columns`; `paper` has the paper's row by its own field names."""
    cells = []
    for dataset in pair:
        for metric, end, scale in (("refusal_rate", "refusal", 100), ("entropy", "entropy", 1)):
            name = next((key for key in paper if key.startswith(dataset) and key.endswith(end)), "")
            cells.append(results.cell(dataset, metric, model, scale, paper.get(name)))
    return [*cells, results.cell("+".join(pair), "su_f1", model, 1, paper.get("su_f1"))]


def method_table(results: Results, models: Sequence[str], number: str = "2") -> Table:
    """Table 2 (or 6, on its own test sets): every method, all test sets, perplexity, costs."""
    pair = PAIRS["6"] if number == "6" else results.pair
    known = results.model if number == "6" else results.compared
    others = [] if number == "6" else [d for d in results.harmful if d not in pair]
    columns = main_columns(results, pair)
    for dataset in others:
        better = "higher" if results.harmful[dataset] else "lower"
        columns.append(Column(f"refuses {results.sets[dataset]}", PERCENT, better))
    mixed = [d for d in (*pair, *others) if measured(results, d, SOUNDS_HARMFUL)]
    for dataset in mixed:
        columns.append(Column(f"{results.sets[dataset]}, sounding harmful", PERCENT, "lower"))
    columns.append(Column(f"perplexity, {results.sets[pair[1]]}", "{:.2f}", "lower"))
    costs = number == "2" and bool(results.costs)
    if costs:
        columns += [Column("numbers learned", "{:,.0f}"), Column("seconds to learn", "{:,.0f}")]
    rows = []
    for model in models:
        label = results.labels[model]
        cells = main_cells(results, pair, model, paper_row(number, known, method=label))
        cells += [results.cell(dataset, "refusal_rate", model, 100) for dataset in others]
        cells += [results.cell(dataset, SOUNDS_HARMFUL, model, 100) for dataset in mixed]
        cells.append(results.cell(pair[1], "perplexity", model))
        if costs:
            cells += [Cell(value) for value in results.costs.get(model, (None, None))]
        rows.append((label, cells))
    title = {"2": "safety and utility", "6": "AdvBench and TruthfulQA"}[number]
    return Table(number, title, columns, rows)


def fraction_table(results: Results, models: Sequence[str]) -> Table:
    """Table 1: DINM on shares of its parameters; `models` are the untuned one and those of DINM."""
    columns = main_columns(results, results.pair)[:4] + choice_columns(results)
    rows = []
    for model in models:
        share = 0 if model == BASE else int(model.rpartition("_")[2])
        paper = paper_row("1", results.compared, fraction=share)
        cells = main_cells(results, results.pair, model, paper)[:4]
        rows.append((results.labels[model], cells + choice_cells(results, model, paper)))
    return Table("1", "DINM on a share of the parameters of its matrix", columns, rows)


def choice_columns(results: Results) -> list[Column]:
    """One column for each set of choice questions, by letter likelihood, then those as written.

    A set that was asked in one of the two ways has that column alone.
    """
    sets = choice_sets(results)
    heads = [f"{results.sets[d]} by letter" for d in sets if measured(results, d, LETTER)]
    heads += [f"{results.sets[d]} as written" for d in sets if measured(results, d, WRITTEN)]
    return [Column(head, PERCENT, "higher") for head in heads]


def choice_cells(results: Results, model: str, paper: Mapping[str, float]) -> list[Cell]:
    """The cells below `choice_columns`; an empty one by letter says why.

    The paper must have read written answers: one that names no letter makes its 0.00 % possible. So
    its figure stands here only where none were written.
    """
    by_letter, as_written, reason = [], [], results.reasons.get(model, "")
    for dataset in choice_sets(results):
        printed = paper.get("mmlu") if dataset == "mmlu" else None
        if measured(results, dataset, WRITTEN):
            as_written.append(results.cell(dataset, WRITTEN, model, 100, printed))
            printed = None
        if measured(results, dataset, LETTER):
            cell = results.cell(dataset, LETTER, model, 100, printed)
            by_letter.append(Cell(paper=printed, note=reason) if cell.value is None else cell)
    return by_letter + as_written


def measured(results: Results, dataset: str, metric: str) -> bool:
    """Whether a metric was measured on a set, of any model."""
    return any((r.dataset, r.metric) == (dataset, metric) for r in results.rows)


def choice_sets(results: Results) -> list[str]:
    """The sets of choice questions that were measured."""
    metrics = (LETTER, WRITTEN)
    return in_order(row.dataset for row in results.rows if row.metric in metrics)


def ability_table(results: Results, models: Sequence[str]) -> Table:
    """Table 3: general ability, fluency, entropy and the paper's average of the three."""
    sets, name = choice_sets(results), "+".join(results.pair)
    averages = (row.dataset for row in results.rows if row.metric == "table3_average")
    over = next((each for each in averages if each.endswith(f"+{name}")), "")  # average.py chose it
    columns = [
        *choice_columns(results),
        Column("fluency (n-gram entropy, bit)", "{:.2f}", "higher"),
        Column("entropy, sum of both sets (bit)", BITS, "higher"),
        Column("average", "{:.2f}", "higher"),
    ]
    rows = []
    for model in models:
        paper = paper_row("3", results.compared, method=results.labels[model])
        cells = choice_cells(results, model, paper)
        cells.append(results.cell(name, "fluency", model, 1, paper.get("fluency")))
        cells.append(results.cell(name, "entropy_sum", model, 1, paper.get("entropy")))
        printed = paper.get("average") if over == f"mmlu+{name}" else None
        average = results.cell(over, "table3_average", model, 1, printed)
        if average.value is None and sets:
            average = Cell(paper=printed, note=results.reasons.get(model, ""))
        rows.append((results.labels[model], [*cells, average]))
    notes = [] if sets else ["No choice questions were asked: add mmlu to eval.datasets."]
    return Table("3", "general ability, fluency and entropy", columns, rows, notes)


def ablation_table(results: Results, models: Sequence[str], draws: Sequence[str]) -> Table:
    """Table 4: NeuronTune without one of its parts; the mean over `draws` of random neurons."""
    columns = main_columns(results, results.pair)
    rows, averaged = [], False
    for model in models:
        if model in draws and not averaged:
            rows.append((mean_label(draws), _mean_row(results, draws)))
            averaged = True
        label = results.labels[model]
        paper = paper_row("4", results.compared, variant=label)
        rows.append((label, main_cells(results, results.pair, model, paper)))
    safety, utility = results.first_factors
    notes = [
        f"w/o Adaptive Adjustment: factor {safety:g} on safety and {utility:g} on utility neurons "
        "(tune.init_safety and tune.init_utility; 1.2 and 0.9 stand in for a 1), at the strength "
        "that its search has kept."
    ]
    if draws:
        notes.append(
            f"The interval of the mean of draws is the range over the {len(draws)} draws; n is the "
            "number of requests, the same for all draws."
        )
    return Table("4", "NeuronTune without one of its parts", columns, rows, notes)


def mean_label(draws: Sequence[str]) -> str:
    """What the mean over random draws of neurons is called."""
    return f"{PINPOINTING}, mean of {len(draws)} draws"


def _mean_row(results: Results, draws: Sequence[str]) -> list[Cell]:
    paper = paper_row("4", results.compared, variant=PINPOINTING)
    rows = [main_cells(results, results.pair, model, paper) for model in draws]
    cells = []
    for column in zip(*rows, strict=True):
        values = [cell.value for cell in column if cell.value is not None]
        cells.append(Cell(fmean(values), min(values), max(values), column[0].n, column[0].paper))
    return cells


def attack_table(results: Results, models: Sequence[str]) -> Table:
    """Table 5: refusals of harmful requests inside attacks, and of bare ones; a column a model."""
    attacked, direct = results.harmful_pair
    sets = {"w/ Attacks": attacked, "w/o Attacks": direct}
    paper = paper_row("5", results.compared)
    fields = {"safeedit": "refusal_with_attacks", "safeedit_direct": "refusal_without_attacks"}
    rows = []
    for label, dataset in sets.items():
        cells = [
            results.cell(dataset or "", "refusal_rate", model, 100,
                         paper.get(fields.get(dataset or "", "")) if model == BASE else None)
            for model in models
        ]  # fmt: skip
        rows.append((f"{label}: {results.sets[dataset] if dataset else 'no such test set'}", cells))
    columns = [Column(results.labels[model], PERCENT, "higher") for model in models]
    return Table("5", "refusal with and without attacks", columns, rows)


def count_table(results: Results, models: Sequence[str]) -> Table:
    """Table 7: models are called neurons_SAFETY_UTILITY."""
    rows = []
    for model in models:
        safety, utility = (int(part) for part in model.split("_")[1:])
        paper = paper_row("7", results.compared, safety=safety, utility=utility)
        rows.append((f"{safety}/{utility}", main_cells(results, results.pair, model, paper)))
    title = "number of safety / utility neurons"
    return Table("7", title, main_columns(results, results.pair), rows)


def random_draws(models: Iterable[str]) -> list[str]:
    """The draws of random neurons among the models."""
    return [name for name in models if name.startswith("random_neurons")]


def build_tables(results: Results, wanted: Sequence[str], methods: Sequence[str]) -> list[Table]:
    """The wanted tables in the paper's order; `methods` are the rows of the tables of methods."""
    known = list(results.labels)
    fractions = [name for name in known if re.fullmatch(r"dinm_\d+", name)]
    draws = random_draws(known)
    parts = [n for n in known if n in ("neurontune", *draws, "all_attacks", "first_factors")]
    everyone = [BASE, *methods]
    makers: dict[str, Callable[[], Table]] = {
        "1": lambda: fraction_table(results, [BASE, *fractions]),
        "2": lambda: method_table(results, everyone),
        "3": lambda: ability_table(results, everyone),
        "4": lambda: ablation_table(results, parts, draws),
        "5": lambda: attack_table(results, everyone),
        "6": lambda: method_table(results, everyone, "6"),
        "7": lambda: count_table(results, [name for name in known if name.startswith("neurons_")]),
    }
    return [makers[number]() for number in wanted]
