"""Time and memory of the hot programs on H100s, read from what the compiler makes of them.

    python benchmarks/h100.py --json                     # the default set
    python benchmarks/h100.py --json --all               # every program, shape and number of cards
    python benchmarks/h100.py --only "decode" --shapes llama3-8b

No card is needed and nothing runs: see absent_gpu.py. `modelled_ms` is a lower bound (hlo_cost.py),
`floor_ms` what the task itself needs by the formula that is printed beside it, both of one card.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import absent_gpu


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--all", action="store_true", help="all shapes on 1, 2, 4 and 8 cards")
    parser.add_argument("--only", default="", help="programs whose name holds this")
    parser.add_argument("--shapes", default="llama3-8b,qwen2.5-14b")
    parser.add_argument("--cards", default="", help="so many cards, e.g. 1,8")
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "h100")
    parser.add_argument("--keep", type=Path, help="folder for the texts of compiled programs")
    return parser.parse_args()


# What runs without --all: all programs of 8B on one card, and what the bars are about beside.
DEFAULT = {
    ("meta-step", "qwen2.5-14b", 1), ("decode 64", "qwen2.5-14b", 1), ("insert", "llama3-8b", 8),
}  # fmt: skip


def chosen(args):
    """What makes each wanted program."""
    from benchmarks.h100_cases import LAYOUTS, mesh_of
    from benchmarks.h100_programs import programs

    for model in args.shapes.split(","):
        for count in map(int, args.cards.split(",")) if args.cards else LAYOUTS:
            for name, make in programs(model, lambda n=count: mesh_of(absent_gpu.cards(n))).items():
                default = (name, model, count) in DEFAULT or (model, count) == ("llama3-8b", 1)
                if args.only in name and (args.all or args.cards or args.only or default):
                    yield make


def compiled(case):
    """The program; where XLA's own kernels for products have no tiles for its sizes, cuBLAS's.

    A card would try both and take the faster.
    """
    lowered = case.lowered()
    try:
        return lowered.compile()
    except Exception as error:
        if "tile sizes" not in str(error):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


def measure(case, keep: Path | None) -> dict:
    """One row: what the compiler says of a program."""
    from benchmarks import hlo_cost

    start = time.perf_counter()
    try:
        program = compiled(case)
    except Exception as error:  # whatever the compiler cannot do is a row too
        words = " ".join(str(error).split())[:200]
        return {"name": case.name, "cards": case.cards, "error": f"{type(error).__name__}: {words}"}
    seconds, text = time.perf_counter() - start, program.as_text()
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{case.name} {case.cards}.hlo".replace(" ", "_")).write_text(text)
    read, memory = hlo_cost.Program(text, case.rounds, case.seen), program.memory_analysis()
    floor = case.floor_seconds
    return {
        "name": case.name, "cards": case.cards,
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "planned_gib": case.planned and round(case.planned / case.cards / 2**30, 2),
        "modelled_ms": round(1e3 * read.seconds, 2), "floor_ms": round(1e3 * floor, 2),
        "ratio": round(read.seconds / floor, 2),
        "kernels": sum(kernel.times for kernel in read.kernels),
        "compile_s": round(seconds, 1),
        "collective_gb": round(read.collective_bytes / 1e9, 3),
        "tflop": round(read.flops / 1e12, 1), "gb": round(read.bytes / 1e9, 1),
        "floor": case.floor.formula,
    }  # fmt: skip


def main() -> None:
    """Compile, measure, print."""
    args = arguments()
    absent_gpu.prepare(args.tools)
    rows = []
    for make in chosen(args):
        row = measure(make(), args.keep)
        rows.append(row)
        shown = {key: value for key, value in row.items() if key != "floor"}
        print(json.dumps(shown), f"floor: {row.get('floor')}", flush=True)
    if args.json:
        print(json.dumps({"programs": rows}))


if __name__ == "__main__":
    main()
