"""What doctor plans for published shapes, as a table: `python benchmarks/plan_models.py`.

Shapes are those of the config.json of each source (nt_jax/doctor/shapes.py), settings those of its
recipe or the defaults, data the demo's. Compiles nothing.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODELS = (
    "qwen2.5-0.5b", "llama3.1-8b", "qwen2.5-14b", "qwen2.5-32b", "llama3.1-70b", "llama3.1-405b",
)  # fmt: skip
PLACES = ("8xh100", "8xh200")


def planned(name: str, place: str) -> dict:
    """The smallest mesh of a place that holds a model, or the nearest one."""
    from nt_jax.doctor.devices import devices_of
    from nt_jax.doctor.meshes import fastest, layouts, nearest, smallest
    from nt_jax.doctor.subject import find_subject
    from nt_jax.run.data import read_data

    subject, (count, kind) = find_subject(name, None), devices_of(place)
    data, start = read_data(subject.config), time.perf_counter()
    found = layouts(subject.config, subject.model, data.records, data.tests, count, kind)
    best, quick = smallest(found), fastest(found)
    at, took = best or nearest(found), time.perf_counter() - start
    held = {stage: round(each.total / 1e9, 1) for stage, each in at.stages.items()}
    return {
        "model": name, "source": subject.config.model.source, "devices": place, "mesh": str(at),
        "fits": best is not None, "fastest": quick and str(quick), "largest": at.largest,
        "room_gb": at.room / 1e9, "gb": held, "minutes": round(at.time / 60, 1),
        "dtype": subject.config.model.dtype, "seconds_to_plan": round(took, 3),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown, a line a model and place."""
    lines = [
        "| model | dtype | devices | smallest mesh | weights, GB | largest stage, GB | of | fits | "
        "minutes |",
        "|:--|:--|:--|:--|--:|:--|--:|:--|--:|",
    ]
    lines += [
        f"| {each['source']} | {each['dtype']} | {each['devices']} | {each['mesh']} | "
        f"{each['gb']['export'] / 2:.1f} | {each['gb'][each['largest']]:.1f} ({each['largest']}) | "
        f"{each['room_gb']:.0f} | {'yes' if each['fits'] else '**no**'} | {each['minutes']:.0f} |"
        for each in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Plan all, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    rows = [planned(name, place) for name in MODELS for place in PLACES]
    print(table(rows))
    if args.json:
        print(json.dumps({"plans": rows}))


if __name__ == "__main__":
    main()
