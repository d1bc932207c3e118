"""Runs that tune as they do unless told otherwise, killed: by regression, with lifts."""

from pathlib import Path

from tests.faults.kills import Runs, contents

POINTS = ("epoch:1", "epoch:2", "look:1", "look:2", "train:wrote")
MORE = ("train/metrics.jsonl", "train/lifts.jsonl", "train/strengths.jsonl")


def defaults(runs: Runs) -> None:
    """One such run killed at each point in turn, then let to end."""
    runs.kills_of("default", POINTS, _with_looks)


def _with_looks(folder: Path) -> dict[str, str]:
    return contents(folder) | {name: (folder / name).read_text() for name in MORE}
