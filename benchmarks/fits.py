"""Whether the programs of a run with int8 matrices fit a card, read from what the compiler makes.

    python benchmarks/fits.py --json                  # Qwen2.5-14B, 22 GiB
    python benchmarks/fits.py --shape llama3.1-8b --room 15 --only slopes,score

No card is needed and nothing runs: see absent_gpu.py. Held is all that lies on the card while a
program runs: every weight, read or not, its other arguments, temporaries and results.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import absent_gpu
from benchmarks.plan import QUICK

GIB = 2**30


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--shape", default="qwen2.5-14b", help="of nt_jax/doctor/shapes.py")
    parser.add_argument("--room", type=float, default=22.0, help="GiB of the card")
    parser.add_argument("--only", default="", help="programs, e.g. slopes,score")
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "h100")
    return parser.parse_args()


def cases(shape: str) -> dict[str, tuple[str, Callable]]:
    """What makes each program, by name, and its size in words."""
    from benchmarks import h100_answers as answers
    from benchmarks import h100_gradients as gradients
    from benchmarks.h100_cases import mesh_of
    from benchmarks.models import SHAPES

    if shape not in SHAPES:
        sys.exit(f"fits.py: --shape {shape}: one of {', '.join(SHAPES)}")
    model, mesh = f"{shape}-int8", lambda: mesh_of(absent_gpu.cards(1))
    SHAPES[model] = dataclasses.replace(SHAPES[shape], int8=True)
    rows, before, after = answers.SCORED
    return {
        "slopes": (
            f"one answer, {gradients.SLOPE_TOKENS} tokens",
            lambda: gradients.slopes(model, mesh(), 1),
        ),
        "meta-step": (
            f"sequences of {gradients.TOKENS} tokens, layers twice, K = {gradients.INNER}",
            lambda: gradients.meta(model, mesh()),
        ),
        "score": (f"{rows} x {before} + {after} tokens", lambda: answers.scoring(model, mesh())),
        "prefill": (f"{answers.FILL} tokens", lambda: next(answers.filling(model, mesh()))),
        "decode": (
            f"64 slots of {answers.COLUMNS} columns",
            lambda: answers.decoding(model, mesh(), 64),
        ),
    }


def measured(name: str, words: str, make: Callable, room: float) -> dict:
    """One program in GiB of the card."""
    import jax

    from benchmarks.h100 import compiled

    case = make()
    found = compiled(case).memory_analysis()
    layers = case.arguments[1] if name in ("prefill", "decode") else None  # those of the model
    own = [part for part in case.arguments if layers is None or part is not layers]
    given = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(own))
    made = found.output_size_in_bytes - found.alias_size_in_bytes
    held = (given + found.temp_size_in_bytes + made) / GIB
    return {
        "program": name, "size": words, "given_gib": round(given / GIB, 2),
        "temporaries_gib": round(found.temp_size_in_bytes / GIB, 2),
        "held_gib": round(held, 2), "fits": held <= room,
    }  # fmt: skip


def main() -> None:
    """Compile, measure, print."""
    args = arguments()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    absent_gpu.prepare(args.tools)
    every, rows = cases(args.shape), []
    wanted = [name for name in args.only.split(",") if name]
    if unknown := {*wanted} - {*every}:
        sys.exit(f"fits.py: --only {min(unknown)}: one of {', '.join(every)}")
    for name, (words, make) in every.items():
        if not wanted or name in wanted:
            rows.append(measured(name, words, make, args.room))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        print(json.dumps({"shape": args.shape, "room_gib": args.room, "programs": rows}))


if __name__ == "__main__":
    main()
