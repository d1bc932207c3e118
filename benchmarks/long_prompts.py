"""Memory of long prompts: what the compiler gives the programs on an H100, and what the plan says.

    python benchmarks/long_prompts.py --json
    python benchmarks/long_prompts.py --tokens 8192,32768 --only prefix,slopes

No card is needed and nothing runs: see absent_gpu.py. Temporaries of one card, bfloat16; an
exponent is the slope between the logarithms of the last two lengths: 1 is linear.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import absent_gpu
from benchmarks.plan import QUICK
from benchmarks.scaling import exponents

ANSWER, ATTRIBUTED, ROWS, SLOTS = 128, 65, 4, 8
GIB = 2**30


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--shape", default="llama3.1-8b", help="of nt_jax/doctor/shapes.py")
    parser.add_argument("--tokens", default="8192,16384,32768", help="lengths of a prompt")
    parser.add_argument("--only", default="", help="programs, e.g. prefix,slopes")
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "h100")
    return parser.parse_args()


def programs(shape: str, tokens: int) -> dict[str, tuple[Any, int]]:
    """By name: what makes a program, and the bytes of temporaries that are planned for it."""
    from benchmarks import h100_answers as answers
    from benchmarks import h100_gradients as gradients
    from benchmarks.h100_cases import mesh_of
    from benchmarks.models import SHAPES
    from nt_jax.models.footprint import Footprint

    mesh, held = mesh_of(absent_gpu.cards(1)), Footprint(SHAPES[shape], 2)
    layers, targets = held.whole.layers, gradients.TARGETS
    return {
        "prefix": (
            lambda: gradients.prefix(shape, mesh, tokens, ATTRIBUTED),
            held.prefix(tokens + ATTRIBUTED, ATTRIBUTED),
        ),
        f"attribution, {ROWS} rows": (
            lambda: gradients.attribution(shape, mesh, ATTRIBUTED, ROWS, tokens),
            held.attribution(ROWS, tokens, ATTRIBUTED),
        ),
        "slopes, one row": (
            lambda: gradients.slopes(shape, mesh, 1, True, tokens),
            held.slopes(1, tokens, layers, remat=True),
        ),
        "meta-step, one sequence at a time": (
            lambda: gradients.meta(shape, mesh, length=tokens),
            held.meta_step(1, tokens, targets, layers, remat=True),
        ),
        "prefill, one prompt": (
            lambda: next(answers.filling(shape, mesh, tokens, tokens, 1)),
            held.prefill(tokens, 1, tokens),
        ),
        f"decode, {SLOTS} slots": (
            lambda: answers.decoding(shape, mesh, SLOTS, tokens),
            held.decode(SLOTS),
        ),
        "score, one answer": (
            lambda: answers.scoring(shape, mesh, (1, tokens, ANSWER)),
            held.score(1, tokens, ANSWER),
        ),
    }


def measured(shape: str, tokens: int, wanted: list[str]) -> list[dict[str, Any]]:
    """A row for each program at one length; what the compiler cannot do is a row too."""
    from benchmarks.h100 import compiled

    rows = []
    for name, (make, planned) in programs(shape, tokens).items():
        if wanted and not any(word in name for word in wanted):
            continue
        start, row = time.perf_counter(), {"program": name, "tokens": tokens}
        try:
            found = compiled(make()).memory_analysis().temp_size_in_bytes
            row |= {
                "temporaries_gib": round(found / GIB, 3),
                "planned_gib": round(planned / GIB, 3),
            }
        except Exception as error:
            row |= {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        rows.append(row | {"seconds": round(time.perf_counter() - start, 1)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def last_exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of each program's temporaries in tokens, from its last two lengths."""
    found = {}
    for name in dict.fromkeys(row["program"] for row in rows):
        own = [row for row in rows if row["program"] == name and "temporaries_gib" in row]
        if len(own) > 1:
            points, values = ([row[key] for row in own] for key in ("tokens", "temporaries_gib"))
            found[name] = round(exponents(points, [GIB * value for value in values])[1], 2)
    return found


def main() -> None:
    """Compile, fit, print."""
    args = arguments()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    absent_gpu.prepare(args.tools)
    wanted = [name for name in args.only.split(",") if name]
    rows = [
        row
        for tokens in map(int, args.tokens.split(","))
        for row in measured(args.shape, tokens, wanted)
    ]
    if args.json:
        print(json.dumps({"shape": args.shape, "rows": rows, "exponents": last_exponents(rows)}))


if __name__ == "__main__":
    main()
