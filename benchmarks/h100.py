"""Time and memory of the hot programs on H100s, read from what the compiler makes of them.

    python benchmarks/h100.py --json                     # the default set
    python benchmarks/h100.py --json --all               # every program, shape and number of cards
    python benchmarks/h100.py --only "decode" --shapes llama3-8b
    python benchmarks/h100.py --recorded                 # the last default set; compiles nothing

No card is needed and nothing runs: see absent_gpu.py. `modelled_ms` is a lower bound (hlo_cost.py),
`floor_ms` what the task itself needs by the formula that is printed beside it, both of one card.
`planned_gib` are the temporaries of the run's own memory plan. --record keeps the default set in
benchmarks/h100_rows.json, of which docs/performance.md shows the table.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from benchmarks.h100_cases import Case

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import absent_gpu
from benchmarks.demo import git

RECORD = ROOT / "benchmarks" / "h100_rows.json"
Row = dict[str, Any]


class Wanted(NamedTuple):
    """A program to compile."""

    program: str
    shape: str
    cards: int
    make: Callable[[], "Case"]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--all", action="store_true", help="all shapes on 1, 2, 4 and 8 cards")
    parser.add_argument("--only", default="", help="programs whose name holds this")
    parser.add_argument("--shapes", default="llama3-8b,qwen2.5-14b")
    parser.add_argument("--cards", default="", help="so many cards, e.g. 1,8")
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "h100")
    parser.add_argument("--record", action="store_true", help=f"keep the set in {RECORD.name}")
    parser.add_argument("--recorded", action="store_true", help="print what was kept, no more")
    parser.add_argument("--keep", type=Path, help="folder for the texts of compiled programs")
    args = parser.parse_args()
    chosen = args.all or args.only or args.cards or args.shapes != parser.get_default("shapes")
    if args.record and (chosen or args.recorded):
        parser.error("--record keeps the default set, measured now: give it without a choice")
    if args.recorded and chosen:
        parser.error("--recorded prints the default set as it was kept: give it without a choice")
    return args


EIGHT, FOURTEEN = "llama3-8b", "qwen2.5-14b"
# What runs without --all: all programs of 8B on one card, and what the bars are about beside.
DEFAULT = {
    ("meta-step", FOURTEEN, 1), ("meta-step 4 beside", FOURTEEN, 1), ("decode 64", FOURTEEN, 1),
    ("insert", EIGHT, 8),
}  # fmt: skip
# What was asked for: the most that a figure of a row may be.
BARS = {
    ("meta-step 4 beside", EIGHT, 1): {"temporaries_gib": 4, "ratio": 2.2},
    ("meta-step 4 beside", FOURTEEN, 1): {"temporaries_gib": 9, "ratio": 2.2},
    ("attribution 1", EIGHT, 1): {"ratio": 2},
    ("attribution 65", EIGHT, 1): {"ratio": 1.5},
    ("prefill", EIGHT, 1): {"ratio": 1.5},
    ("decode 64", EIGHT, 1): {"ratio": 1.6},
    ("decode 256", EIGHT, 1): {"ratio": 1.6},
    ("decode 64", FOURTEEN, 1): {"ratio": 1.6},
    ("insert", EIGHT, 8): {"collective_gb": 4},
}


def chosen(args: argparse.Namespace) -> Iterator[Wanted]:
    """The programs that are asked for; ends with one line where a shape or count is unknown."""
    from benchmarks.h100_cases import LAYOUTS, mesh_of
    from benchmarks.h100_programs import programs
    from benchmarks.models import SHAPES

    known = [str(count) for count in LAYOUTS]
    counts, shapes = args.cards.split(",") if args.cards else known, args.shapes.split(",")
    for flag, given, all_of in (("--cards", counts, known), ("--shapes", shapes, list(SHAPES))):
        if unknown := set(given) - set(all_of):
            raise SystemExit(f"h100.py: {flag} {min(unknown)}: one of {', '.join(all_of)}")
    for shape in shapes:
        for count in map(int, counts):
            for name, make in programs(shape, lambda n=count: mesh_of(absent_gpu.cards(n))).items():
                default = (name, shape, count) in DEFAULT or (shape, count) == (EIGHT, 1)
                if args.only in name and (args.all or args.cards or args.only or default):
                    yield Wanted(name, shape, count, make)


def compiled(case: "Case"):
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


def measure(wanted: Wanted, keep: Path | None) -> Row:
    """One row: what the compiler says of a program."""
    from benchmarks import hlo_cost
    from benchmarks.plan import planned

    program, shape, cards, _ = wanted
    row = {"name": f"{program} {shape}", "program": program, "shape": shape, "cards": cards}
    start, case = time.perf_counter(), wanted.make()
    try:
        made = compiled(case)
    except Exception as error:  # whatever the compiler cannot do is a row too
        words = " ".join(str(error).split())[:200]
        row |= {"error": f"{type(error).__name__}: {words}"}
        return row | bars_of(row)
    seconds, text = time.perf_counter() - start, made.as_text()
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{case.name} {cards}.hlo".replace(" ", "_")).write_text(text)
    read, memory = hlo_cost.Program(text, case.rounds, case.seen), made.memory_analysis()
    floor, plan = case.floor_seconds, planned({**row, "mesh": case.layout})
    row |= {
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "planned_gib": round(plan.temporaries / 2**30, 2),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "modelled_ms": round(1e3 * read.seconds, 2), "floor_ms": round(1e3 * floor, 2),
        "ratio": round(read.seconds / floor, 2),
        "kernels": sum(kernel.times for kernel in read.kernels),
        "compile_s": round(seconds, 1),
        "collective_gb": round(read.collective_bytes / 1e9, 3),
        "tflop": round(read.flops / 1e12, 1), "gb": round(read.bytes / 1e9, 1),
        "floor": case.floor.formula,
    }  # fmt: skip
    return row | bars_of(row)


def bars_of(row: Row) -> Row:
    """What was asked of a row, and whether it is met: not by one without figures."""
    bars = BARS.get((row["program"], row["shape"], row["cards"]))
    if not bars:
        return {}
    return {"bars": bars, "met": all(row.get(k, math.inf) <= most for k, most in bars.items())}


def figure(row: Row, key: str) -> str:
    """A number of a row, bold where it misses its bar."""
    missed = row[key] > row.get("bars", {}).get(key, math.inf)
    return f"**{row[key]:,}**" if missed else f"{row[key]:,}"


def table(found: Row) -> str:
    """Markdown, a line a row; what misses its bar is bold."""
    names = ("program", "shape", "cards", "temporaries, GiB", "planned", "modelled ms", "floor ms")
    names += ("ratio", "kernels", "collectives, GB", "compiled in, s", "asked for")
    lines = [f"| {' | '.join(names)} |", "|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|:--|"]
    words = {"temporaries_gib": "GiB", "ratio": "ratio", "collective_gb": "GB gathered"}
    for row in found["programs"]:
        if "error" in row:
            lines.append(f"| {row['program']} | {row['shape']} | {row['cards']} | {row['error']} |")
            continue
        keys = ("temporaries_gib", "planned_gib", "modelled_ms", "floor_ms", "ratio", "kernels")
        cells = [row["program"], row["shape"], str(row["cards"])]
        cells += [figure(row, key) for key in (*keys, "collective_gb", "compile_s")]
        cells.append(", ".join(f"{words[k]} {most}" for k, most in row.get("bars", {}).items()))
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def measured(args: argparse.Namespace) -> Row:
    """Compile and measure; each row is said as it is done."""
    import jaxlib

    # Of a record the commit is told, with a mark where files differ from it.
    commit = git("describe", "--always", "--dirty", "--exclude=*") if args.record else None
    absent_gpu.prepare(args.tools)
    start, rows = time.perf_counter(), []
    for wanted in chosen(args):
        row = measure(wanted, args.keep)
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "floor"}),
              f"floor: {row.get('floor')}", file=sys.stderr, flush=True)  # fmt: skip
    if not rows:
        raise SystemExit(f"h100.py: no program is named like {args.only!r} or in the default set")
    seconds = round(time.perf_counter() - start)
    return {"commit": commit, "date": time.strftime("%Y-%m-%d"), "jaxlib": jaxlib.__version__,
            "seconds": seconds, "programs": rows}  # fmt: skip


def main() -> None:
    """Compile, measure, print."""
    args = arguments()
    found = json.loads(RECORD.read_text()) if args.recorded else measured(args)
    if args.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
