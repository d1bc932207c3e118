"""What run.json says of a finished run so that it can be made again and compared."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nt_jax.checkpoints.checkpoint import Checkpoint, fingerprint
from nt_jax.eval.metrics.result import ResultRow, read_rows
from nt_jax.models.neurons import Factors
from nt_jax.rundir import RunDirectory


def record_results(directory: RunDirectory, checkpoint: Checkpoint, factors: Factors) -> None:
    """Add the hashes of weights, data, factors and results to run.json, and every refusal count.

    All bytes of the weights are read, once for each fingerprint.
    """
    facts, weights = directory.facts(), fingerprint(checkpoint)
    before = facts.get("sha256", {})
    same = before.get("fingerprint") == weights
    found = {
        "fingerprint": weights,
        "weights": before["weights"] if same else weights_sha256(checkpoint),
        "data": facts["hashes"]["data"],
        "tests": facts["hashes"]["tests"],
        "factors": factors_sha256(factors),
    }
    record_report(directory, found)


def record_report(directory: RunDirectory, sha256: Mapping[str, Any]) -> None:
    """Put these hashes, that of results.json and its refusal counts into run.json, all at once."""
    report = directory.folder("report") / "results.json"
    directory.record(
        sha256={**sha256, "results": _sha256(report)}, refusals=refusal_counts(read_rows(report))
    )


def weights_sha256(checkpoint: Checkpoint) -> dict[str, str]:
    """File name -> sha256 of each whole file that holds weights."""
    files = {info.file for info in checkpoint.tensors.values()}
    return {file.name: _sha256(file) for file in sorted(files)}


def factors_sha256(factors: Factors) -> str:
    """sha256 of the neurons and their factors, bit for bit."""
    digest = hashlib.sha256()
    for name, array in sorted(factors.arrays().items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def refusal_counts(rows: Iterable[ResultRow]) -> list[dict[str, Any]]:
    """One entry for each refusal rate: its set, model and judge, and how many were refused of n."""
    return [
        {"dataset": row.dataset, "model": row.model, "judge": row.judge,
         "refused": round(row.value * row.n, 6), "n": row.n}
        for row in rows if row.metric == "refusal_rate"
    ]  # fmt: skip


def differing_refusals(
    then: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]
) -> list[str]:
    """A line for each count that is not the same, or is there on one side only."""
    names = ("dataset", "model", "judge")
    old, new = ({tuple(row[n] for n in names): row for row in rows} for rows in (then, now))

    def shown(row: Mapping[str, Any] | None) -> str:
        return "not measured" if row is None else f"{row['refused']:g} of {row['n']}"

    return [
        f"{key[0]}, {key[1]}, {key[2]}: {shown(old.get(key))}, now {shown(new.get(key))}"
        for key in dict.fromkeys([*old, *new])
        if shown(old.get(key)) != shown(new.get(key))
    ]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
