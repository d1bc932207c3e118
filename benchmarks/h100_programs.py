"""The programs whose time and memory a big model depends on, their arguments as shapes alone."""

from collections.abc import Callable

from jax.sharding import Mesh

from benchmarks.h100_answers import decoding, filling, scoring
from benchmarks.h100_cases import Case
from benchmarks.h100_gradients import ANSWER, STEPS, attribution, meta, slopes


def programs(model: str, mesh: Callable[[], Mesh]) -> dict[str, Callable[[], Case]]:
    """What makes each program of a shape on a mesh."""
    return {
        "meta-step": lambda: meta(model, mesh()),
        "meta-step 4 beside": lambda: meta(model, mesh(), beside=4),
        "stored meta-step": lambda: meta(model, mesh(), remat=False),
        "attribution 1": lambda: attribution(model, mesh(), 1, STEPS * 32),
        "attribution 65": lambda: attribution(model, mesh(), ANSWER, 72),
        "slopes": lambda: slopes(model, mesh()),
        "score": lambda: scoring(model, mesh()),
        "prefill": lambda: next(filling(model, mesh())),
        "decode 64": lambda: decoding(model, mesh(), 64),
        "decode 256": lambda: decoding(model, mesh(), 256),
        "insert": lambda: list(filling(model, mesh()))[1],
    }
