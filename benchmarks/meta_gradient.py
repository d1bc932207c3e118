"""The meta-gradient's memory and time: second order against first order and reverse over reverse.

    python benchmarks/meta_gradient.py --json                                  # SmolLM2, CPU
    python benchmarks/meta_gradient.py --json --model llama3-8b --dtype bfloat16 \
        --tokens 512 --rows 4 --no-reverse --repeats 5                         # one H100

Memory is what the compiler sets aside for temporaries (`memory_analysis`), for the gradient alone.
"reverse" is `jax.grad` of `jax.grad` with nothing to help it: it keeps the residuals of the inner
backward passes of every step. Both sides work on the same batches, weights and factors. It is run
only with --time-reverse: it may need more memory than there is.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from benchmarks import models
from nt_jax.attribution.select import random_neurons
from nt_jax.data.packing import PackedBatch, Row, Shape, pack_alone
from nt_jax.models.neurons import NeuronSet
from nt_jax.train import maml, objectives
from nt_jax.train.maml import MetaBatch, MetaOptions
from nt_jax.train.theta import initial_theta, place


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--model", default="smollm2", choices=["smollm2", *models.SHAPES])
    parser.add_argument("--dtype", default="float32", help="of random weights")
    parser.add_argument("--rows", type=int, default=4, help="rows of each of the four sets")
    parser.add_argument("--tokens", type=int, default=128, help="per row, answer included")
    parser.add_argument("--answer", type=int, default=32, help="answer tokens per row")
    parser.add_argument("--steps", type=int, default=4, help="inner steps K = 1 .. this")
    parser.add_argument("--stretch", type=int, default=0, help="rows at a time; 0 = all")
    parser.add_argument("--no-reverse", action="store_true", help="leave reverse over reverse out")
    parser.add_argument("--time-reverse", action="store_true", help="run it, too")
    parser.add_argument("--no-remat", action="store_true", help="keep every layer's activations")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; 0 = memory only")
    return parser.parse_args()


def batch(vocabulary: int, seed: int, args: argparse.Namespace) -> PackedBatch:
    """One set of random rows, all of full length, each in a sequence of its own."""
    draw = np.random.default_rng(seed).integers(3, vocabulary, size=(args.rows, args.tokens + 1))
    prompt, side = args.tokens - args.answer, args.stretch or args.rows
    shape = Shape(args.rows // side, side, args.tokens, args.answer + 1, 1)
    return pack_alone(
        [Row(row[:prompt].tolist(), row[prompt:].tolist()) for row in draw], shape
    )  # nothing is predicted from an answer's last token, which is not in the sequence


@contextlib.contextmanager
def reverse_over_reverse():
    """Within it, the inner gradient is plain `jax.grad` and nothing is recomputed."""

    def plain(loss, order):
        slope = jax.grad(loss)
        return lambda theta_P, lm, neurons, batch, options: objectives.over_stretches(
            lambda part: slope(theta_P, lm, neurons, part, options), batch
        )

    keep = mock.patch.object(jax, "checkpoint", lambda function, **_: function)
    with mock.patch.object(maml, "gradient", plain), keep:
        yield


def measure(lm, neurons: NeuronSet, data: MetaBatch, options: MetaOptions, repeats: int) -> dict:
    """{temp_bytes, seconds, compile_seconds} of one meta-gradient."""
    theta_P = initial_theta(neurons, 1.1, 0.9)
    # A function of its own each time, or a program traced under another rule would be found.
    step = jax.jit(lambda *inputs: maml.meta_gradient(*inputs))
    start = time.perf_counter()
    program = step.lower(theta_P, lm, neurons, data, options).compile()
    found = {
        "temp_bytes": int(program.memory_analysis().temp_size_in_bytes),
        "compile_seconds": time.perf_counter() - start,
    }
    seconds = []
    for _ in range(repeats + 1 if repeats else 0):
        start = time.perf_counter()
        jax.block_until_ready(program(theta_P, lm, neurons, data, options))
        seconds.append(time.perf_counter() - start)
    return found | {"seconds": statistics.median(seconds[1:]) if repeats else None}


def main() -> None:
    """Measure all orders for K = 1, 2, ... and print."""
    args = arguments()
    lm = models.build(args.model, args.dtype)
    config = lm.config
    neurons = place(random_neurons(config.layers, config.neurons, safety=500, utility=500, seed=0))
    data = jax.device_put(MetaBatch(*(batch(config.vocab_size, n, args) for n in range(4))))
    rules = {"first": 1, "second": 2} | ({} if args.no_reverse else {"reverse": 2})
    table: dict[str, list[dict]] = {name: [] for name in rules}
    for inner_steps in range(1, args.steps + 1):
        for name, order in rules.items():
            options = MetaOptions(
                order=order, inner_steps=inner_steps, with_kl=True, kl_weight=1.0,
                remat=not args.no_remat and name != "reverse",
            )  # fmt: skip
            repeats = args.repeats if name != "reverse" or args.time_reverse else 0
            with reverse_over_reverse() if name == "reverse" else contextlib.nullcontext():
                found = measure(lm, neurons, data, options, repeats)
            table[name].append(found)
            if not args.json:
                print(f"K={inner_steps} {name}: {found}", flush=True)
    bytes_of = {name: np.array([row["temp_bytes"] for row in rows]) for name, rows in table.items()}
    result = {"temp_second_over_first": (bytes_of["second"] / bytes_of["first"]).tolist()}
    if "reverse" in bytes_of:
        result["temp_second_over_reverse"] = (bytes_of["second"] / bytes_of["reverse"]).tolist()
    print(
        json.dumps(
            {**result, "device": jax.devices()[0].device_kind, "settings": vars(args), **table}
        )
    )


if __name__ == "__main__":
    main()
