"""One program timed on the devices that are here: what it needs, its calls, its row."""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.stages import Compiled

from benchmarks import filling, hlo_cost
from benchmarks.h100 import compiled
from benchmarks.h100_cases import Case
from benchmarks.plan import planned
from nt_jax.models.transformer import LanguageModel

Row = dict[str, Any]
Held = dict[str, LanguageModel]  # the model whose weights are on the devices, by its shape


def needed(name: str, model: str, case: Case) -> int:
    """Bytes of a device: its part of all arguments, and what the plan says of the rest."""

    def part(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        return math.prod(shape) * leaf.dtype.itemsize

    plan = planned({"program": name, "shape": model, "mesh": case.layout})
    return sum(map(part, jax.tree.leaves(case.arguments))) + plan.temporaries + plan.results


def seconds_of(program: Compiled, case: Case, given: tuple[Any, ...], repeats: int) -> list[float]:
    """Seconds of each call of a compiled program, but for a first one that warms up."""
    places, found = jax.tree.map(lambda leaf: leaf.sharding, given), []
    for _ in range(1 + repeats):
        jax.block_until_ready(given)
        start = time.perf_counter()
        result = jax.block_until_ready(program(*given, **case.options))
        found.append(time.perf_counter() - start)
        given = jax.device_put(case.again(given, result), places)
    return found[1:]


def modelled(program: Compiled, case: Case) -> float | None:
    """The lower bound in ms that hlo_cost.py reads from the program as this card runs it."""
    try:
        return round(1e3 * hlo_cost.Program(program.as_text(), case.rounds, case.seen).seconds, 3)
    except (AssertionError, KeyError, ValueError) as error:
        print(f"no model of {case.name}: {error}", file=sys.stderr)
        return None


def timed(name: str, model: str, case: Case, held: Held, args: argparse.Namespace) -> Row:
    """One row. `held`: the model whose weights are on the devices; another's take their place."""
    start = time.perf_counter()
    program = compiled(case)
    compile_s = time.perf_counter() - start
    given = filling.filled(case, program, held.get(model))
    held |= {model: next(part for part in given if isinstance(part, LanguageModel))}
    calls = seconds_of(program, case, given, args.repeats)
    measured, floor = 1e3 * statistics.median(calls) / case.turns, 1e3 * case.floor_seconds
    ours = is_h100()
    return {
        "name": name, "model": model, "cards": case.cards, "measured_ms": round(measured, 3),
        "modelled_ms": modelled(program, case) if ours else None, "floor_ms": round(floor, 3),
        "ratio": round(measured / floor, 2) if ours else None, "compile_s": round(compile_s, 1),
        "slowest_ms": round(1e3 * max(calls) / case.turns, 3),
        "temporaries_gib": round(program.memory_analysis().temp_size_in_bytes / 2**30, 2),
    }  # fmt: skip


def is_h100() -> bool:
    """Whether floors and models are those of the card that is here."""
    return hlo_cost.CARD in jax.devices()[0].device_kind


def attempt(
    name: str, model: str, make: Callable[[], Case], held: Held, limit: int,
    args: argparse.Namespace,
) -> Row:  # fmt: skip
    """The time of a program, or why there is none."""
    gib = {}
    try:
        case = make()
        takes = needed(name, model, case)
        gib = {"needed_gib": round(takes / 2**30, 2)}
        if takes > limit:
            words = f"{takes / 2**30:.1f} GiB of {limit / 2**30:.1f}"
            return gib | {"left_out": f"memory: {words}"}
        return gib | timed(name, model, case, held, args)
    except Exception as error:  # the others are still timed; gpu.py ends with exit code 1
        words = " ".join(str(error).split())[:200]
        return gib | {"left_out": f"error: {type(error).__name__}: {words}"}
