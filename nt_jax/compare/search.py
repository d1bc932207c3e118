"""Choosing a method's setting: the same number of trials, data and criterion for every method."""

import dataclasses
import hashlib
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nt_jax.atomic import write_atomic
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import (
    SECONDS,
    TRIED,
    Learned,
    Method,
    Setting,
    UnusableMethodError,
    UnusableSettingError,
    learned_numbers,
)
from nt_jax.config.evaluation import MOST_SETTINGS
from nt_jax.config.schema import RunConfig
from nt_jax.console import progress
from nt_jax.errors import DataError
from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.judges.judge import open_judge
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.seal import reading
from nt_jax.swap import OURS, start_of
from nt_jax.train.validate import NEW_TOKENS, Look, look_at, score

LEAST_SETTINGS = 6
CRITERIA = {
    "balance": "harmonic mean of refused harmful and answered harmless validation requests",
    "limits": "the lesser of refusals under attack and of direct ones on validation requests, "
    "below 0 where refusals of a harmless kind, or perplexity, rise past their limits, or those of "
    "harm fall past theirs",
}


def budget(config: RunConfig) -> int:
    """How many settings each method may try; unless told, as many as the run's tuning does.

    Tuning validates every `validate_every` epochs and at the lifts and strengths that halving
    meets; the comparison looks once more.
    """
    tune = config.tune
    inside = math.ceil(tune.epochs / tune.validate_every) if tune.validate_every else 0
    inside += tune.last_looks
    return config.compare.search or min(max(LEAST_SETTINGS, inside + 1), MOST_SETTINGS)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What the search found for one method."""

    method: str
    setting: Setting
    score: float
    tried: int  # validations in all, those inside fits included
    trials: list[dict]  # each setting with its validation rates and score
    learned: int = 0  # numbers of the kept fit
    seconds: float = 0.0  # that it took, the run's part included, other settings not

    @property
    def past_bound(self) -> bool:
        """Whether even this setting is past a limit of validation."""
        return self.score < 0  # no score inside the bound is, by either criterion


def balance(found: Mapping[str, float]) -> float:
    """Harmonic mean of refused harmful requests (attacked, direct) and answered harmless ones."""
    refused = (found["refusal_attack"] + found["refusal_direct"]) / 2
    answered = 1 - found["refusal_harmless"]
    return 2 * refused * answered / (refused + answered) if refused + answered else 0.0


def search(data: FittingData, method: Method, settings: Sequence[Setting], folder: Path) -> Chosen:
    """Fit and validate settings in turn, going on from what `folder` holds; keep the best one.

    Writes trials.jsonl, chosen.json and learned.npz. Never looks at the test sets.
    """
    if (folder / "chosen.json").exists():  # killed right after it had found the best
        return read_chosen(folder)[0]
    most = budget(data.config)
    file = RecordFile(folder / "trials.jsonl", keys=("number",))
    tried = 0
    with progress(method.name, len(settings), "settings") as advance:
        for number, setting in enumerate(settings):
            if number and tried >= most:
                break
            if (number,) not in file.rows:
                trial = _trial(data, method, setting, folder)
                file.append([{"number": number, "setting": setting, **trial}])
            # A fit that chooses by itself, such as the epoch to keep, has used up some trials.
            tried += 1 + (file.rows[number,][TRIED] if number == 0 else 0)
            advance(1)
    trials = [file.rows[key] for key in sorted(file.rows)]
    usable = [row for row in trials if "failed" not in row]
    if not usable:
        raise UnusableMethodError(trials[0]["failed"])
    best = max(usable, key=lambda row: (row["score"], row["su_f1"], -row["number"]))
    learned = _fitted(data, method, best["setting"], folder)
    cost = learned_numbers(learned), float(learned.get(SECONDS, 0.0))
    chosen = Chosen(method.name, best["setting"], best["score"], tried, trials, *cost)
    _save(folder / "learned.npz", learned)
    text = json.dumps(dataclasses.asdict(chosen), indent=2) + "\n"
    write_atomic(folder / "chosen.json", text.encode())
    for copy in folder.glob("fit-*/learned.npz"):
        copy.unlink()  # the best one is kept above; a whole matrix each may be large
    return chosen


def _trial(data: FittingData, method: Method, setting: Setting, folder: Path) -> dict[str, Any]:
    """Validation rates and score of one setting, or why it failed.

    A prompt that a method lengthens past the model's context is such a failure.
    """
    looks = 0
    try:
        learned = _fitted(data, method, setting, folder)
        looks = int(learned.get(TRIED, 0))
        found = validate_model(data, built(data, method, setting, learned))
    except (UnusableSettingError, DataError) as error:
        return {"failed": str(error), TRIED: looks}
    if data.config.compare.criterion == "balance":
        value = balance(found.rates)
    else:  # as tuning chooses its strength
        value = score(found, data.untuned, data.config.tune.max_over_refusal)
    return {**found.rates, "score": value, TRIED: looks}


def built(data: FittingData, method: Method, setting: Setting, learned: Learned) -> ModelUnderTest:
    """The model under test of what was learned, by the method's name."""
    return dataclasses.replace(method.build(data, setting, learned), name=method.name)


def validate_model(data: FittingData, model: ModelUnderTest) -> Look:
    """Validation of one model, its intervention at work; perplexity is the run's own model's."""
    prompts = data.validation
    ids = model.answer(prompts.every, NEW_TOKENS)
    return look_at(data.model, open_judge(data.config.eval.judge), prompts, ids)


def read_chosen(folder: Path) -> tuple[Chosen, Learned]:
    """What `search` wrote."""
    with reading(folder / "chosen.json"):  # without it the search ends once more
        facts = json.loads((folder / "chosen.json").read_text(encoding="utf-8"))
        return Chosen(**facts), _load(folder / "learned.npz")


def _fitted(data: FittingData, method: Method, setting: Setting, folder: Path) -> Learned:
    """What fitting this setting learns: done now, or read where it was done before."""
    own = {name: setting[name] for name in method.fit_on}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"fit-{digest}" / "learned.npz"
    unusable = path.with_name("unusable.txt")  # for every setting that is fitted so
    if unusable.exists():
        raise UnusableSettingError(unusable.read_text(encoding="utf-8"))
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        start = start_of(path.parent)
        try:
            learned = method.fit(data, setting, path.parent)
        except UnusableSettingError as error:
            write_atomic(unusable, str(error).encode())
            raise
        took = time.time() - start + float(learned.get(SECONDS, 0.0))
        _save(path, learned | {SECONDS: np.asarray(round(took, 1))})
        (path.parent / OURS).unlink()
    with reading(path):
        return _load(path)


def _save(path: Path, learned: Learned) -> None:
    content = io.BytesIO()
    np.savez(content, **learned)  # type: ignore[arg-type]
    write_atomic(path, content.getvalue())


def _load(path: Path) -> Learned:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
