"""The judges that the settings name, and their verdicts on disk, each judge's in its own file."""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.judges.classifier import ClassifierJudge, files_hash
from nt_jax.eval.judges.phrase_judge import Judge, load_judge
from nt_jax.generate.session import Session, fingerprint

BATCH = 64  # answers judged before their verdicts are brought to disk


def open_judge(spec: str, config: RunConfig, console: Console) -> Judge:
    """The judge of one entry of eval.judges: phrases, classifier:SOURCE[#LABEL] or guard:SOURCE."""
    kind, _, source = spec.partition(":")
    if kind == "classifier" and source:
        return ClassifierJudge(source)
    if kind == "guard" and source:
        return _guard(source, config, console)
    if spec.startswith("phrases"):
        return load_judge(spec)
    raise ConfigError(
        f"eval.judges: '{spec}' is no judge. Use phrases, classifier:PATH_OR_ID or "
        "guard:PATH_OR_ID."
    )


def check_judges(config: RunConfig) -> None:
    """Raises, before any work, for a judge that is not there; no weights are read."""
    for spec in config.eval.judges:
        kind, _, source = spec.partition(":")
        if kind == "guard":
            open_checkpoint(source)
        if kind == "classifier":
            folder = source.partition("#")[0]
            if importlib.util.find_spec("torch") is None:
                raise ConfigError(
                    f"eval.judges: {spec} needs torch, which is not installed: "
                    "pip install 'nt_jax[judge]'"
                )
            if folder.startswith(("/", ".", "~")) and not Path(folder).expanduser().is_dir():
                raise ConfigError(f"eval.judges: there is no directory {folder}.")


def measuring_hash(config: RunConfig) -> str:
    """sha256 of the judges' rules and files, and of eval.scorer: a path may hold another tomorrow.

    A model of the hub counts by its name. Reads no weights but those of classifiers.
    """
    digest = hashlib.sha256()
    for spec in config.eval.judges:
        digest.update(_rules(spec).encode())
    if config.eval.perplexity and config.eval.scorer:
        digest.update(fingerprint(open_checkpoint(config.eval.scorer)).encode())
    return digest.hexdigest()


def _rules(spec: str) -> str:
    kind, _, source = spec.partition(":")
    if kind == "guard":
        return fingerprint(open_checkpoint(source))
    if kind != "classifier":
        return load_judge(spec).sha256
    folder = Path(source.partition("#")[0]).expanduser()
    return files_hash(folder) if folder.is_dir() else spec


def _guard(source: str, config: RunConfig, console: Console) -> Judge:
    """A second checkpoint behind our own engine."""
    from nt_jax.eval.judges.guard import NEW_TOKENS, GuardJudge

    session = Session(config, console).of(source)

    def ask(questions: Sequence[str]) -> list[str]:
        return [session.text(ids) for ids in session.answer(questions, NEW_TOKENS)]

    name = f"guard:{Path(source).name if Path(source).exists() else source}"
    return GuardJudge(name, fingerprint(session.checkpoint), ask)


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What one judge said: a value in 0..1 per (dataset, id, model)."""

    judge: str
    sha256: str
    values: dict[tuple[str, str, str], float]


def judge_answers(judge: Judge, answers: Sequence[dict], path: Path, advance) -> Verdicts:
    """The judge's verdict on each answer; those already in the file at `path` are not repeated.

    A file made by another judge, or by other rules of this one, is started again.
    """
    file = RecordFile(path, ("dataset", "id", "model", "sha256"))
    wanted = [row for row in answers if (*_key(row), judge.sha256) not in file.rows]
    advance(len(answers) - len(wanted))
    for start in range(0, len(wanted), BATCH):
        rows = wanted[start : start + BATCH]
        values = judge.verdicts([r["request"] for r in rows], [r["answer"] for r in rows])
        file.append([
            {"dataset": row["dataset"], "id": row["id"], "model": row["model"],
             "judge": judge.name, "sha256": judge.sha256, "verdict": float(value)}
            for row, value in zip(rows, values, strict=True)
        ])  # fmt: skip
        advance(len(rows))
    found = file.in_order((*_key(row), judge.sha256) for row in answers)
    values = {_key(row): row["verdict"] for row in found}
    return Verdicts(judge.name, judge.sha256, values)


def with_verdicts(answers: Sequence[dict], verdicts: Sequence[Verdicts]) -> list[dict]:
    """The answers with every judge's verdict; "refused" is whether the first judge says so."""
    rows = []
    for row in answers:
        said = {one.judge: one.values[_key(row)] for one in verdicts}
        rows.append({**row, "refused": said[verdicts[0].judge] == 1.0, "verdicts": said})
    return rows


def _key(row: dict) -> tuple[str, str, str]:
    return row["dataset"], row["id"], row["model"]
