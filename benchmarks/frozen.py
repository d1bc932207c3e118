"""What int8 matrices change: the attribution of a finished run made again, and compared.

    python benchmarks/frozen.py runs/smollm2-135m --out runs/int8 --json

The prompts, own answers and settings are those of the run, so that all that differs is
model.frozen. Printed: how many of the best neurons are the same, the rank correlation of their
scores, and the correlation of the factors that the first regression gives the run's neurons by the
slopes of either side (at factors of 1, before any inner step). --out keeps the slopes: repeat the
command with it and only the comparison is made.
"""

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from nt_jax.attribution.diagnostics import overlap, rank_correlation
from nt_jax.attribution.select import select
from nt_jax.attribution.store import load_neurons, load_scores
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host
from nt_jax.run.contrast import chosen_slopes, contrast
from nt_jax.run.data import read_data
from nt_jax.run.export import config_of
from nt_jax.run.stages import chat_model
from nt_jax.train.outer import direction, preconditioner_of
from nt_jax.train.own_answers import own_pools

TOP = 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument(
        "run", type=Path, help="a run that chose its neurons by the contrastive score"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the scores with int8")
    return parser.parse_args()


def settings_of(run: Path) -> RunConfig:
    """The run's, its model with int8 matrices."""
    stored = json.loads((run / "run.json").read_text(encoding="utf-8"))["config"]
    config = config_of(run, stored)
    if config.attribution.score != CONTRASTIVE or config.model.frozen:
        raise ConfigError(f"{run}: this compares runs of the contrastive score, without int8.")
    model = config.model.model_copy(update={"frozen": "int8"})
    return config.model_copy(update={"model": model})


def attribute(config: RunConfig, model: ChatModel, run: Path, out: Path) -> None:
    """The scores with int8, into `out`, of the prompts and own answers of the run."""
    out.mkdir(parents=True, exist_ok=True)
    train = read_data(config).records["train"]
    pools = own_pools(model, train, run / "answers", config.data, config.tune)
    print(contrast(model, pools, config.neurons.first_layer, config.tune, out), flush=True)


def first_step(config: RunConfig, model: ChatModel, attributed: Path, selected: Path) -> np.ndarray:
    """How the first regression moves the factors of the run's neurons, by these slopes."""
    neurons, _ = load_neurons(selected / "neurons.csv")
    lm, first = model.lm, config.neurons.first_layer
    slopes = chosen_slopes(attributed, neurons, first, lm.config.neurons)
    assert slopes is not None  # `contrast` wrote them
    metric = preconditioner_of(slopes, config.tune, lm)
    upper = lm.config.layers - int(np.min(neurons.layer_P))
    length = config.tune.meta_lr * math.sqrt(upper * lm.config.neurons)
    found_P, _ = direction(slopes, metric, length, config.tune, lm.mesh)
    return np.asarray(host(metric.divide(found_P)), np.float64)


def compared(config: RunConfig, model: ChatModel, run: Path, out: Path) -> dict:
    """The two attributions side by side."""
    folders = (run / "attribute", out)
    wide, whole = map(load_scores, folders)
    first, counts = config.neurons.first_layer, config.neurons.counts
    chosen = [select(each["safety"], each["utility"], **counts)[0] for each in (wide, whole)]
    places = [
        {*zip(each.layer_P.tolist(), each.index_P.tolist(), each.is_safety_P.tolist(), strict=True)}
        for each in chosen
    ]
    steps = [first_step(config, model, folder, run / "select") for folder in folders]
    names = ("safety", "utility")
    return {
        "neurons": int(wide["safety"][first:].size),
        **{f"top_{TOP}_{name}": overlap(wide[name], whole[name], TOP) for name in names},
        "rank_correlation": rank_correlation(wide["safety"][first:], whole["safety"][first:]),
        "chosen": len(places[0]),
        "chosen_in_same_set": len(places[0] & places[1]) / len(places[0]),
        "factors": len(steps[0]),
        "first_step_correlation": float(np.corrcoef(*steps)[0, 1]),
        "first_step_apart": float(np.linalg.norm(steps[1] - steps[0]) / np.linalg.norm(steps[0])),
    }


def main() -> None:
    """Attribute with int8 unless that was done, compare, print."""
    args = arguments()
    config = settings_of(args.run)
    model = chat_model(config).under(config.data.system_prompt)
    attribute(config, model, args.run, args.out)
    found = compared(config, model, args.run, args.out)
    for name, value in found.items():
        print(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value:.4f}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
