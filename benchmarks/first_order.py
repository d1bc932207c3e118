"""What slopes alone say: how well a change of the factors tells harmful from harmless requests.

    python benchmarks/first_order.py --config runs/real_data.yaml --json

To first order a refusal of prompt x gains slope(x) . change, so any recipe's direction can be
judged without tuning: fitted on the slopes of one half of the training requests, asked on the other
half (a request and its attacked form are on one side). Printed, as means over --draws halvings: A,
D and T as in benchmarks/experiment.py, for directions made of one cell or of all, over several
dampings and numbers of prompts, and for as few neurons as each score chooses. The run of the config
is carried up to its contrastive attribution first.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console

from nt_jax.attribution.contrastive import DAMPING, contrastive_score
from nt_jax.config.load import load_config
from nt_jax.config.schema import RunConfig
from nt_jax.console import shown_on
from nt_jax.data.prompts import text_of
from nt_jax.run.pipeline import run
from nt_jax.run.preflight import read_inputs
from nt_jax.train.cell_slopes import FILE, CellSlopes
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    CELLS,
    HARMFUL,
    HARMLESS,
    OWN,
    cell_rows,
)
from nt_jax.train.own_answers import own_pools
from nt_jax.train.separation import auc

Slopes = dict[str, np.ndarray]
Rule = Callable[[Slopes], np.ndarray]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--config", default="smollm2-135m")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("settings", nargs="*", help="of the run, as key=value")
    return parser.parse_args()


def slopes_and_sides(config: RunConfig) -> tuple[Slopes, dict[str, np.ndarray]]:
    """(slopes by cell, the number of the request behind each row)."""
    inputs = read_inputs(config)
    with shown_on(Console(quiet=True)):
        run(config, until="select", inputs=inputs)
    train, answers = inputs.records["train"], config.folder / "answers"
    pools = own_pools(inputs.model, train, answers, config.data, config.tune)
    cells = cell_rows(pools, config.tune.metric_requests // len(CELLS))
    bare = {text_of(row.prompt): n for n, row in enumerate(train.harmless)}
    sides = {name: np.arange(len(cells[name])) for name in (ATTACKED_HARMFUL, HARMFUL)}
    for name in (ATTACKED_HARMLESS, HARMLESS):
        texts = [text_of(prompt) for prompt, _ in cells[name]]
        sides[name] = np.array([number_of(text, bare) for text in texts])
    own = np.concatenate([sides[ATTACKED_HARMLESS], sides[HARMLESS]])
    sides[OWN] = np.concatenate([own, own])  # their likelihood, then their drift
    return dict(CellSlopes.load(config.folder / "attribute" / FILE).cells), sides


def number_of(text: str, bare: dict[str, int]) -> int:
    """Which request a prompt asks: the longest that it holds."""
    held = [request for request in ([text] if text in bare else bare) if request in text]
    return bare[max(held, key=len)]


def halves(slopes: Slopes, sides: dict[str, np.ndarray], seed: int) -> tuple[Slopes, Slopes]:
    """The slopes of half of the requests, and of the others."""
    rng, first, second = np.random.default_rng(seed), {}, {}
    coins = {kind: rng.permutation(1 + max(map(max, sides.values()))) % 2 for kind in "ab"}
    for name, slope_MP in slopes.items():
        mine = coins["a" if name in (ATTACKED_HARMFUL, HARMFUL) else "b"][sides[name]] == 0
        first[name], second[name] = slope_MP[mine], slope_MP[~mine]
    return first, second


def direction(difference_P: np.ndarray, rows_MP: np.ndarray, damping: float) -> np.ndarray:
    """`difference_P` divided by the scatter of the rows."""
    return contrastive_score(difference_P, rows_MP, damping)


def told_apart(way_P: np.ndarray, slopes: Slopes) -> tuple[float, float, float]:
    """(A, D, T) of a direction."""
    value = {name: slopes[name] @ way_P for name in CELLS}
    return (
        auc(value[ATTACKED_HARMFUL], value[ATTACKED_HARMLESS]),
        auc(value[HARMFUL], value[HARMLESS]),
        auc(value[ATTACKED_HARMLESS], value[HARMLESS]),
    )


def mean(slopes: Slopes, name: str) -> np.ndarray:
    """The mean slope of a cell."""
    return slopes[name].mean(axis=0)


RULES: dict[str, tuple[Rule, Rule | None]] = {
    "bare difference, all in the metric": (
        lambda s: CellSlopes(s).difference_P,
        lambda s: CellSlopes(s).unwanted_MP,
    ),
    "difference of all four cells": (
        lambda s: (
            mean(s, ATTACKED_HARMFUL)
            + mean(s, HARMFUL)
            - mean(s, ATTACKED_HARMLESS)
            - mean(s, HARMLESS)
        ),
        lambda s: CellSlopes(s).unwanted_MP,
    ),
    "bare only": (
        lambda s: mean(s, HARMFUL) - mean(s, HARMLESS),
        lambda s: np.concatenate([s[OWN], s[HARMLESS], s[HARMFUL] - mean(s, HARMFUL)]),
    ),
    "attacked only": (
        lambda s: mean(s, ATTACKED_HARMFUL) - mean(s, ATTACKED_HARMLESS),
        lambda s: np.concatenate([
            s[OWN], s[ATTACKED_HARMLESS], s[ATTACKED_HARMFUL] - mean(s, ATTACKED_HARMFUL)
        ]),
    ),
    "refusals of harmful, metric of harmless": (
        lambda s: (mean(s, ATTACKED_HARMFUL) + mean(s, HARMFUL)) / 2,
        lambda s: np.concatenate([s[OWN], s[ATTACKED_HARMLESS], s[HARMLESS]]),
    ),
    "refusals of harmful, metric of bare harmless": (
        lambda s: (mean(s, ATTACKED_HARMFUL) + mean(s, HARMFUL)) / 2,
        lambda s: np.concatenate([s[OWN], s[HARMLESS]]),
    ),
    "bare difference, no metric": (lambda s: CellSlopes(s).difference_P, None),
}  # fmt: skip


def by_rule(fit: Slopes, damping: float) -> dict[str, np.ndarray]:
    """The direction of each of RULES."""
    return {
        name: direction(aim(fit), metric(fit), damping) if metric else aim(fit)
        for name, (aim, metric) in RULES.items()
    }


def few(fit: Slopes, scores: dict[str, np.ndarray], count: int, damping: float) -> dict:
    """The direction of the best `count` neurons by each score, zero elsewhere."""
    slopes, found = CellSlopes(fit), {}
    for name, score_P in scores.items():
        columns = np.argsort(-score_P, kind="stable")[:count]
        mine, way_P = slopes.of(columns), np.zeros_like(slopes.difference_P)
        way_P[columns] = direction(mine.difference_P, mine.unwanted_MP, damping)
        found[name] = way_P
    return found


def measure(slopes: Slopes, sides: dict, args: argparse.Namespace, damping: float) -> dict:
    """Every direction, fitted on one half and asked on the other."""
    found: dict[str, list] = {}
    for seed in range(args.draws):
        fit, ask = halves(slopes, sides, seed)
        ways = {f"rule: {name}": way for name, way in by_rule(fit, damping).items()}
        aim, metric = (rule for rule in RULES["bare difference, all in the metric"] if rule)
        for other in (1e-5, 1e-4, 1e-3, 1e-2):
            ways[f"damping {other:g}"] = direction(aim(fit), metric(fit), other)
        for share in (4, 2):
            less = {name: rows[::share] for name, rows in fit.items()}
            ways[f"1 / {share} of the prompts"] = direction(aim(less), metric(less), damping)
        scores = {
            "contrastive": np.abs(direction(aim(fit), metric(fit), DAMPING)),
            "difference": np.abs(aim(fit)),
            "random": np.random.default_rng(seed).random(aim(fit).size),
        }
        for count in args.counts:
            chosen = few(fit, scores, count, damping).items()
            ways |= {f"{count} neurons, {name}": way for name, way in chosen}
        for name, way in ways.items():
            found.setdefault(name, []).append(told_apart(way, ask))
    return {
        name: dict(zip("ADT", np.round(np.mean(rows, axis=0), 3).tolist(), strict=True))
        for name, rows in found.items()
    }


def main() -> None:
    """Measure and print."""
    args = arguments()
    config = load_config(args.config, args.settings)
    slopes, sides = slopes_and_sides(config)
    table = measure(slopes, sides, args, config.tune.metric_damping)
    if not args.json:
        for name, row in table.items():
            print(f"{name:50} {row}")
    rows = {name: len(rows) for name, rows in slopes.items()}
    print(json.dumps({"rows": rows, "config": args.config, "table": table}))


if __name__ == "__main__":
    main()
