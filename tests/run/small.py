"""A whole run on a tiny random model and a cut of the demo data: seconds instead of minutes."""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from rich.console import Console

from nt_jax.config.load import load_config
from nt_jax.config.schema import RunConfig
from nt_jax.console import shown_on
from nt_jax.run import pipeline
from nt_jax.train import tune

EPOCHS, PROMPTS, NEURONS = 4, 5, 24  # NEURONS: safety + utility
SETTINGS = (
    "attribution.score=integrated", "attribution.steps=2", "attribution.answer_tokens=4",
    "attribution.attack_types=[pretending]",
    "neurons.safety=14", "neurons.utility=10", "tune.init_safety=1.6", "tune.init_utility=0.6",
    f"tune.epochs={EPOCHS}", "tune.validate_every=2", "tune.separation_every=3",
    "tune.target=answer", "tune.answer_tokens=4", "tune.inner_lr=3",
    "tune.global_batch=4", "tune.local_batch=2",
    "tune.metric_requests=0", "tune.meta_lr=0.03", "tune.margin_weight=0", "tune.average=0.9",
    "tune.direct_fraction=0.5", "tune.safety_weight=0.5", "tune.max_over_refusal=0.05",
    "tune.strengths=[0.4,0.55,0.7,0.85,1,1.2]",
    "data.harmful.limit=8", "data.harmless.limit=8", "data.templates.limit=10",
    f"eval.limit={PROMPTS}", "eval.max_new_tokens=6", "eval.batch_size=4",
)  # fmt: skip
# What tuning does unless told otherwise: an opening, contrastive neurons, regressions.
DECISION = (
    "attribution.score=contrastive", "tune.target=opening", "tune.metric_requests=8",
    "tune.init_safety=1", "tune.init_utility=1", "tune.margin_weight=1", "tune.validate_every=0",
    "tune.meta_lr=0.1", "tune.average=0", "tune.epochs=2", "tune.outer=regression",
    "tune.lifts=[0.5]",
)  # fmt: skip
STAGES = (
    "answers", "attribute", "select", "train", "export", "base", "tuned", "eval", "report",
)  # fmt: skip
TUNED = {"train", "export", "tuned", "eval", "report"}  # what another tuning repeats


def settings(recipe: Path, run_dir: Path, *overrides: str) -> RunConfig:
    """The config of a small run."""
    return load_config(str(recipe), [*SETTINGS, f"run_dir={run_dir}", *overrides])


def carry_on(config: RunConfig, until: str | None = None) -> str:
    """Run, and what it says on a screen of 120 columns."""
    screen = io.StringIO()
    with small_programs(), shown_on(Console(file=screen, width=120)):
        pipeline.run(config, until)
    return screen.getvalue()


def compiled() -> dict[str, str]:
    """The environment of a child that takes the programs which this process has compiled."""
    if (cache := jax.config.jax_compilation_cache_dir) is None:
        return dict(os.environ)
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}  # as in tests/conftest.py
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, **least}


@contextlib.contextmanager
def small_programs() -> Iterator[None]:
    """Let Adam mix its types (optax raises a float to an integer count), and compile it once."""
    step = tune.meta_step

    def lenient(*args, **options):
        with jax.numpy_dtype_promotion("standard"):
            return step(*args, **options)

    with (
        mock.patch.object(tune, "meta_step", lenient),
        mock.patch.object(tune, "make_optimiser", _optimiser),
    ):
        yield


_optimiser = functools.cache(tune.make_optimiser)


def kept(screen: str) -> set[str]:
    """The stages that a run did not repeat."""
    lines = [line.split(maxsplit=1) for line in screen.splitlines() if "kept from before" in line]
    return {name for name, _ in lines}


def contents(folder: Path) -> dict[str, str]:
    """Name -> hash of every file below `folder`, less the lock and what changes with the clock."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in (".lock", "run.json")
    }


def changed(run: Path, folder: Path, settings: dict[str, Any], **facts: Any) -> Path:
    """A copy of a run whose run.json holds other settings and facts."""
    shutil.copytree(run, folder)
    known = json.loads((folder / "run.json").read_text())
    for dotted, value in settings.items():
        *sections, name = dotted.split(".")
        functools.reduce(dict.__getitem__, sections, known["config"])[name] = value
    (folder / "run.json").write_text(json.dumps(known | facts))
    return folder


def main() -> None:
    """A run that kills itself right after it has saved a given epoch: RECIPE RUN_DIR EPOCH."""
    recipe, run_dir, epoch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    save = tune.save

    def save_and_die(folder, state):
        save(folder, state)
        if int(state.epoch) == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(tune, "save", save_and_die):
        carry_on(settings(recipe, run_dir))


if __name__ == "__main__":
    from tests import conftest  # noqa: F401  the same compiler settings as in the test process

    main()
