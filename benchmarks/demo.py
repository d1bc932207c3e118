"""How long each stage of a run takes, of several commits by turns on one machine.

    python benchmarks/demo.py HEAD 79c794f --rounds 3
    python benchmarks/demo.py --model qwen2.5-0.5b-instruct model.source=MODEL.gguf

Each run starts from an empty cache, in a working tree of its commit made for it, with the packages
of this environment. Turns: round by round, one commit after the other, so that what else the
machine does falls on all. Each round is said on the standard error as it ends. Printed at the end:
seconds of each stage (the median of the rounds), their sums, and the sum over that of the last
commit named.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a recipe that every commit has")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("names", nargs="*", help="commits (HEAD), then settings as key=value")
    return parser.parse_args()


def git(*words: str) -> str:
    """What git prints."""
    asked = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return asked.stdout.strip()


def stage_seconds(tree: Path, recipe: str, settings: list[str]) -> dict[str, float]:
    """Seconds of each stage of one run of the working tree `tree`, from an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": f"{folder}/cache"}
        environment = {k: v for k, v in os.environ.items() if k != "NT_JAX_CACHE"} | own
        command = [sys.executable, "-W", "ignore", "-m", "nt_jax.train", "--config", recipe]
        command += [f"run_dir={folder}/run", *settings]
        ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if ran.returncode:
            raise SystemExit(f"demo: {tree.name} ended with {ran.returncode}: {ran.stderr[-500:]}")
        record = json.loads(Path(folder, "run", "run.json").read_text(encoding="utf-8"))
    return {name: stage["wall_seconds"] for name, stage in record["stages"].items()}


def from_here(setting: str) -> str:
    """key=value with a path made absolute, as runs start elsewhere."""
    key, _, value = setting.partition("=")
    return f"{key}={Path(value).resolve()}" if value and Path(value).exists() else setting


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each stage's seconds, in the order of the run."""
    return {name: round(statistics.median(r[name] for r in rounds), 1) for name in rounds[0]}


def main() -> None:
    """Measure and print."""
    args = arguments()
    settings = [from_here(name) for name in args.names if "=" in name]
    commits = [git("rev-parse", "--short", n) for n in args.names if "=" not in n]
    commits = commits or [git("rev-parse", "--short", "HEAD")]
    found: dict[str, list[dict[str, float]]] = {commit: [] for commit in commits}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for commit in found:
                git("worktree", "add", "--quiet", "--detach", f"{folder}/{commit}", commit)
            for _ in range(args.rounds):
                for commit, rounds in found.items():
                    rounds.append(stage_seconds(Path(folder, commit), args.model, settings))
                    total = f"{sum(rounds[-1].values()):.0f} s"
                    print(commit, total, rounds[-1], file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            git("worktree", "prune")
    stages = {commit: medians(rounds) for commit, rounds in found.items()}
    totals = {
        commit: [round(sum(r.values()), 1) for r in rounds] for commit, rounds in found.items()
    }
    last = statistics.median(totals[commits[-1]])
    ratio = {commit: round(statistics.median(sums) / last, 3) for commit, sums in totals.items()}
    print(json.dumps({"model": args.model, "stages": stages, "totals": totals, "ratio": ratio}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its trees go, too
    main()
