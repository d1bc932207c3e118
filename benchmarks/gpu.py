"""The hot programs timed for real, beside what benchmarks/h100.py models and their floors.

    python benchmarks/gpu.py --json --table build/gpu.md
    python benchmarks/gpu.py --json --shapes tiny --only decode     # on whatever device there is

Each program is compiled once for the devices that are here, given random arguments that are made on
them, warmed up by one call and timed: the median of several. What does not fit the card by the
memory plan (plan.py), and what there is no time left for, is left out by name; so is what fails,
while the others go on, and the exit code is then 1. Floors and models are those of an H100; another
card gets its times and no ratio.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MADE_UP, META = "tiny", "meta-step"  # the shape that runs anywhere; programs that compile longest
Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument(
        "--shapes", default="llama3-8b,qwen2.5-14b", help="tiny: any device will do"
    )
    parser.add_argument(
        "--only", default="", help="programs whose name holds one of these, by comma"
    )
    parser.add_argument("--cards", type=int, help="so many of the devices; else as many as serve")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each program")
    parser.add_argument(
        "--seconds", type=float, default=480, help="no program starts that may end later"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a markdown table, too")
    return parser.parse_args()


def no_gpu(shapes: str) -> str | None:
    """What is wrong with this machine and what to do, None where it has what is asked for."""
    import jax

    from nt_jax.mesh import devices

    if jax.devices()[0].platform == "gpu" or shapes == MADE_UP:
        return None
    return (
        f"benchmarks/gpu.py: no GPU here (jax sees {devices()}) to time {shapes} on. Run it where "
        "nvidia-smi lists a card and jax has its plugin (pip install 'jax[cuda12]'), or try the "
        f"script with --shapes {MADE_UP}."
    )


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """A row for every program: its time, or why it was left out."""
    import jax

    from benchmarks.gpu_timing import attempt
    from benchmarks.h100_cases import LAYOUTS, mesh_of
    from benchmarks.h100_programs import programs
    from nt_jax.mesh import memory_limit

    start, seen = time.perf_counter(), {}
    most = min(args.cards or len(jax.devices()), len(jax.devices()))
    count = max(n for n in LAYOUTS if n <= most)
    mesh, limit = mesh_of(jax.devices()[:count]), memory_limit()
    for model in args.shapes.split(","):
        held: dict[str, Any] = {}
        # What takes longest to compile comes last.
        for name, make in sorted(programs(model, lambda: mesh).items(), key=lambda x: META in x[0]):
            if not any(part in name for part in args.only.split(",")):
                continue
            began = time.perf_counter()
            row = {"name": name, "model": model, "bytes_limit_gib": round(limit / 2**30, 2)}
            expected = seen.get(name, max(seen.values(), default=0.0))
            if began - start + expected >= args.seconds:
                yield row | {"left_out": f"time: {args.seconds:.0f} s would not have been enough"}
                continue
            yield row | attempt(name, model, make, held, limit, args)
            seen[name] = time.perf_counter() - began


def note() -> str:
    """What the figures of this card may be compared with."""
    from benchmarks import hlo_cost
    from benchmarks.gpu_timing import is_h100
    from nt_jax.mesh import devices

    if is_h100():
        return f"floors and models: {hlo_cost.PEAK:.1e} FLOP/s, {hlo_cost.BANDWIDTH:.1e} bytes/s"
    return (
        f"this is no {hlo_cost.CARD} but {devices()}: floors are an {hlo_cost.CARD}'s, so there is "
        "no model and no ratio"
    )


def table(found: Row) -> str:
    """Markdown: card and date, then a line a program."""
    lines = [
        f"{found['card']}, {found['date']}, jax {found['jax']}; {found['note']}.", "",
        "| program | shape | measured ms | modelled ms | floor ms | measured / floor | compile s |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for row in found["programs"]:
        figures = ("measured_ms", "modelled_ms", "floor_ms", "ratio", "compile_s")
        shown = ("-" if row[name] is None else str(row[name]) for name in figures)
        lines.append(f"| {row['name']} | {row['model']} | {' | '.join(shown)} |")
    lines += [
        "",
        *(f"Left out: {r['name']} {r['model']}, {r['left_out']}." for r in found["left_out"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Time what there is a device for; the exit code."""
    args = arguments()
    if problem := no_gpu(args.shapes):
        print(problem, file=sys.stderr)
        return 2
    import jax

    from nt_jax.atomic import write_atomic
    from nt_jax.mesh import devices

    if args.table:
        args.table.parent.mkdir(parents=True, exist_ok=True)  # fails before minutes are spent
    found: Row = {"card": devices(), "date": datetime.date.today().isoformat()}
    found |= {"jax": jax.__version__, "note": note(), "programs": [], "left_out": []}
    print(found["note"])
    for row in rows(args):
        found["left_out" if "left_out" in row else "programs"].append(row)
        print(json.dumps(row), flush=True)
    if args.table:
        write_atomic(args.table, table(found).encode())
    if args.json:
        print(json.dumps(found))
    return int(any(row["left_out"].startswith("error") for row in found["left_out"]))


if __name__ == "__main__":
    sys.exit(main())
