"""The memory plan held against what the compiler gives the real programs on H100s.

    python benchmarks/plan.py --json                       # the recorded cells; compiles nothing
    python benchmarks/plan.py --compile --shapes llama3.1-8b --meshes 1x1,1x8 --programs slopes

--compile adds cells to benchmarks/plan_cells.jsonl, one a line, and leaves those that are there.
No card is needed and nothing runs: see absent_gpu.py. Figures are bytes of one card, bfloat16: all
that a program holds (arguments, temporaries, results), and its temporaries alone.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import absent_gpu

CELLS = ROOT / "benchmarks" / "plan_cells.jsonl"
ALLOWED = 0.15  # of all that a program holds
# Buffers are assigned before code is made for them, so the code may be made carelessly.
QUICK = "--xla_backend_optimization_level=0 --xla_gpu_disable_gpuasm_optimizations=true"
KINDS = ("temp", "argument", "output", "alias")
Cell = dict[str, Any]  # program, shape, mesh, and the bytes of each of KINDS


class Planned(NamedTuple):
    """The closed form's bytes of a program on one card."""

    arguments: int
    temporaries: int
    results: int  # beside the arguments that are given back

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--compile", action="store_true", help="add cells to the record")
    parser.add_argument("--shapes", default="llama3.1-8b", help="of nt_jax/doctor/shapes.py")
    parser.add_argument("--meshes", default="1x1", help="data x model (x fsdp), e.g. 1x1,2x4,1x1x8")
    parser.add_argument("--programs", default="meta-step,slopes,attribution 65,prefill,decode 64")
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "h100")
    args = parser.parse_args()
    chosen = any(
        getattr(args, n) != parser.get_default(n) for n in ("shapes", "meshes", "programs")
    )
    if chosen and not args.compile:
        parser.error("--shapes, --meshes and --programs say what to --compile: give it as well")
    return args


def recorded() -> list[Cell]:
    """All cells that were compiled."""
    return [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []


def add_cells(args: argparse.Namespace) -> None:
    """Compile what is asked for and not recorded yet; one line a cell as it is done."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    absent_gpu.prepare(args.tools)
    check(args)
    known = {(cell["program"], cell["shape"], cell["mesh"]) for cell in recorded()}
    for shape in args.shapes.split(","):
        for mesh in args.meshes.split(","):
            for name in args.programs.split(","):
                if (name, shape, mesh) in known:
                    continue
                start, cell = time.perf_counter(), {"program": name, "shape": shape, "mesh": mesh}
                try:
                    cell |= compiled_bytes(name, shape, mesh)
                except Exception as error:  # whatever the compiler cannot do is told, not recorded
                    print(json.dumps(cell), " ".join(str(error).split())[:300], flush=True)
                    continue
                with CELLS.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
                print(json.dumps(cell), f"{time.perf_counter() - start:.0f} s", flush=True)


def check(args: argparse.Namespace) -> None:
    """End with one line where a shape, mesh or program is unknown."""
    from benchmarks.h100_cases import mesh_of
    from benchmarks.h100_programs import programs
    from benchmarks.models import SHAPES

    named = [*programs("tiny", lambda: mesh_of(absent_gpu.cards(1)))]  # none is made
    for flag, known in (("shapes", [*SHAPES]), ("programs", named)):
        if unknown := {*getattr(args, flag).split(",")} - {*known}:
            sys.exit(f"plan.py: --{flag} {min(unknown)}: one of {', '.join(known)}")
    for mesh in args.meshes.split(","):
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", mesh):
            sys.exit(f"plan.py: --meshes {mesh}: as in 1x1,2x4,1x1x8")


def compiled_bytes(name: str, shape: str, words: str) -> dict[str, int]:
    """What the compiler says of one program."""
    from benchmarks.h100 import compiled
    from benchmarks.h100_cases import mesh_of
    from benchmarks.h100_programs import programs

    layout = tuple(map(int, words.split("x")))
    mesh = mesh_of(absent_gpu.cards(math.prod(layout)), layout)
    found = compiled(programs(shape, lambda: mesh)[name]()).memory_analysis()
    return {kind: getattr(found, f"{kind}_size_in_bytes") for kind in KINDS}


def planned(cell: Cell) -> Planned:
    """The closed form of a cell's program at the sizes that it was compiled for."""
    from benchmarks import h100_answers as answers
    from benchmarks import h100_gradients as gradients
    from benchmarks.models import SHAPES
    from nt_jax.models.footprint import WIDE, Footprint

    model = SHAPES[cell["shape"]]
    data, ways, *shares = map(int, cell["mesh"].split("x"))
    fsdp = math.prod(shares)
    held = Footprint(model, 2, data * fsdp, ways, fsdp)
    part, weights, layers = held.part, held.weights, model.layers
    unread = 0 if model.tied else held.item * part.vocab_size * held.stored.width  # the embedding

    def meta(remat: bool, beside: int = 1) -> Planned:
        sequences = max(gradients.STRETCHES, held.data) // held.data
        streams = 4 * sequences * gradients.TOKENS * held.item * part.width
        side = min(beside * held.data, max(gradients.STRETCHES, held.data))
        size = (side, gradients.TOKENS, gradients.TARGETS, layers)
        return Planned(weights + streams, held.meta_step(*size, remat=remat), 0)

    def slopes() -> Planned:
        rows, tokens = gradients.SLOPE_ROWS, gradients.SLOPE_TOKENS
        streams = held.item * rows * tokens * part.width // held.data
        given = WIDE * rows * layers * model.neurons // held.data
        fused = dataclasses.replace(held, fused=fsdp == 1)
        return Planned(weights - unread + streams, fused.slopes(rows, tokens, layers), given)

    def attribution(rows: int, answer: int) -> Planned:
        prompt = gradients.PROMPT
        prefix = held.data * held.cache(1, prompt) + held.item * layers * answer * part.width
        each = WIDE * rows * part.width // held.data
        taken = held.attribution(rows, prompt, answer)
        return Planned(weights - unread + prefix + each, taken, each)

    def prefill() -> Planned:
        rows = 2 * answers.FILL // answers.ROW
        taken = held.prefill(answers.FILL, rows, answers.ROW, answers.SHARED)
        shared, own = (held.cache(rows, columns) for columns in (answers.SHARED, answers.ROW))
        return Planned(weights + shared, taken, own)

    def decode(slots: int) -> Planned:
        return Planned(weights + held.cache(slots, answers.COLUMNS), held.decode(slots), 0)

    def insert() -> Planned:
        rows, columns = 2 * answers.FILL // answers.ROW, answers.ROW + answers.SHARED
        both = held.cache(64, answers.COLUMNS) + held.cache(rows, columns)
        return Planned(both, held.insert(rows, columns), 0)

    made: dict[str, Callable[[], Planned]] = {
        "meta-step": lambda: meta(True),
        "meta-step 4 beside": lambda: meta(True, 4),
        "stored meta-step": lambda: meta(False),
        "slopes": slopes,
        "attribution 1": lambda: attribution(gradients.STEPS * 32, 1),
        "attribution 65": lambda: attribution(72, gradients.ANSWER),
        "score": lambda: Planned(weights, held.score(*answers.SCORED), 0),
        "prefill": prefill,
        "decode 64": lambda: decode(64),
        "decode 256": lambda: decode(256),
        "insert": insert,
    }
    return made[cell["program"]]()


def row(cell: Cell) -> Cell:
    """One cell beside its plan; errors are shares of what the compiler says."""
    plan = planned(cell)
    total = cell["argument"] + cell["temp"] + cell["output"] - cell["alias"]
    return {
        **{name: cell[name] for name in ("program", "shape", "mesh")},
        "compiled_gb": round(total / 1e9, 3), "planned_gb": round(plan.total / 1e9, 3),
        "error": round(plan.total / total - 1, 3), "temporaries_gb": round(cell["temp"] / 1e9, 3),
        "planned_temporaries_gb": round(plan.temporaries / 1e9, 3),
        "temporaries_error": round(plan.temporaries / cell["temp"] - 1, 3),
    }  # fmt: skip


def compared() -> list[Cell]:
    """Every recorded cell beside its plan, in order."""
    return sorted(map(row, recorded()), key=lambda r: (r["program"], r["shape"], r["mesh"]))


def table(rows: list[Cell]) -> str:
    """Markdown, a line a cell."""
    names = ("program", "shape", "mesh", "held, GB: compiled", "planned", "error")
    names += ("temporaries, GB: compiled", "planned", "error")
    lines = [f"| {' | '.join(names)} |", "|:--|:--|:--|--:|--:|--:|--:|--:|--:|"]
    for each in rows:
        mark = "**" if abs(each["error"]) > ALLOWED else ""
        lines.append(
            f"| {each['program']} | {each['shape']} | {each['mesh']} | {each['compiled_gb']:.2f} | "
            f"{each['planned_gb']:.2f} | {mark}{100 * each['error']:+.1f} %{mark} | "
            f"{each['temporaries_gb']:.2f} | {each['planned_temporaries_gb']:.2f} | "
            f"{100 * each['temporaries_error']:+.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compile if asked to, then compare."""
    args = arguments()
    if args.compile:
        add_cells(args)
    rows = compared()
    print(table(rows))
    if args.json:
        print(json.dumps({"cells": rows}))


if __name__ == "__main__":
    main()
