"""How the cost of the hot programs grows with their sizes: exponents of FLOPs and of bytes.

    python benchmarks/scaling.py --json
    python benchmarks/scaling.py --json --only meta-step --axes "prompt tokens,K"

The real programs are compiled for this machine's CPU from shapes alone and never run: the widths of
a published model, few layers, float32. FLOPs are those of matrix products as hlo_cost.py reads them
from the compiled program, loops multiplied out (XLA's own count takes the body of a loop once).
Bytes are the temporaries that the compiler tells. An exponent is the slope of the least-squares
line through the logarithms; `last` that of the last two points alone, which fixed parts hide least.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

# FLOPs and bytes do not depend on how well machine code is made.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Where every axis begins."""

    layers: int = 4
    neurons: int = 1  # times those of the shape
    prompt: int = 512
    answer: int = 64
    inner: int = 2
    stretches: int = 2
    side: int = 1


AXES = {
    "layers": ("layers", (4, 8, 16)),
    "neurons": ("neurons", (1, 2, 4)),
    "prompt tokens": ("prompt", (512, 2048, 4096, 8192)),
    "answer tokens": ("answer", (64, 128, 256)),
    "K": ("inner", (2, 4, 8)),  # inner steps
    "stretches": ("stretches", (2, 4, 8)),  # sequences a set, one after the other
    "local batch": ("side", (1, 2, 4)),  # sequences side by side, or 16 slots each
}
TOKENS = ("layers", "neurons", "prompt tokens", "answer tokens")
PROGRAMS = {
    "prefix": TOKENS,
    "decode": ("layers", "neurons", "prompt tokens", "local batch"),
    "attribution": TOKENS,
    "meta-step": tuple(AXES),
}
NODES, SLOTS = 4, 16  # of a layer's rows; of a local batch of 1


class Bar(NamedTuple):
    """The most that the exponents of FLOPs and bytes may be."""

    flops: float = 1.15
    bytes: float = 1.15
    why: str = "linear"


SQUARE = Bar(1.3, 1.15, "FLOPs: attention's square shows at 8,192 tokens")
BARS = {
    ("prefix", "prompt tokens"): SQUARE,
    ("meta-step", "prompt tokens"): SQUARE,
    ("attribution", "layers"): Bar(2.05, 2.05, "each layer has rows, and they run all layers"),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--shape", default="llama3.1-8b", help="of benchmarks/models.py")
    parser.add_argument("--only", default="", help="programs whose name holds this")
    parser.add_argument("--axes", default=",".join(AXES), help="these axes only")
    return parser.parse_args()


def lowered(program: str, shape: str, sizes: Sizes) -> Any:
    """One program at these sizes; nothing is compiled yet."""
    import jax

    from benchmarks import h100_answers, h100_gradients
    from benchmarks.models import SHAPES, abstract_meta_step, abstract_model
    from nt_jax.attribution.integrated import row_gradients
    from nt_jax.attribution.suffix import run_prefix
    from nt_jax.data.packing import Shape
    from nt_jax.generate import decode
    from nt_jax.mesh import make_mesh
    from nt_jax.train.maml import MetaOptions, meta_step

    config = SHAPES[shape]
    config = dataclasses.replace(
        config, layers=sizes.layers, neurons=sizes.neurons * config.neurons
    )
    lm = abstract_model(config, "float32", make_mesh())
    if program == "prefix":
        return run_prefix.lower(
            lm, *h100_gradients.prompt_and_answer(lm, sizes.prompt, sizes.answer)
        )
    if program == "decode":
        slots = h100_answers.decode_arguments(lm, SLOTS * sizes.side, sizes.prompt)
        return decode.decode.lower(*slots, width=sizes.prompt, sampling=decode.GREEDY)
    if program == "attribution":
        rows = (sizes.prompt, sizes.answer, NODES * sizes.layers)
        given = h100_gradients.row_arguments(lm, *rows)
        return row_gradients.lower(*given, target="mean_logprob")
    length = sizes.prompt + sizes.answer
    batch = Shape(sizes.stretches, sizes.side, length, sizes.answer, 4)
    given, optimiser = abstract_meta_step(lm, batch)
    options = MetaOptions(inner_steps=sizes.inner, remat=True)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        return meta_step.lower(*given, options=options, optimiser=optimiser)


def cost(program: str, shape: str, sizes: Sizes) -> tuple[float, int]:
    """(FLOPs of matrix products, bytes of temporaries) of a compiled program."""
    from benchmarks import hlo_cost

    made = lowered(program, shape, sizes).compile()
    # The loops of attribution and of decoding settle their rounds when they run: all layers, one.
    rounds = sizes.layers if program == "attribution" else 1
    flops = hlo_cost.Program(made.as_text(), rounds).flops / 2  # which counts float32 double
    return flops, made.memory_analysis().temp_size_in_bytes


def exponents(points: list[int], values: list[float]) -> tuple[float, float]:
    """(slope of the line through all logarithms, that of the last two points)."""
    x, y = np.log(points), np.log(np.maximum(values, 1))
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every program and axis; where axes begin, a program is compiled once."""
    axes, programs = args.axes.split(","), [name for name in PROGRAMS if args.only in name]
    if not programs:
        sys.exit(f"scaling.py: --only {args.only}: part of one of {', '.join(PROGRAMS)}")
    if unknown := {*axes} - {*AXES}:
        sys.exit(f"scaling.py: --axes {min(unknown)}: one of {', '.join(AXES)}")
    for program in programs:
        known: dict[Sizes, tuple[float, int]] = {}
        for axis in (axis for axis in PROGRAMS[program] if axis in axes):
            start, (field, points) = time.perf_counter(), AXES[axis]
            every = [dataclasses.replace(Sizes(), **{field: point}) for point in points]
            for sizes in every:
                if sizes not in known:
                    known[sizes] = cost(program, args.shape, sizes)
            yield cell(program, axis, list(points), [known[sizes] for sizes in every]) | {
                "seconds": round(time.perf_counter() - start, 1)
            }


def cell(
    program: str, axis: str, points: list[int], costs: list[tuple[float, int]]
) -> dict[str, Any]:
    """One row: what was counted, its exponents, and whether all of them are within the bar."""
    flops, held = (list(values) for values in zip(*costs, strict=True))
    bar = BARS.get((program, axis), Bar())
    of_flops, of_bytes = exponents(points, flops), exponents(points, held)
    return {
        "program": program, "axis": axis, "points": points,
        "flops_exponent": round(of_flops[0], 2), "bytes_exponent": round(of_bytes[0], 2),
        "flops_last": round(of_flops[1], 2), "bytes_last": round(of_bytes[1], 2),
        "gflop": [round(value / 1e9, 1) for value in flops],
        "mib": [round(value / 2**20, 1) for value in held],
        "bar": bar._asdict(), "ok": max(of_flops) <= bar.flops and max(of_bytes) <= bar.bytes,
    }  # fmt: skip


def main() -> None:
    """Compile, fit, print."""
    args = arguments()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    rows = []
    for row in cells(args):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.json:
        print(json.dumps({"cells": rows}))


if __name__ == "__main__":
    main()
