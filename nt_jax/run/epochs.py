"""Epochs of a finished tuning that other settings leave as they are.

How near a refusal prompts are is chosen after the last epoch (nt_jax/train/level.py). A run that is
told to choose it in another way, by another tune.max_over_refusal say, need not learn again.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import RunConfig, config_key
from nt_jax.errors import RunError
from nt_jax.rundir import RunDirectory
from nt_jax.train import level
from nt_jax.train.made_from import AFTER_EPOCHS, MADE_FROM
from nt_jax.train.state import epochs_saved
from nt_jax.train.tune import BASE_ANSWERS, METRICS, STATES

ABOUT = "epochs.txt"  # what the epochs were made from, as a hash


def reuse_epochs(
    config: RunConfig,
    directory: RunDirectory,
    reads: Sequence[str],
    made_from: Sequence[str],
    folder: Path,
) -> bool:
    """Whether `folder`, where a tuning begins, now has the epochs of the run's finished one.

    `reads` and `made_from` are those of the stage "train". Where epochs are validated the best of
    them depends on the limits, and they are learned again.
    """
    if (folder / ABOUT).exists():  # gone on with
        return False
    about, earlier = _about(config, directory, reads, made_from), directory.path / "train"
    same = _text(earlier / ABOUT) == about and not config.tune.validate_every
    if same and (same := _whole(directory)):
        looks = (level.LIFTS,) * bool(config.tune.lifts)
        for name in (METRICS, BASE_ANSWERS, MADE_FROM, level.FILE, *looks):
            if (earlier / name).exists():
                shutil.copyfile(earlier / name, folder / name)
        shutil.copytree(earlier / STATES, folder / STATES, dirs_exist_ok=True)
    write_atomic(folder / ABOUT, about.encode())
    return same


def share_ahead(tune: TuneConfig, folder: Path) -> float:
    """How much of the epochs is still to come of a tuning that lies in `folder`, of 1, by prompts.

    What Algorithm 1 takes of each epoch where no regression makes it is alike for all.
    """
    done = epochs_saved(folder / STATES)
    regression = tune.outer == "regression"
    steps = [tune.step_requests(epoch) if regression else 1 for epoch in range(tune.epochs)]
    return sum(steps[done:]) / max(1, sum(steps))


def _about(
    config: RunConfig, directory: RunDirectory, reads: Sequence[str], made_from: Sequence[str]
) -> str:
    """A hash of all that a run's epochs depend on."""
    facts = directory.facts()
    known = facts["hashes"] | facts["keys"] | {"begun": facts.get("begun")}
    inputs = [str(known[name]) for name in made_from]
    inputs += [f"{name} {digest}" for name, digest in directory.digests(made_from).items()]
    usual = {name: TuneConfig.model_fields[name].default for name in AFTER_EPOCHS}
    tune = config.tune.model_copy(update=usual)
    return config_key(config.model_copy(update={"tune": tune}), reads, inputs)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _whole(directory: RunDirectory) -> bool:
    """Whether the finished tuning can be read: one that is damaged is made again."""
    try:
        directory.read("train")
    except RunError:
        return False
    return True
