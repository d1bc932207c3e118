"""Runs that tune as they do unless told otherwise, killed: by regression, with lifts."""

import signal

from tests.faults.kills import Runs, contents

POINTS = ("epoch:1", "epoch:2", "look:1", "look:2", "train:wrote")
MORE = ("train/metrics.jsonl", "train/lifts.jsonl", "train/strengths.jsonl")


def defaults(runs: Runs) -> None:
    """One run killed at each point in turn, each time by another process, then let to end."""
    whole, killed = runs.root / "by default", runs.root / "by default killed"
    done = runs.child(whole, "none", "SIGKILL", "default")
    assert done.returncode == 0, done.stderr[-2000:]
    for point in POINTS:
        done = runs.child(killed, point, "SIGKILL", "default")
        met = done.returncode == -signal.SIGKILL
        said = f"{done.returncode} {done.stderr}"
        runs.check(f"default killed at {point}", met, "traceback", said)
    done = runs.child(killed, "none", "SIGKILL", "default")
    said = f"{done.returncode} {done.stderr}"
    runs.check("default after the kills", done.returncode == 0, "traceback", said)
    found, wanted = (
        contents(folder) | {name: (folder / name).read_text() for name in MORE}
        for folder in (killed, whole)
    )
    wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
    runs.check("default after the kills: same bytes", found == wanted, "silent", f"{wrong}")
    runs.say(f"kills of a run by the default {len(POINTS)}")
