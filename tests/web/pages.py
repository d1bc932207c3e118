"""Reports to look at: a usual one, and one whose every text is as long as it may be."""

from pathlib import Path

import numpy as np

from nt_jax.eval.metrics.result import Measurements, ResultRow
from nt_jax.eval.metrics.rows import all_rows
from nt_jax.report.run import Tuning, write_report
from tests.made_up import explained, made_up_answers

LONG = "a/very/long/path/to/a/model/" + "without-a-place-to-break-it" * 4
KINDS = (
    "attack", "direct", "harmless", "sounds_harmful", "attacked_harmless", "nested_harmless",
)  # fmt: skip
MACHINE = {
    "python": "3.11.7",
    "platform": "Linux-6.18-x86_64-with-glibc2.41",
    "versions": {name: "0.1.0" for name in ("nt_jax", "jax", "flax", "orbax-checkpoint")},
    "devices": "cpu x 1",
    "stages": {"train": {"peak_memory_bytes": 4 * 2**30, "resumed": True}},
    "notes": ["attacks: templates, 34 for train"],
}


def tuning(layers: int = 80) -> Tuning:
    """Sixteen thousand neurons, 100 epochs, seven strengths and three lifts."""
    rng = np.random.default_rng(0)
    count = 16000
    looks = [
        {"strength": s, "perplexity_ratio": 1 + s / 10, "kept": s == 0.6}
        | {f"refusal_{kind}": min(1.0, s * rng.uniform(0.2, 1)) for kind in KINDS}
        for s in (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2)
    ]
    lifts = [
        {"lift": nats, "lift_attacked": nats, "lift_nested": 2 * nats}
        | {"perplexity_ratio": 1.1, "kept": nats == 0.3}
        | {f"refusal_{kind}": min(1.0, (nats + 1) * rng.uniform(0.2, 0.5)) for kind in KINDS}
        for nats in (0.0, 0.3, 0.6)
    ]
    epochs = [
        {"epoch": n, "safety_loss": 3 / n, "utility_loss": 2.0, "loss": 2 + 1 / n}
        for n in range(1, 101)
    ]
    neurons = {
        "layer": rng.integers(0, layers, count).tolist(),
        "index": list(range(count)),
        "set": ["safety", "utility"] * (count // 2),
        "score": rng.gamma(2, 1e-4, count).tolist(),
        "factor": rng.normal(1, 0.15, count).tolist(),
        "num_layers": layers,
    }
    before = {"epoch": 0} | {f"refusal_{kind}": 0.05 for kind in KINDS}
    return Tuning(neurons, [before, *epochs], looks, lifts)


def usual(folder: Path) -> Path:
    """The report of a tuned model, judged twice."""
    rows = explained(made_up_answers(60))
    answers = [
        row | {"verdicts": {"phrases-v2": float(row["refused"]), "guard:other": 1.0}}
        for row in rows
    ]
    measured = Measurements(answers, judges={"phrases-v2": "ab" * 32, "guard:other": "cd" * 32})
    settings = {"name": "usual", "model": {"source": "a/model"}, "eval": {"max_new_tokens": 48}}
    return written(folder, measured, settings, [])


def longest(folder: Path) -> Path:
    """Seven models under long names, answers and requests without a blank, a long set's name."""
    rows = explained(made_up_answers(12))
    word = "unbreakable" * 30
    answers = [
        row | {"model": model, "answer": row["answer"] + word, "request": word, "id": word[:99]}
        | {"dataset": f"{row['dataset']}-{word[:40]}", "span": [0, 200], "reason": word[:80]}
        for number in range(7)
        for model in (["base"] if not number else [f"{LONG}-{number}"])
        for row in rows
        if row["model"] == ("tuned" if number else "base")
    ]  # fmt: skip
    answers = [row | {"id": f"{n % 36} {row['id']}"} for n, row in enumerate(answers)]
    measured = Measurements(answers, judges={LONG: "ab" * 32})
    more = [ResultRow(answers[0]["dataset"], LONG, "base", 1e-9, 3, 1e-12, 1e9, LONG)]
    return written(folder, measured, {"name": LONG, "model": {"source": LONG}}, more)


def written(folder: Path, measured: Measurements, settings: dict, more: list[ResultRow]) -> Path:
    """report.html of these measurements."""
    write_report(
        folder, [*all_rows(measured), *more], measured.answers, settings,
        {"answers": 7.1, "train": 8000.0}, tuning(), MACHINE,
        command=f"python -m nt_jax.eval --config settings.yaml --model {settings['name']}",
    )  # fmt: skip
    return folder / "report.html"
