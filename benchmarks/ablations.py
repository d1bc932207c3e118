"""What each setting of tuning does: one change at a time from a recipe, on validation prompts.

    python benchmarks/ablations.py --config benchmarks/real_data.yaml --json
    python benchmarks/ablations.py --config smollm2-135m --only recipe order_1 --json

The run of the recipe is carried to its tuned factors first; its answers, attribution and slopes are
what all variants share. Each variant is tuned anew and validated; --strengths adds points at other
shares of the way from 1 to its factors. Refusals of harmful and of harmless requests rise together,
so a variant is better where `separation` is: how often a harmful validation request has the larger
margin (nt_jax/train/margins.py). Finished variants are kept in the run directory, below ablations/.
These are validation prompts: they choose recipes, they are no results.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.methods.ablations import chosen_neurons
from nt_jax.config.load import load_config
from nt_jax.config.schema import RunConfig
from nt_jax.console import shown_on
from nt_jax.errors import DataError
from nt_jax.eval.judges.judge import open_judge
from nt_jax.run.pipeline import read_inputs, run
from nt_jax.rundir import RunDirectory
from nt_jax.train.tune import tune
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.warm_start import SLOPES

VARIANTS: dict[str, list[str]] = {
    "recipe": [],
    "order_1": ["tune.order=1"],
    "descent_sign": ["tune.utility_sign=descent"],
    "K_0": ["tune.inner_steps=0"],
    "K_3": ["tune.inner_steps=3"],
    "eta_3": ["tune.inner_lr=3"],
    "eta_0.3": ["tune.inner_lr=0.3"],
    "local_twentieth": ["tune.local_fraction=0.05"],
    "lambda_0.7": ["tune.safety_weight=0.7"],
    "lambda_0.3": ["tune.safety_weight=0.3"],
    "neurons_2000": ["neurons.safety=2000", "neurons.utility=2000"],
    "given_answers": ["data.utility_targets=given"],
    "kl_1": ["tune.kl_weight=1"],
    "no_margin": ["tune.margin_weight=0"],
    "no_metric": ["tune.metric_requests=0", "tune.meta_lr=0.03"],
    "as_printed": [
        "tune.metric_requests=0",
        "tune.margin_weight=0",
        "tune.init_safety=1.2",
        "tune.init_utility=0.9",
        "tune.meta_lr=0.03",
        "tune.token_decay=1",
    ],
    "no_first_move": ["tune.first_move=0"],
    "bounds_0.5_2": ["tune.factor_min=0.5", "tune.factor_max=2"],
    "direct_half": ["tune.direct_fraction=0.5"],
    "harmless_bare": ["tune.attacked_harmless_fraction=0"],
}
OF_SLOPES = ("metric_requests", "answer_tokens", "token_decay", "attacked_harmless_fraction")
MARGINS = ("margin_", "separation_")
SHOWN = ("refusal_attack", "refusal_direct", "refusal_harmless", "entropy_harmless", "su_f1")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--config", default="smollm2-135m")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--strengths", type=float, nargs="*", default=[])
    parser.add_argument("overrides", nargs="*", help="settings of all variants, as key=value")
    return parser.parse_args()


def measured(data: FittingData, config: RunConfig, folder: Path) -> dict:
    """Tune one variant in `folder` and validate it; what `folder` already holds is kept."""
    kept = data.run.folder("train") / SLOPES
    own, base = config.tune, data.config.tune
    folder.mkdir(parents=True, exist_ok=True)
    same = all(getattr(own, name) == getattr(base, name) for name in OF_SLOPES)
    if same and config.neurons == data.config.neurons and kept.exists():
        shutil.copyfile(kept, folder / SLOPES)
    mine = FittingData(config, data.model, data.records, data.run)
    neurons = chosen_neurons(mine, data.run.folder("attribute"))
    started = time.monotonic()
    drawn_from, judge = TuningData(mine.pools, mine.whole_validation), open_judge(config.eval.judge)
    tune(data.model, neurons, drawn_from, own, judge=judge, seed=config.seed, folder=folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = {"strength": 1.0, **rows[-1]}
    others = map(json.loads, (folder / "strengths.jsonl").read_text().splitlines())
    curve = sorted([last, *others], key=lambda row: row["strength"])
    shares = [row["second_order"] for row in rows[1:]]
    return {
        "curve": [{k: round(row[k], 4) for k in ("strength", *SHOWN)} for row in curve],
        "base": {k: round(rows[0][k], 4) for k in SHOWN},
        "margins": {k: round(v, 4) for k, v in rows[-1].items() if k.startswith(MARGINS)},
        "second_order": round(sum(shares) / len(shares), 4),
        "minutes": round((time.monotonic() - started) / 60, 2),
    }


def measure_all(args: argparse.Namespace) -> dict[str, dict]:
    """What each variant did; finished ones are kept."""
    plain = load_config(args.config, args.overrides)
    last = plain.tune.epochs
    fixed = [f"tune.{key}={last}" for key in ("validate_every", "margins_every")]
    fixed.append(f"tune.strengths={json.dumps(args.strengths)}")
    inputs = read_inputs(plain)
    run(plain, until="train", inputs=inputs)
    table = {}
    with RunDirectory(plain.folder) as directory:
        data = FittingData(plain, inputs.model, inputs.records, directory)
        for name in args.only:
            folder = directory.path / "ablations" / name
            words = [*args.overrides, *fixed, *VARIANTS[name]]
            config, done = load_config(args.config, words), folder / "result.json"
            settings = config.model_dump(mode="json", include={"tune", "neurons", "data"})
            found: dict = json.loads(done.read_text()) if done.exists() else {}
            if found.get("settings") != settings:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    found = measured(data, config, folder)
                except DataError as error:  # the data have not what this variant needs
                    found = {"error": str(error)}
                found = {**found, "settings": settings}
                done.write_text(json.dumps(found, indent=1))
            table[name] = {k: v for k, v in found.items() if k != "settings"}
            if not args.json:
                print(name, json.dumps(table[name]), flush=True)
    return table


def main() -> None:
    """Tune and print."""
    args = arguments()
    with shown_on(Console(quiet=args.json)):
        table = measure_all(args)
    print(json.dumps({"settings": vars(args), "table": table}))


if __name__ == "__main__":
    main()
