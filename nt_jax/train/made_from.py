"""What the epochs in a tuning's folder were made from: another tuning does not go on with them."""

import hashlib
from pathlib import Path

import jax
import numpy as np

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.errors import RunError
from nt_jax.eval.judges.judge import Judge
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.train.tuning_data import TuningData

MADE_FROM = "made_from.txt"
# Settings that the epochs do not depend on: a level that is chosen anew.
AFTER_EPOCHS = ("lifts", "lift_from", "strengths", "max_over_refusal")


def keep_to(
    folder: Path,
    weights: str,
    neurons: NeuronSet,
    seed: int,
    start: Factors | None,
    data: TuningData,
    config: TuneConfig,
    judge: Judge,
) -> None:
    """Raises a RunError if `folder` holds a tuning that these do not go on with.

    `weights` tells the model's from all others (ChatModel.checkpoint_id). More epochs go on, unless
    how long each step is depends on their number. Where epochs are validated, the best of them
    depends on the limits and on the judge.
    """
    free = {"epochs"} if config.schedule == "constant" else set()
    later = () if config.validate_every else AFTER_EPOCHS
    judged = (judge.name, judge.sha256) if config.validate_every else ()
    begun = [] if start is None else [start.neurons, start.theta_P]
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves((neurons, begun))]
    settings = config.model_dump_json(exclude={*free, *later})
    texts = [settings, *judged, repr(data.pools), repr(data.validation), str(seed)]
    parts = [array.tobytes() for array in arrays] + [text.encode() for text in texts]
    first = hashlib.sha256(b"".join(parts)).hexdigest().encode() + b"\n"
    whole = first + f"{weights}\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    if not (path := folder / MADE_FROM).exists():
        write_atomic(path, whole)
    elif path.read_bytes() not in (whole, first):  # the latter: by an older version
        raise RunError(
            f"{folder} holds a tuning of another model, of other neurons, data or settings, from "
            "other first factors or of another seed. Name another folder, or delete it."
        )
