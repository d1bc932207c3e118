"""How a stage's step grows with the cards, when every card keeps its share of work: closed form.

A step takes compute + sum over collectives of (bytes that a card sends / link + latency). Compute
is that of the compiled program (hlo_cost.py: a lower bound, so that the share of communication is
an upper one); collectives are those of the compiled program, scaled along the data axis: an
all-reduce keeps its size, the parts that are gathered or scattered grow with their number. Nothing
overlaps. None of the constants below was measured here.
"""

import dataclasses
from collections.abc import Iterable

from benchmarks.collectives import SHARES, Collective

NODE = 8  # cards that NVLink joins
NVLINK, NETWORK = 450e9, 50e9  # bytes/s that a card sends: NVLink 4, one 400 Gbit/s adapter a card
LATENCY, FAR = 10e-6, 40e-6  # seconds of the smallest collective within a node, and across nodes
CONSTANTS = (
    f"NVLink {NVLINK / 1e9:.0f} GB/s a card within {NODE} cards, network {NETWORK / 1e9:.0f} GB/s "
    f"a card beyond; {1e6 * LATENCY:.0f} us a collective within, {1e6 * FAR:.0f} us beyond"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One program on a (data, model) mesh."""

    mesh: tuple[int, int]
    compute: float  # seconds of a card
    collectives: tuple[Collective, ...]

    def seconds(self, data: int) -> float:
        """With the data axis `data` long and the same work a card."""
        return self.compute + sum(self._sent(each, data) for each in self.collectives)

    def efficiency(self, data: int) -> float:
        """Time of one group of the model axis alone over that of `data` of them side by side."""
        return self.seconds(1) / self.seconds(data)

    def _sent(self, each: Collective, data: int) -> float:
        if each.axis == "model":
            return each.sent / NVLINK + each.times * LATENCY
        if data == 1:
            return 0.0
        was, model = self.mesh
        cards = each.cards if each.op == "collective-permute" else each.cards * data // was
        grown = data / was if each.op in ("all-gather", "all-to-all") else 1
        size = each.times * SHARES[each.op](cards) * each.result * grown
        near = data * model <= NODE
        return size / (NVLINK if near else NETWORK) + each.times * (LATENCY if near else FAR)


def table(steps: dict[str, list[Step]], counts: Iterable[int] = (8, 16, 32, 64)) -> str:
    """Markdown: milliseconds of a step and efficiency, a line a stage and model axis."""
    counts = list(counts)
    heads = " | ".join(f"{count} cards" for count in counts)
    lines = [f"| stage | model axis | {heads} |", "|:--|--:|" + "--:|" * len(counts)]
    for stage, each in steps.items():
        for step in each:
            cells = [
                f"{1e3 * step.seconds(n // step.mesh[1]):.1f} ms, "
                f"{100 * step.efficiency(n // step.mesh[1]):.0f} %"
                for n in counts
            ]
            lines.append(f"| {stage} | {step.mesh[1]} | {' | '.join(cells)} |")
    return "\n".join(lines)
