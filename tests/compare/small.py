"""A whole comparison within a finished tiny run."""

import io
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import jax
from rich.console import Console

from nt_jax.compare.pipeline import compare
from nt_jax.config.schema import RunConfig
from nt_jax.console import shown_on
from nt_jax.eval.answer_file import RecordFile
from tests.run import small

SEARCH, VALIDATION, LIMIT = 2, 2, 3
SETTINGS = (
    f"compare.search={SEARCH}", f"compare.validation={VALIDATION}", f"compare.limit={LIMIT}",
    "compare.random_seeds=2", "compare.safety_counts=[9]", "compare.utility_counts=[7]",
)  # fmt: skip


def settings(recipe: Path, run_dir: Path, *overrides: str) -> RunConfig:
    """The config of a small comparison."""
    return small.settings(recipe, run_dir, *SETTINGS, *overrides)


def carry_on(config: RunConfig, methods, tables=("2",)) -> tuple[dict, str]:
    """(the JSON object, what it says on a screen of 160 columns)."""
    screen = io.StringIO()
    asked = config.compare.model_copy(update={"methods": methods, "tables": tables})
    # optax and nnx mix their types, as small_programs says.
    with (
        jax.numpy_dtype_promotion("standard"),
        small.small_programs(),
        shown_on(Console(file=screen, width=160)),
    ):
        facts = compare(config.model_copy(update={"compare": asked}))
    return facts, screen.getvalue()


def main() -> None:
    """A comparison that kills itself once it has written DINM's first answers: RECIPE RUN_DIR."""
    recipe, run_dir = map(Path, sys.argv[1:])
    append = RecordFile.append

    def append_and_die(self, rows):
        append(self, rows)
        if self.path.name == "dinm.jsonl":
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(RecordFile, "append", append_and_die):
        carry_on(settings(recipe, run_dir), ("dinm", "scans"))


if __name__ == "__main__":
    from tests import conftest  # noqa: F401  the same compiler settings as in the test process

    main()
