"""Settings x seeds, each tuned and looked at: what decides between recipes, and at which interval.

    python benchmarks/experiment.py benchmarks/experiments/neurons.yaml --config runs/real_data.yaml
    python benchmarks/experiment.py benchmarks/experiments/neurons.yaml --config ... --summary

A plan is a YAML file of NAME: [settings that differ from --config]; its first line is what the
others are compared with. Every cell is a run of its own up to its factors, in a folder named by its
settings, so a killed cell goes on where it was; own answers and slopes come from the cache
(nt_jax/cache.py). Nothing is generated: a cell is judged by how well refusals in wordings that
tuning never sees tell harmful from harmless validation prompts, attacked (A), direct (D), and by
how far the template alone raises them (T; 0.5 is ideal). One JSON line a cell goes beside the plan.
The summary has means over seeds and, of the differences, paired bootstrap intervals over prompts;
lines of another --config, of other settings or of an older plan are left out of it.
These are validation prompts: they choose recipes, they are no results.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax.numpy as jnp
import numpy as np
import yaml
from rich.console import Console

from nt_jax.config.load import find_recipe, load_config
from nt_jax.config.schema import RunConfig
from nt_jax.console import shown_on
from nt_jax.run.cells import tune_cell
from nt_jax.run.preflight import Inputs, read_inputs
from nt_jax.train.own_answers import measured_wordings
from nt_jax.train.separation import PAIRS, Separation, auc
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import ANSWERS, Validation

PLAIN = ("tune.validation_answers=0", "tune.strengths=[]", "tune.separation_every=0")
RESAMPLES, TAILS = 2000, (2.5, 97.5)
Values = dict[str, np.ndarray]  # kind of prompt > likelihood of a refusal of each


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plan", type=Path, help="YAML: NAME: [settings]")
    parser.add_argument("--config", default="smollm2-135m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/experiment"))
    parser.add_argument("--summary", action="store_true", help="only read the lines there are")
    parser.add_argument("settings", nargs="*", help="of all cells, as key=value")
    return parser.parse_intermixed_args()  # before options or behind them


def cell(config: RunConfig) -> dict:
    """Tune one cell; what its factors, and all factors 1, make of every validation prompt."""
    started, inputs = time.monotonic(), read_inputs(config)
    with shown_on(Console(quiet=True)):
        factors, _ = tune_cell(config, inputs)
    seconds = round(time.monotonic() - started, 1)
    separation = separation_of(inputs, config, TunedLayers.of(inputs.model.lm, factors.neurons))
    theta_P = jnp.asarray(factors.theta_P)
    return {
        "seconds": seconds,
        "untuned": rounded(separation.values(jnp.ones_like(theta_P))),
        "tuned": rounded(separation.values(theta_P)),
        "rms": round(float(jnp.sqrt(jnp.mean((theta_P - 1) ** 2))), 4),
    }


def separation_of(inputs: Inputs, config: RunConfig, tuned: TunedLayers) -> Separation:
    """Over as many validation prompts as tuning takes at most, in the wordings of all recipes."""
    prompts = Validation.of(inputs.records["validation"], ANSWERS)
    wordings = measured_wordings(inputs.model)
    return Separation.of(inputs.model, tuned, prompts, config.tune, wordings)


def rounded(values: Values) -> dict[str, list[float]]:
    """Fit for a line of JSON."""
    return {kind: [round(float(value), 4) for value in each] for kind, each in values.items()}


def run_cells(args: argparse.Namespace, plan: dict[str, list[str]], lines: Path) -> None:
    """Every cell that has no line yet, seed by seed."""
    done = {(row["name"], row["seed"], row["key"]) for row in read(lines)}
    for seed in args.seeds:
        for name, settings in plan.items():
            key = key_of(args, settings, seed)
            if (name, seed, key) in done:
                continue
            words = words_of(args, settings, seed)
            config = load_config(args.config, [*words, f"run_dir={args.folder / key}"])
            row = {"name": name, "seed": seed, "key": key, "settings": settings} | cell(config)
            cut = lines.exists() and not lines.read_bytes().endswith(b"\n")  # by a kill
            with lines.open("a", encoding="utf-8") as file:
                file.write("\n" * cut + json.dumps(row) + "\n")
            print(name, seed, json.dumps(aucs(row["tuned"])), f"{row['seconds']} s", flush=True)


def words_of(args: argparse.Namespace, settings: list[str], seed: int) -> list[str]:
    """The settings of one cell that differ from --config."""
    return [*args.settings, *settings, *PLAIN, f"seed={seed}"]


def key_of(args: argparse.Namespace, settings: list[str], seed: int) -> str:
    """What tells one cell from every other: the recipe's text, and what is said beside it."""
    told = [find_recipe(args.config).read_text(encoding="utf-8"), words_of(args, settings, seed)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def present(rows: list[dict], plan: dict[str, list[str]], args: argparse.Namespace) -> list[dict]:
    """The lines of the plan, config and settings as they are now; how many are not is said."""
    known = [row for row in rows if row["name"] in plan]
    mine = [row for row in known if row["key"] == key_of(args, plan[row["name"]], row["seed"])]
    if other := len(rows) - len(mine):
        said = "they are of another --config, of other settings or of an older plan"
        print(f"{other} of {len(rows)} lines left out: {said}.", file=sys.stderr)
    return mine


def read(lines: Path) -> list[dict]:
    """The lines there are."""
    text = lines.read_text(encoding="utf-8") if lines.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]  # whole ones


def aucs(values: dict) -> dict[str, float]:
    """A, D and T of one cell."""
    arrays = {kind: np.asarray(each) for kind, each in values.items()}
    return {name: round(auc(*(arrays[kind] for kind in pair)), 4) for name, pair in PAIRS.items()}


def summary(rows: list[dict], plan: dict[str, list[str]]) -> dict[str, dict]:
    """Means over seeds, and differences from the first line of the plan with their intervals."""
    first, table = next(iter(plan)), {}
    by_name = {name: {r["seed"]: r["tuned"] for r in rows if r["name"] == name} for name in plan}
    for name, mine in by_name.items():
        seeds = sorted(mine.keys() & by_name[first].keys())
        found = {}
        for pair, kinds in PAIRS.items():
            if not seeds:
                continue
            values = [float(aucs(mine[seed])[pair]) for seed in seeds]
            found[pair] = {"mean": round(float(np.mean(values)), 4)}
            if name != first:
                both = [(mine[seed], by_name[first][seed]) for seed in seeds]
                found[pair] |= difference(both, kinds)
        table[name] = {"seeds": seeds, **found}
    untuned = [aucs(row["untuned"]) for row in rows[:1]]
    return ({"untuned": untuned[0]} if untuned else {}) | table


def difference(both: list[tuple[dict, dict]], kinds: tuple[str, str]) -> dict[str, float]:
    """{difference, low, high} of an AUC, mean over seeds; prompts are drawn alike everywhere."""
    rng = np.random.default_rng(0)
    sizes = [len(both[0][0][kind]) for kind in kinds]
    picked = [[np.arange(size) for size in sizes]]
    picked += [[rng.integers(size, size=size) for size in sizes] for _ in range(RESAMPLES)]
    deltas = [
        np.mean([
            auc(*(np.asarray(one[kind])[rows] for kind, rows in zip(kinds, place, strict=True)))
            - auc(*(np.asarray(two[kind])[rows] for kind, rows in zip(kinds, place, strict=True)))
            for one, two in both
        ])
        for place in picked
    ]  # fmt: skip
    low, high = np.percentile(deltas[1:], TAILS)
    return {k: round(float(v), 4) for k, v in zip(("difference", "low", "high"),
                                                 (deltas[0], low, high), strict=True)}  # fmt: skip


def main() -> None:
    """Run what is missing, print the summary as JSON."""
    args = arguments()
    plan = {name: words or [] for name, words in yaml.safe_load(args.plan.read_text()).items()}
    lines = args.plan.with_suffix(".jsonl")
    if not args.summary:
        run_cells(args, plan, lines)
    rows = present(read(lines), plan, args)
    print(json.dumps({"plan": str(args.plan), "cells": summary(rows, plan)}, indent=1))


if __name__ == "__main__":
    main()
