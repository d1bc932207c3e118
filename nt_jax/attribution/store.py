"""Scores and chosen neurons on disk: other counts need no new attribution."""

import csv
from pathlib import Path

import numpy as np

from nt_jax.attribution.score import Attribution
from nt_jax.attribution.select import aggregate
from nt_jax.models.neurons import NeuronSet
from nt_jax.seal import damaged, reading


def save_attribution(path: Path, result: Attribution) -> None:
    """Write one example's scores with v_q and v_pq, all that selection and figures need."""
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("wb") as file:
        np.savez(
            file, alpha=result.alpha_LF, standard=result.standard_LF, weighting=result.weighting,
            v_q=result.v_q_LF, v_pq=result.v_pq_LF, start=result.start_L, end=result.end,
        )  # fmt: skip
    partial.replace(path)


def load_attribution(path: Path) -> Attribution:
    """What `save_attribution` wrote."""
    with reading(path), path.open("rb") as file, np.load(file) as saved:
        return Attribution(
            saved["alpha"], saved["standard"], str(saved["weighting"]), saved["v_q"],
            saved["v_pq"], saved["start"], float(saved["end"]),
        )  # fmt: skip


def save_set(path: Path, score_LF: np.ndarray, active_LF: np.ndarray) -> None:
    """Write the scores of a whole set at once, and how active its neurons are under attack."""
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("wb") as file:
        np.savez(file, score=score_LF, active=active_LF)
    partial.replace(path)


def load_set(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(score_LF, active_LF) that `save_set` wrote."""
    with reading(path), path.open("rb") as file, np.load(file) as saved:
        return saved["score"], saved["active"]


def load_scores(folder: Path) -> dict[str, np.ndarray]:
    """score_LF per set ("safety", "utility"): its own file, or the mean over its examples'."""
    scores = {}
    for name in ("safety", "utility"):
        if (whole := folder / f"{name}.npz").exists():
            scores[name] = load_set(whole)[0]
            continue
        files = sorted(folder.glob(f"{name}-*.npz"))
        if not files:
            raise damaged(folder / f"{name}.npz", "there are no scores")
        scores[name] = aggregate(np.stack([load_attribution(file).score_LF for file in files]))
    return scores


def neuron_rows(neurons: NeuronSet, scores: dict[str, np.ndarray]) -> list[dict]:
    """One dict per chosen neuron: layer, index, set, rank by score in its set (1 = best), score.

    In the order of the neurons, which is that of ranks where they were chosen by these scores.
    """
    rows, safety = [], int(np.sum(neurons.is_safety_P))
    for name, of in (("safety", slice(safety)), ("utility", slice(safety, None))):
        layer_N, index_N = np.asarray(neurons.layer_P)[of], np.asarray(neurons.index_P)[of]
        score_N = scores[name][layer_N, index_N]
        rank_N = np.empty(len(score_N), int)
        rank_N[np.argsort(-score_N, kind="stable")] = np.arange(1, len(score_N) + 1)
        rows += [
            {"layer": int(layer), "index": int(index), "set": name, "rank": int(rank)}
            | {"score": float(score)}
            for layer, index, rank, score in zip(layer_N, index_N, rank_N, score_N, strict=True)
        ]
    return rows


def save_neurons(folder: Path, rows: list[dict]) -> None:
    """Write the chosen neurons into `folder` as neurons.csv and neurons.parquet."""
    import datasets  # here: scores are read and neurons chosen on machines without it

    with (folder / "neurons.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "neurons.parquet"))


def load_neurons(path: Path) -> tuple[NeuronSet, list[dict]]:
    """(the chosen neurons in the order of their factors, the rows of the CSV, numbers as such)."""
    kinds = {"layer": int, "index": int, "rank": int, "score": float, "factor": float}
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        rows = [
            {name: kinds.get(name, str)(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
        layer_P = np.array([row["layer"] for row in rows], np.int32)
        index_P = np.array([row["index"] for row in rows], np.int32)
        safe_P = np.array([row["set"] == "safety" for row in rows])
    return NeuronSet(layer_P, index_P, safe_P), rows
