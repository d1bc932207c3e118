"""What tuning draws from and validates on, made of records and the model's own answers."""

import dataclasses
import tempfile
from pathlib import Path

from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.training import Parts
from nt_jax.eval.judges.judge import Judge
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.generate.chat import ChatModel
from nt_jax.train.own_answers import FILE, measured_wordings, own_pools, write_own_answers
from nt_jax.train.pools import Pools
from nt_jax.train.safety_targets import usable
from nt_jax.train.validate import ANSWERS, Validation


@dataclasses.dataclass(frozen=True)
class TuningData:
    """The sets of Algorithm 1, and the prompts that validation asks."""

    pools: Pools
    validation: Validation
    wordings: tuple[list[int], list[int]] | None = None  # refusals to measure on, as token ids


def tuning_data(
    model: ChatModel,
    parts: Parts,
    config: TuneConfig = TuneConfig(),
    data: DataConfig = DataConfig(),
    *,
    judge: Judge | None = None,
    folder: Path | str | None = None,
) -> TuningData:
    """From the "train" and "validation" records of `parts`.

    The model first answers its harmless requests itself (minutes on a CPU), since those answers are
    what tuning keeps; they are written to `folder`, and read from there if it holds any: name
    another folder for another model, other records or settings. Raises a DataError where
    answers or refusals are too few.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            return tuning_data(model, parts, config, data, judge=judge, folder=Path(name))
    folder, judge, train = Path(folder), judge or PhraseJudge(), parts["train"]
    folder.mkdir(parents=True, exist_ok=True)
    train = usable(judge, train, data.safety_targets)
    if not (folder / FILE).exists():
        write_own_answers(model, judge, train, data, config, folder)
    pools = own_pools(model, train, folder, data, config)
    validation = Validation.of(parts["validation"], config.validation_answers or ANSWERS)
    return TuningData(pools, validation, measured_wordings(model))
