"""`python -m tests.faults [--long] [--seed N]`: damaged input, kills, full disks; then counts.

The last line is `faults: N cases, 0 escapes, 0 hangs, 0 tracebacks, 0 silent differences`; the
exit code is 1 where any but the first is not 0. `--only NAMES` runs some parts: targets of the
fuzzer, separated by commas, `fuzz` or `runs`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nt_jax.environment import QUIET
from tests.quick import quick_flags

# Before anything that reads them is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ |= {"HF_HUB_OFFLINE": "1", "NT_JAX_CACHE": "off"} | QUIET
os.environ["XLA_FLAGS"] = quick_flags(os.environ.get("XLA_FLAGS", ""))

from tests.faults.defaults import defaults
from tests.faults.fuzz import ESCAPE, HANG, SILENT, fuzz_all
from tests.faults.kills import LONG, SHORT, Runs
from tests.faults.runs import run_targets
from tests.faults.sweeps import sweeps
from tests.faults.targets import TARGETS

CASES = {"short": 560, "long": 10_080}
KINDS = {ESCAPE: "escapes", HANG: "hangs", "traceback": "tracebacks", SILENT: "silent differences"}


def main(words: list[str] | None = None) -> int:
    """The exit code: 0 where every input and every kill ended as promised."""
    words = sys.argv[1:] if words is None else words
    options = _options().parse_args(words)
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        signal.signal(number, handler)  # jobs in the background ignore them, and so would the runs
    begun = time.monotonic()
    total = one_part(options) if options.only else side_by_side(words)
    counts = ", ".join(f"{total[kind]} {words}" for kind, words in KINDS.items())
    print(f"time: {time.monotonic() - begun:.0f} s")
    print(f"faults: {total['cases']} cases, {counts}")
    return int(_bad(total))


def side_by_side(words: list[str]) -> Counter[str]:
    """The counts of both parts, each in a process of its own, since one keeps one core busy."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults", *words, "--only"]
    parts = [
        subprocess.Popen([*command, part], stdout=subprocess.PIPE, text=True)
        for part in ("runs", "fuzz")
    ]
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            return sum(pool.map(_counts, parts), Counter())
    finally:
        for part in parts:
            part.terminate()


def _counts(part: subprocess.Popen[str]) -> Counter[str]:
    """What a part counted; its lines are passed on. One that dies counts as a traceback."""
    last = ""
    with part:
        for line in part.stdout or ():
            last = line.strip()
            if not last.startswith(("faults: ", "time: ")):
                say(last)
    if part.returncode not in (0, 1) or not last.startswith("faults: "):
        say(f"  a part ended with {part.returncode}")
        return Counter(traceback=1)
    names = {words: kind for kind, words in KINDS.items()} | {"cases": "cases"}
    found = re.findall(r"(\d+) ([a-z ]+)", last)
    return Counter({names[words]: int(number) for number, words in found})


def one_part(options: argparse.Namespace) -> Counter[str]:
    """Kills and disks, or damaged inputs of all targets or of some."""
    begun, total = time.monotonic(), Counter()
    kept = Path(tempfile.mkdtemp(prefix="nt_jax_faults_"))
    kept.chmod(0o755)  # the user without rights may read the recipe; the run is what is refused
    form = "long" if options.long else "short"
    if options.only == "runs":  # processes are forked, so jax must not have begun
        total += run_all(Runs(kept / "runs", say), LONG if options.long else SHORT)
        print(f"time of kills and full disks: {time.monotonic() - begun:.0f} s", flush=True)
    else:
        names = {*TARGETS} if options.only == "fuzz" else {*options.only.split(",")}
        chosen = {name: target for name, target in TARGETS.items() if name in names}
        if options.only == "fuzz":  # before those that start jax in this process
            (runs := Runs(kept / "runs", say)).whole()
            chosen = run_targets(runs.root / "whole") | chosen
        total += fuzz_all(chosen, options.cases or CASES[form], options.seed, kept, say)
        print(f"time of fuzzing: {time.monotonic() - begun:.0f} s", flush=True)
    if _bad(total):
        print(f"seed {options.seed}; the inputs of problems are kept in {kept}")
    else:
        shutil.rmtree(kept, ignore_errors=True)
    return total


def say(line: str) -> None:
    """A line that is seen at once."""
    print(line, flush=True)


def run_all(runs: Runs, points: tuple[str, ...]) -> Counter[str]:
    """Kills, signals, full and read-only disks."""
    runs.whole()
    for work in (
        lambda: runs.kills(points), runs.signals, runs.full_disks, runs.read_only,
        runs.unprivileged, lambda: sweeps(runs), lambda: defaults(runs),
    ):  # fmt: skip
        work()
    return runs.counts


def _bad(total: Counter[str]) -> bool:
    return any(total[kind] for kind in KINDS)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="10,000 inputs and more than 30 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="inputs of the fuzzer")
    parser.add_argument("--only", help="fuzz, runs, or targets of the fuzzer")
    return parser


if __name__ == "__main__":
    sys.exit(main())
