"""A long tuning and many answers in one process: `python -m tests.run.soak RECIPE RUN_DIR`.

Prints one JSON object: resident bytes after a warm-up and at the end of both, and how many
programs were compiled before and after the warm-up.
"""

import gc
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import jax

from nt_jax.generate.chat import open_model
from nt_jax.train import tune
from tests import conftest  # noqa: F401  how tests compile
from tests.run import small

EPOCHS, WARM_EPOCHS = 300, 100
ROUNDS, WARM_ROUNDS, EACH = 10, 3, 200  # of answers
NEW = 8  # tokens of an answer
# Rarely validated, as that takes most of the time; twice of each within the warm-up.
WORDS = (f"tune.epochs={EPOCHS}", "tune.validate_every=50", "tune.separation_every=50")
COMPILED = "/jax/core/compile/backend_compile_duration"


class Watch:
    """Resident bytes and compiled programs at each step."""

    def __init__(self) -> None:
        self.programs = 0
        self.seen: list[tuple[int, int]] = []
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, *_, **__) -> None:
        self.programs += event == COMPILED

    def look(self) -> None:
        gc.collect()
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
        self.seen.append((resident, self.programs))

    def found(self, warm: int) -> dict[str, float | list[int]]:
        """The least of a tenth of the steps, after the warm-up and at the end: noise only adds."""
        few = max(1, len(self.seen) // 10)
        before = min(resident for resident, _ in self.seen[warm : warm + few])
        after = min(resident for resident, _ in self.seen[-few:])
        return {
            "steps": len(self.seen), "before": before, "after": after,
            "growth": after / before - 1, "programs": self.seen[warm - 1][1],
            "recompiled": self.seen[-1][1] - self.seen[warm - 1][1],
            "at": [n for n in range(warm, len(self.seen)) if self.seen[n][1] > self.seen[n - 1][1]],
        }  # fmt: skip


def tuning(recipe: Path, run_dir: Path, watch: Watch) -> None:
    """A run to its factors, watched after each epoch."""
    real = tune.save

    def save(folder, state) -> None:
        real(folder, state)
        if int(state.epoch) > len(watch.seen):  # the last one is saved again with its strength
            watch.look()

    with mock.patch.object(tune, "save", save):
        small.carry_on(small.settings(recipe, run_dir, *WORDS), "train")


def answers(model: str, watch: Watch) -> None:
    """Rounds of answers to other prompts each, watched after each round."""
    chat = open_model(model)
    for n in range(ROUNDS):
        chat.answer([_prompt(n * EACH + row) for row in range(EACH)], NEW)
        watch.look()


def _prompt(n: int) -> str:
    return f"What is {n:05d} {'and why ' * (n % 5)}?"  # as many of each length in every round


def main(words: Sequence[str]) -> None:
    """RECIPE RUN_DIR."""
    recipe, run_dir = map(Path, words)
    tuned, answered = Watch(), Watch()
    tuning(recipe, run_dir, tuned)
    model = json.loads((run_dir / "run.json").read_text())["config"]["model"]["source"]
    answers(model, answered)
    found = {"tuning": tuned.found(WARM_EPOCHS), "answers": answered.found(WARM_ROUNDS)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
