"""What cards say to each other in every stage of an 8B model, beside what they have to.

    python benchmarks/sharding.py --json                           # every stage on every mesh
    python benchmarks/sharding.py --stages meta-step --meshes 2x4 --keep build/hlo

Programs are compiled for eight H100s that need not be there (absent_gpu.py) and read; nothing runs.
Figures are gigabytes that one card sends in a step (collectives.py), beside the least that the
stage's passes need (sharding_ideal.py). `ratio` is 1 where neither sends anything, null where only
the program does. Loops count as often as they run, so layers need no extrapolation; decoding alone,
whose layers are compiled one by one, is compiled with 2 and 4 and continued to all 32. A mesh is
data x model or data x model x fsdp; fsdp is tried where weights are used for many tokens at once.
The last table is a model: see weak_scaling.py.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import absent_gpu
from benchmarks.plan import QUICK

MODEL = "llama3-8b"
MESHES = "1x1,8x1,2x4,4x2,1x8,1x1x8"
WITH_FSDP = ("attribution", "meta-step", "slopes")
PROGRAMS = {
    "attribution": "attribution 65", "meta-step": "meta-step", "slopes": "slopes",
    "prefill": "prefill", "decode": "decode 64", "score": "score",
}  # fmt: skip
FEW = (2, 4)  # layers of what is continued to all
ALLOWED = 2.0  # times the ideal


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--stages", default=",".join(PROGRAMS))
    parser.add_argument("--meshes", default=MESHES, help="data x model, or data x model x fsdp")
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "h100")
    parser.add_argument("--keep", type=Path, help="folder for the texts of compiled programs")
    return parser.parse_args()


def compiled_text(stage: str, mesh: tuple[int, ...], layers: int, keep: Path | None) -> str:
    """A stage's program of so many layers."""
    from benchmarks.h100 import compiled
    from benchmarks.h100_cases import mesh_of
    from benchmarks.h100_programs import programs
    from benchmarks.models import SHAPES

    name = f"{MODEL}, {layers} layers"
    SHAPES[name] = dataclasses.replace(SHAPES[MODEL], layers=layers)
    cards = mesh_of(absent_gpu.cards(math.prod(mesh)), mesh)
    text = compiled(programs(name, lambda: cards)[PROGRAMS[stage]]()).as_text()
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{stage}_{'x'.join(map(str, mesh))}_{layers}.hlo").write_text(text)
    return text


def step_of(stage: str, mesh: tuple[int, ...], keep: Path | None):
    """The step of a stage: its time without collectives, and these."""
    from benchmarks.collectives import collectives, continued
    from benchmarks.hlo_cost import Program
    from benchmarks.models import SHAPES
    from benchmarks.weak_scaling import Step

    layers, rows = SHAPES[MODEL].layers, (math.prod(mesh) // mesh[1], mesh[1])

    def one(layers: int) -> Step:
        # Loops over layers may begin at any of them; decoding is one round of its loop.
        rounds = layers if stage == "attribution" else 1
        text = compiled_text(stage, mesh, layers, keep)
        seconds = sum(k.seconds for k in Program(text, rounds).kernels if not k.collective)
        return Step(rows, seconds, tuple(collectives(text, rows, rounds)))

    if stage != "decode":
        return one(layers)
    few, more = map(one, FEW)
    steps = (layers - FEW[1]) / (FEW[1] - FEW[0])
    grown = continued(few.collectives, more.collectives, steps)
    return Step(rows, more.compute + steps * (more.compute - few.compute), grown)


def row(stage: str, mesh: tuple[int, ...], step) -> dict:
    """One line of the result, and of what sends most where it is too much."""
    from benchmarks.collectives import by_op
    from benchmarks.models import SHAPES
    from benchmarks.sharding_ideal import ideal

    least = ideal(stage, SHAPES[MODEL], mesh)
    sent = sum(each.sent for each in step.collectives)
    ratio = sent / least.sent if least.sent else None if sent else 1.0
    most = sorted(step.collectives, key=lambda each: -each.sent)[:3]
    over = ratio is None or ratio > ALLOWED
    return {
        "name": stage, "mesh": f"{mesh[0]}x{mesh[1]}", "fsdp": (*mesh, 1)[2],
        "collective_gb": round(sent / 1e9, 6), "ideal_gb": round(least.sent / 1e9, 6),
        "ratio": ratio and round(ratio, 2), "counts": by_op(step.collectives),
        "data_gb": round(sum(e.sent for e in step.collectives if e.axis != "model") / 1e9, 6),
        "formula": least.formula,
        "most": [f"{e.times} x {e.op} {e.axis} {e.shape} {e.source}" for e in most] if over else [],
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown, a line a stage and mesh."""
    lines = [
        "| stage | mesh | fsdp | sent, GB | of these between rows | ideal | ratio | collectives |",
        "|:--|:--|--:|--:|--:|--:|--:|:--|",
    ]
    for each in rows:
        ratio = "none needed" if each["ratio"] is None else f"{each['ratio']:.2f}"
        mark = "**" if each["most"] else ""
        counts = ", ".join(f"{n:,} {op}" for op, n in each["counts"].items()) or "none"
        sizes = (f"{each[key]:.4f}" for key in ("collective_gb", "data_gb", "ideal_gb"))
        shown = " | ".join(sizes)
        lines.append(
            f"| {each['name']} | {each['mesh']} | {each['fsdp']} | {shown} | "
            f"{mark}{ratio}{mark} | {counts} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compile, read, print."""
    args = arguments()
    fast = "--xla_gpu_enable_triton_gemm=false"  # which kernel multiplies is no matter here
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK} {fast}"
    absent_gpu.prepare(args.tools)
    from benchmarks import weak_scaling

    rows, steps = [], {}
    for stage in args.stages.split(","):
        for words in args.meshes.split(","):
            start, mesh = time.perf_counter(), tuple(map(int, words.split("x")))
            if len(mesh) == 3 and stage not in WITH_FSDP:
                continue
            step = step_of(stage, mesh, args.keep)
            rows.append(row(stage, mesh, step))
            if mesh[0] > 1:
                steps.setdefault(stage, []).append(step)
            print(f"{json.dumps(rows[-1])} {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{table(rows)}\n\nWeak scaling, modelled: {weak_scaling.CONSTANTS}.\n")
    print(weak_scaling.table(steps))
    if args.json:
        keys = ("name", "mesh", "fsdp", "collective_gb", "ideal_gb", "ratio", "counts")
        print(json.dumps({"stages": [{key: each[key] for key in keys} for each in rows]}))


if __name__ == "__main__":
    main()
