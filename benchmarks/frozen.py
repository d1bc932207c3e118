"""What int8 matrices change: the slopes of a finished run measured again, and compared.

    python benchmarks/frozen.py runs/smollm2-135m --out runs/int8 --json
    python benchmarks/frozen.py runs/smollm2-135m --out runs/int8 --every 4 --json  # of its rows

The prompts, own answers and settings are those of the run, so that all that differs is
model.frozen. Printed: how many of the best neurons are the same, the rank correlation of their
scores, and the correlation of the steps that one regression of either side's slopes (at factors of
1, without inner steps) makes with the factors of the run's neurons. --out keeps the slopes.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from nt_jax.attribution.diagnostics import overlap, rank_correlation
from nt_jax.attribution.select import select
from nt_jax.attribution.store import load_neurons
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host
from nt_jax.run.contrast import scores_of
from nt_jax.run.data import read_data
from nt_jax.run.export import config_of
from nt_jax.run.model import chat_model
from nt_jax.train.cell_slopes import FILE, CellSlopes, cell_slopes
from nt_jax.train.cells import CELLS, OWN, cell_rows
from nt_jax.train.outer import direction, preconditioner_of
from nt_jax.train.own_answers import own_pools
from nt_jax.train.slopes import every_neuron
from nt_jax.train.tuned_layers import TunedLayers

TOP = 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument(
        "run", type=Path, help="a run that chose its neurons by the contrastive score"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the slopes with int8")
    parser.add_argument("--every", type=int, default=1, help="of the run's rows, every so many")
    return parser.parse_args()


def settings_of(run: Path) -> RunConfig:
    """The run's, its model with int8 matrices."""
    stored = json.loads((run / "run.json").read_text(encoding="utf-8"))["config"]
    config = config_of(run, stored)
    if config.attribution.score != CONTRASTIVE or config.model.frozen:
        raise ConfigError(f"{run}: this compares runs of the contrastive score, without int8.")
    model = config.model.model_copy(update={"frozen": "int8"})
    return config.model_copy(update={"model": model})


def thinned(slopes: CellSlopes, every: int) -> CellSlopes:
    """Every so many of a run's rows; of own answers, likelihoods before drifts, the first ones.

    What a drift is of is drawn by the number of its row.
    """
    cells = {name: slopes.cells[name][::every] for name in CELLS}
    likelihood_MP, drift_MP = np.split(slopes.cells[OWN], 2)
    first = -(-len(drift_MP) // every)
    own_MP = np.concatenate([likelihood_MP[:first], drift_MP[:first]])
    values = {name: each[::every] for name, each in slopes.values.items()}
    return CellSlopes(cells | {OWN: own_MP}, values)


def measured(config: RunConfig, model: ChatModel, run: Path, out: Path, every: int) -> CellSlopes:
    """The slopes with int8 of every so many of the run's rows, kept in `out`."""
    if not (path := out / f"{every}-{FILE}").exists():
        out.mkdir(parents=True, exist_ok=True)
        train = read_data(config).records["train"]
        pools = own_pools(model, train, run / "answers", config.data, config.tune)
        rows = cell_rows(pools, config.tune.metric_requests // len(CELLS))
        first = -(-len(rows[OWN]) // every)
        rows = {name: each[::every] for name, each in rows.items()} | {OWN: rows[OWN][:first]}
        size = model.checkpoint.config
        all_neurons = every_neuron(size.layers, size.neurons, config.neurons.first_layer)
        tuned = TunedLayers.of(model.lm, all_neurons)
        cell_slopes(model, tuned, rows, config.tune).save(path)
    return CellSlopes.load(path)


def first_step(config: RunConfig, model: ChatModel, slopes: CellSlopes) -> np.ndarray:
    """How the first regression moves the factors of the neurons of these slopes."""
    lm, metric = model.lm, preconditioner_of(slopes, config.tune, model.lm)
    layers = lm.config.layers - config.neurons.first_layer
    length = config.tune.meta_lr * math.sqrt(layers * lm.config.neurons)
    found_P, _ = direction(slopes, metric, length, config.tune, lm.mesh)
    return np.asarray(host(metric.divide(found_P)), np.float64)


def compared(config: RunConfig, model: ChatModel, run: Path, both: Sequence[CellSlopes]) -> dict:
    """What the two sides say of the same rows."""
    size, counts = model.checkpoint.config, config.neurons.counts
    scores = [scores_of(slopes).reshape(-1, size.neurons) for slopes in both]
    upper = counts | {"first_layer": 0}  # these scores begin there
    chosen = [select(score_LF, -score_LF, **upper)[0] for score_LF in scores]
    places = [
        {*zip(each.layer_P.tolist(), each.index_P.tolist(), each.is_safety_P.tolist(), strict=True)}
        for each in chosen
    ]
    neurons, _ = load_neurons(run / "select" / "neurons.csv")
    layer_P = np.asarray(neurons.layer_P) - config.neurons.first_layer
    columns_P = layer_P * size.neurons + np.asarray(neurons.index_P)
    steps = [first_step(config, model, slopes.of(columns_P)) for slopes in both]
    return {
        "rows": sum(map(len, both[1].cells.values())),
        "neurons": scores[0].size,
        f"top_{TOP}_safety": overlap(*scores, TOP),
        f"top_{TOP}_utility": overlap(-scores[0], -scores[1], TOP),
        "rank_correlation": rank_correlation(*scores),
        "chosen": len(places[0]),
        "chosen_in_same_set": len(places[0] & places[1]) / len(places[0]),
        "factors": len(steps[0]),
        "first_step_correlation": float(np.corrcoef(*steps)[0, 1]),
        "first_step_apart": float(np.linalg.norm(steps[1] - steps[0]) / np.linalg.norm(steps[0])),
    }


def main() -> None:
    """Measure with int8 unless that was done, compare, print."""
    args = arguments()
    config = settings_of(args.run)
    model = chat_model(config).under(config.data.system_prompt)
    wide = thinned(CellSlopes.load(args.run / "attribute" / FILE), args.every)
    whole = measured(config, model, args.run, args.out, args.every)
    found = {"every": args.every} | compared(config, model, args.run, (wide, whole))
    for name, value in found.items():
        print(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value:.4f}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
