"""How well finished runs part harm from the rest: untuned, after the last epoch, and as they ship.

    python benchmarks/separation.py runs/smollm2-135m runs/seed1 runs/seed2

Each validation prompt has a likelihood of refusals in wordings that tuning never sees. Told is how
often it is higher for an attacked harmful prompt than for an attacked harmless one (A), for a bare
harmful one than for a bare harmless one (D), and for an attacked harmless one than for a bare
harmless one (T, where 0.5 is ideal). What ships lies `tune.lift_from` of the way from the first
factors to the last, with lifts. The last line is JSON.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from nt_jax.console import shown_on
from nt_jax.errors import NtError
from nt_jax.run.export import run_factors
from nt_jax.run.preflight import read_inputs
from nt_jax.train.own_answers import measured_wordings
from nt_jax.train.separation import PAIRS, Separation
from nt_jax.train.state import read_history
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import ANSWERS, Validation


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, tuned")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    return parser.parse_args()


def separations(run: Path) -> dict[str, dict[str, float]]:
    """The AUC of each of PAIRS: untuned, as the last epoch measured it, of what ships."""
    config, factors = run_factors(run)
    inputs = read_inputs(config.model_copy(update={"run_dir": f"{run}.unused"}))
    tuned = TunedLayers.of(inputs.model.lm, factors.neurons)
    prompts = Validation.of(inputs.records["validation"], config.tune.validation_answers or ANSWERS)
    wordings = measured_wordings(inputs.model)
    measured = Separation.of(inputs.model, tuned, prompts, config.tune, wordings)
    shipped_P = jnp.asarray(factors.theta_P)
    rates = {"untuned": measured.at(jnp.ones_like(shipped_P))}
    if last := read_history(run / "train", config.tune.epochs):
        rates["last epoch"] = last[-1]
    rates["shipped"] = measured.at(shipped_P)
    return {
        state: {name: row[f"separation_{name}"] for name in PAIRS if f"separation_{name}" in row}
        for state, row in rates.items()
    }


def main() -> None:
    """Print a row a run, and the JSON object."""
    args, found = arguments(), {}
    for run in args.runs:
        try:
            with shown_on(Console(quiet=True)):
                found[str(run)] = separations(run)
        except NtError as error:
            sys.exit(str(error))
    if not args.json:
        table = Table("", *(name[0].upper() for name in PAIRS), box=None)
        for run, states in found.items():
            table.add_row(run)
            for state, rates in states.items():
                table.add_row(f"  {state}", *(f"{value:.3f}" for value in rates.values()))
        Console().print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
