"""What a compiled program costs, read from its text: kernels, FLOPs, bytes, and a least time.

A kernel takes at least max(FLOPs / PEAK, bytes / BANDWIDTH) + LAUNCH. Bytes are those that it reads
and writes in the device's memory: of an operand that it only slices, the slice. Loops count as
often as they run; one whose number of rounds is settled at run time runs `rounds` times. Of the
branches of a conditional the dearest counts. FLOPs of float32 operands count twice, as they run at
half the rate. A kernel that cannot be looked into is refused, as it would cost nothing here, but
for those of attention, which have formulas. That of decoding: queries and results once, of keys and
values the share `seen` that holds tokens once, and two products of each query with that share.
cuDNN's: whatever it is given and gives once, and of each query with all keys two products, on the
way back five.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from benchmarks.hlo import Instruction, parse, size_of, sizes_of

CARD = "H100"  # whose figures these are, as its name says
PEAK, BANDWIDTH, LAUNCH = 800e12, 3.0e12, 2e-6  # FLOP/s of bf16, bytes/s, seconds
FREE = {
    "bitcast", "get-tuple-element", "tuple", "parameter", "constant", "after-all", "reshape",
    "add-dependency", "opt-barrier", "partition-id", "replica-id",
}  # fmt: skip
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel or collective, and how often it runs."""

    times: int
    flops: float
    read: int
    written: int
    instruction: Instruction

    @property
    def seconds(self) -> float:
        """At least, for all its runs."""
        moved = (self.read + self.written) / BANDWIDTH
        return self.times * (max(self.flops / PEAK, moved) + LAUNCH)

    @property
    def collective(self) -> bool:
        """Whether cards talk to each other."""
        return self.instruction.op.startswith(COLLECTIVES)


class Program:
    """A compiled program's kernels."""

    def __init__(self, text: str, rounds: int = 1, seen: float = 1.0):
        """`rounds`: of loops whose number of rounds the text does not hold.

        `seen`: the share of the cache's columns that hold tokens.
        """
        self.computations, self.entry = parse(text)
        self.rounds, self.seen = rounds, seen

    @functools.cached_property
    def kernels(self) -> list[Kernel]:
        """All of them, loops multiplied out."""
        return list(self._of(self.entry))

    def _of(self, name: str) -> Iterator[Kernel]:
        body = self.computations[name]
        shapes = {each.name: each.shape for each in body}
        for each in body:
            if each.op in FREE or each.op.endswith("-done"):
                continue
            if each.op == "while":
                known = re.search(r"known_trip_count\D*(\d+)", each.rest)
                times = int(known.group(1)) if known else self.rounds
                for kernel in self._of(each.called("body")):
                    yield dataclasses.replace(kernel, times=times * kernel.times)
                for kernel in () if known else self._of(each.called("condition")):
                    yield dataclasses.replace(kernel, times=(times + 1) * kernel.times)
            elif each.op == "conditional":
                branches = re.search(r"(branch_computations|true_computation)=.*", each.rest)
                names = re.findall(r"%([\w.\-]+)", branches.group(0) if branches else "")
                sides = [list(self._of(n)) for n in names if n in self.computations]
                yield from max(sides, key=lambda kernels: sum(k.seconds for k in kernels))
            elif each.op in ("call", "async-start"):
                yield from self._of(each.called("to_apply" if each.op == "call" else "calls"))
            else:
                yield self._kernel(each, shapes)

    def _kernel(self, each: Instruction, shapes: dict[str, str]) -> Kernel:
        result = size_of(each.shape)
        read = sum(size_of(shapes.get(name, "")) for name in each.operands)
        if each.op == "fusion":
            body = self.computations[each.called("calls")]
            inner = {x.name: x.shape for x in body}
            flops = sum(_product(x, inner) for x in body if x.op == "dot")
            return Kernel(1, flops, *_traffic(body, each, shapes), each)
        if each.op in ("dynamic-slice", "slice"):
            return Kernel(1, 0, result, result, each)
        if each.op == "dynamic-update-slice":
            part = size_of(shapes[each.operands[1]])
            return Kernel(1, 0, part, part, each)
        if each.op == "dot":
            return Kernel(1, _product(each, shapes), read, result, each)
        if each.op == "custom-call" and "mha_forward" in each.rest and "triton" in each.rest:
            return self._attention(each, shapes)
        if each.op == "custom-call" and "__cudnn$fmha" in each.rest:
            query, keys = (sizes_of(shapes[name]) for name in each.operands[:2])  # [B, T, N, H]
            products = 5 if "Backward" in each.rest else 2
            return Kernel(1, products * 2.0 * math.prod(query) * keys[1], read, result, each)
        if each.op == "custom-call":
            scratch = sum(size_of(part) for part in re.findall(r"s8\[\d+\]", each.shape))
            return Kernel(1, _custom(each, shapes), read, result - scratch, each)
        if each.op.endswith("-start") and each.op != "all-reduce-start":
            result -= read  # the others' results name their operands, too
        return Kernel(1, 0, read, result, each)

    def _attention(self, each: Instruction, shapes: dict[str, str]) -> Kernel:
        """The kernel of one query a row: q [P, G, H] over keys and values [P, shares, S, H]."""
        query, *cache = (shapes[name] for name in each.operands[:3])
        rows, heads, size = sizes_of(query)
        columns = math.prod(sizes_of(cache[0])) / (rows * size)
        flops = 2 * 2.0 * rows * heads * size * columns * self.seen
        read = size_of(query) + int(self.seen * sum(map(size_of, cache)))
        return Kernel(1, flops, read, size_of(each.shape), each)

    @property
    def seconds(self) -> float:
        """At least, on one card."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def flops(self) -> float:
        """Of matrix products."""
        return sum(kernel.times * kernel.flops for kernel in self.kernels)

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(kernel.times * (kernel.read + kernel.written) for kernel in self.kernels)

    @property
    def collective_bytes(self) -> int:
        """What collectives give each card."""
        return sum(kernel.times * kernel.written for kernel in self.kernels if kernel.collective)


def _product(each: Instruction, shapes: dict[str, str]) -> float:
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.rest)
    left = sizes_of(shapes[each.operands[0]])
    summed = math.prod(left[int(n)] for n in axes.group(1).split(",") if n) if axes else 1
    return _weight(each, shapes) * math.prod(sizes_of(each.shape)) * summed


def _weight(each: Instruction, shapes: dict[str, str]) -> float:
    """FLOPs of a multiply-add: twice as many where an operand is float32."""
    wide = any(shapes.get(name, "").startswith("f32") for name in each.operands[:2])
    return 4.0 if wide else 2.0


def _custom(each: Instruction, shapes: dict[str, str]) -> float:
    """FLOPs of a library's kernel."""
    target = re.search(r'custom_call_target="([^"]*)"', each.rest)
    name = target.group(1) if target else "?"
    if "cublas" in name or "gemm" in name:
        axes = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', each.rest)
        assert axes, f"{each.name}: no contracting dimensions"
        left = sizes_of(shapes[each.operands[0]])
        summed = math.prod(left[int(n.strip('"'))] for n in axes.group(1).split(",") if n)
        return _weight(each, shapes) * math.prod(sizes_of(each.shape)) * summed
    if name in ("__cub$DeviceRadixSort", "TopK") or name.startswith("annotate"):
        return 0.0
    raise ValueError(f"{each.name} calls {name}, whose FLOPs nothing here says: add its formula.")


def _traffic(body: list[Instruction], fusion: Instruction, shapes: dict[str, str]):
    """(bytes read, bytes written) of a fusion."""
    users: dict[str, list[Instruction]] = {}
    for each in body:
        for name in each.operands:
            users.setdefault(name, []).append(each)

    def read(name: str, whole: int) -> int:
        total = 0
        for user in users.get(name, ()):
            first = user.operands[0] == name
            if user.op in ("bitcast", "reshape"):
                total += read(user.name, whole)
            elif first and user.op in ("dynamic-slice", "slice", "gather"):
                total += size_of(user.shape)
            elif not (first and user.op in ("dynamic-update-slice", "scatter")):
                return whole
        return min(total, whole)

    by_name = {each.name: each for each in body}
    place = {each.name: int(each.inside) for each in body if each.op == "parameter"}
    taken = sum(
        read(name, size_of(shapes.get(fusion.operands[n], ""))) for name, n in place.items()
    )
    root = next(each for each in body if each.root)
    given = 0
    for out in [by_name[n] for n in root.operands] if root.op == "tuple" else [root]:
        while out.op in ("bitcast", "reshape"):
            out = by_name[out.operands[0]]
        changed = {"dynamic-update-slice": 1, "scatter": -1}.get(out.op)
        given += size_of(out.shape if changed is None else by_name[out.operands[changed]].shape)
    return taken, given
