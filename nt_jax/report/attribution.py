"""The attribution as something to look at: tables, two figures, and what the best neurons say."""

import json
from pathlib import Path

import numpy as np

from nt_jax.attribution.attack_selection import NONE
from nt_jax.attribution.diagnostics import (
    concentration,
    cumulative_share,
    promoted_tokens,
    summarise,
)
from nt_jax.attribution.store import load_set
from nt_jax.generate.chat import ChatModel
from nt_jax.report.figures import panels_png
from nt_jax.report.neuron_panels import cumulative, layers
from nt_jax.seal import reading

BEST = 10  # neurons of each set whose tokens are shown
TOKENS = 6  # per neuron


def write_attribution_report(
    model: ChatModel,
    title: str,
    attributed: Path,
    scores: dict[str, np.ndarray],
    shared: int | None,
    rows: list[dict],
    folder: Path,
) -> None:
    """attribution.md with its figures and summary.json, about the scores in folder `attributed`.

    `shared` counts the neurons that both plain top-k lists held, None where the scores did not
    choose; `rows` are those of neurons.csv.
    """
    counts = {name: sum(row["set"] == name for row in rows) for name in scores}
    summary, active_LF = sets_of(attributed, scores, counts)
    for name, score_LF in scores.items():
        mine = [(row["layer"], row["index"]) for row in rows if row["set"] == name]
        summary[name] |= concentration(score_LF, np.array([score_LF[at] for at in mine]))
    with reading(attributed / "examples.json"):
        facts = json.loads((attributed / "examples.json").read_text(encoding="utf-8"))
    columns = {name: [row[name] for row in rows] for name in ("layer", "index", "set", "score")}
    shares = {name: cumulative_share(score_LF) for name, score_LF in scores.items()}
    where = layers({**columns, "num_layers": len(scores["safety"])})
    (folder / "layers.png").write_bytes(panels_png(where))
    held = {name: each["share_of_chosen"] for name, each in summary.items()}
    (folder / "cumulative.png").write_bytes(panels_png([cumulative(shares, counts, held)]))
    overlap = None if shared is None else overlap_of(shared, counts)
    text = json.dumps({"overlap": overlap, "sets": summary, **facts}, indent=2)
    (folder / "summary.json").write_text(f"{text}\n", encoding="utf-8")
    parts = [
        f"# Attribution: {title}\n",
        score_line(facts["score"]),
        examples_table(facts),
        sets_table(summary, counts),
        overlap_line(overlap),
        "![neurons per layer](layers.png)\n\n![share of the score](cumulative.png)\n",
        *(best_table(model, kind, rows, active_LF[kind]) for kind in scores if counts[kind]),
    ]
    (folder / "attribution.md").write_text("\n".join(parts), encoding="utf-8")


def sets_of(
    attributed: Path, scores: dict[str, np.ndarray], counts: dict[str, int]
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """(summary, active_LF) of each set; a score of the user's own has no example by example."""
    if not (attributed / "scores.npz").exists():
        none = {name: {} for name in scores}
        return none, {name: load_set(attributed / f"{name}.npz")[1] for name in scores}
    path = attributed / "scores.npz"
    with reading(path), np.load(path) as raw:
        members = {name: raw["set"] == name for name in scores}
        summary = {
            name: summarise(raw["alpha"][of], raw["standard"][of], counts[name])
            for name, of in members.items()
        }
        return summary, {name: raw["v_pq"][of].mean(axis=0) for name, of in members.items()}


def overlap_of(shared: int, counts: dict[str, int]) -> dict[str, float]:
    """How many neurons both lists of the best held."""
    return {"in_both_lists": shared, "share_of_the_shorter": shared / max(1, min(counts.values()))}


def overlap_line(overlap: dict[str, float] | None) -> str:
    """The same in words."""
    if overlap is None:
        return "The neurons were given (neurons.source); these scores did not choose them.\n"
    return (
        f"{overlap['in_both_lists']:,} neurons were in both lists of the best "
        f"({overlap['share_of_the_shorter']:.0%} of the shorter); each went to the list where it "
        "ranks higher.\n"
    )


def score_line(names: dict[str, str]) -> str:
    """What scored the neurons."""
    one = len(set(names.values())) == 1
    said = names["safety"] if one else ", ".join(f"{of} ({name})" for name, of in names.items())
    return f"score: {said}\n"


def examples_table(facts: dict) -> str:
    """Which records were scored, and how many templates attack selection left out."""
    if "cells" in facts:
        return cells_table(facts)
    lines = "".join(
        f"| {row['set']} | {', '.join(row['types']) or 'none'} | {row['template']} | "
        f"{row['request']} |\n"
        for row in facts["examples"]
    )
    left_out = facts["templates_of_several_types_left_out"]
    said = f"{left_out} templates were left out for having several types (paper, A.6)."
    if not facts["attack_selection"]:
        typed = any(row["types"] for row in facts["examples"])
        said = "Attack selection: none." if typed else f"{NONE[0].upper()}{NONE[1:]}."
    head = "## Examples\n\n| set | attack type | template | request |\n|---|---|---|---|\n"
    return f"{head}{lines}\n{said}\n"


def cells_table(facts: dict) -> str:
    """How many prompts of each cell were compared, and how far two halves of them agree."""
    half = facts["split_half"]
    lines = "".join(
        f"| {name.replace('_', ' ')} | {count} |\n" for name, count in facts["cells"].items()
    )
    return (
        f"## Prompts\n\n| cell | prompts |\n|---|--:|\n{lines}\nTwo halves of them share "
        f"{half['shared']:.0%} of their best {half['top']:,} neurons (chance "
        f"{half['chance']:.0%}).\n"
    )


def sets_table(summary: dict[str, dict[str, float]], counts: dict[str, int]) -> str:
    """How concentrated and how repeatable the scores of each set are."""
    said = {
        "chosen": ("neurons chosen", "{:,}"),
        "share_of_chosen": ("share of the positive score that they hold", "{:.0%}"),
        "neurons_for_half": ("neurons that hold half of it", "{:,}"),
        "between_examples": ("rank correlation between examples", "{:.2f}"),
        "between_weightings": ("rank correlation between weightings", "{:.2f}"),
        "best_in_both_weightings": ("best neurons that both weightings share", "{:.0%}"),
    }
    sets = [{**of, "chosen": counts[name]} for name, of in summary.items()]
    lines = [
        f"| {label} | {' | '.join(cell.format(one[key]) for one in sets)} |"
        for key, (label, cell) in said.items()
        if key in sets[0]
    ]
    head = f"| | {' | '.join(summary)} |\n|---|{'--:|' * len(summary)}"
    return "\n".join(["## Scores\n", head, *lines, ""])


def best_table(model: ChatModel, name: str, rows: list[dict], active_LF: np.ndarray) -> str:
    """The best neurons of one set with the tokens that they push up when they fire as here."""
    mine = [row for row in rows if row["set"] == name]
    best = sorted(mine, key=lambda row: row["rank"])[:BEST]
    layer_N, index_N = (np.array([row[key] for row in best]) for key in ("layer", "index"))
    ids = promoted_tokens(model.lm, layer_N, index_N, active_LF[layer_N, index_N], TOKENS)
    table = f"## Best {name} neurons\n\n"
    table += "| rank | layer | neuron | score | tokens that it promotes |\n|--:|--:|--:|--:|---|\n"
    for row, tokens in zip(best, ids, strict=True):
        said = " ".join(f"`{readable(model.text([int(token)]))}`" for token in tokens)
        table += "| {rank} | {layer} | {index} | {score:.3f} | ".format(**row) + f"{said} |\n"
    return table


def readable(token: str) -> str:
    """A token as a cell of a table can show it."""
    shown = repr(token.strip())[1:-1].replace("|", "\\|").replace("`", "'")
    return shown or "space"
