"""What each stage of a run does; every function writes into `folder` and says one line about it."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nt_jax.attribution.select import select
from nt_jax.attribution.store import load_neurons, load_scores, neuron_rows, save_neurons
from nt_jax.config.schema import RunConfig
from nt_jax.errors import RunError
from nt_jax.eval.answering import Measured, answer_all
from nt_jax.eval.measure import measure, result_rows
from nt_jax.eval.metrics.rows import BASE, TUNED, in_order
from nt_jax.export.hf import ExportReport, export_hf
from nt_jax.generate.session import Session
from nt_jax.report.attribution import write_look
from nt_jax.report.run import write_report
from nt_jax.run.attribute import attribute_all
from nt_jax.run.verify import verify_export
from nt_jax.rundir import RunDirectory
from nt_jax.train.history import read_history
from nt_jax.train.own_answers import Records, check_prompts, pools, write_own_answers
from nt_jax.train.state import TuneState, restore
from nt_jax.train.tune import at_strength, fresh_state, full_scale, tune
from nt_jax.train.validate import Validation

Parts = dict[str, Records]


def run_answers(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """The base model's own answers, which tuning must keep."""
    check_prompts(session, records)
    write_own_answers(session, records["train"], folder)
    rows = [json.loads(line) for line in (folder / "own_answers.jsonl").read_text().splitlines()]
    dropped = sum(row["refused"] for row in rows if row["set"] != "harmful")
    return f"{len(rows)} answers of the model itself, {dropped} refusals dropped"


def run_attribute(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """Scores of every neuron, one file per example."""
    return attribute_all(session, records["train"], directory.folder("answers"), folder)


def run_select(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """The neurons to tune, and attribution.md about where they come from."""
    counts = session.config.neurons
    scores = load_scores(directory.folder("attribute"))
    neurons, shared = select(
        scores["safety"],
        scores["utility"],
        safety=counts.safety,
        utility=counts.utility,
        first_layer=counts.first_layer,
    )
    rows = neuron_rows(neurons, scores)
    save_neurons(folder, rows)
    write_look(session, directory.folder("attribute"), scores, neurons, shared, rows, folder)
    per_layer_L = np.bincount(neurons.layer_P[neurons.is_safety_P])
    return (
        f"{counts.safety} safety + {counts.utility} utility neurons ({shared} were in both: shared "
        f"out)   most safety: layer {per_layer_L.argmax()} ({per_layer_L.max()})   "
        f"{directory.folder('select') / 'attribution.md'}"
    )


def run_train(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """Algorithm 1; neurons.csv and neurons.parquet hold the best factors."""
    neurons, rows = load_neurons(directory.folder("select") / "neurons.csv")
    state = tune(
        session,
        neurons,
        pools(session, records["train"], directory.folder("answers")),
        Validation.of(records["validation"]),
        folder,
    )
    factors = np.asarray(state.best_P).tolist()
    save_neurons(folder, [{**row, "factor": f} for row, f in zip(rows, factors, strict=True)])
    history = [row for row in read_history(folder, int(state.best_epoch)) if "loss" in row]
    first, last = history[0], history[-1]
    return (
        f"{int(state.epoch)} epochs   safety loss {first['safety_loss']:.2f} > "
        f"{last['safety_loss']:.2f}   utility loss {first['utility_loss']:.2f} > "
        f"{last['utility_loss']:.2f}   best epoch {int(state.best_epoch)}"
    )


def run_export(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """The tuned checkpoint in HF format, read again and compared before it counts."""
    scale_LF = tuned_scale(session, directory.folder("select"), directory.folder("train"))
    report = export_hf(session.checkpoint, scale_LF, folder / "hf", session.config.export.dtype)
    difference = verify_export(session, scale_LF, folder / "hf")
    write_manifest(folder / "export.json", report, difference)
    where = directory.folder("export") / "hf"
    return (
        f"{where}   {len(report.changed)} of {report.tensors} tensors changed   re-read and "
        f"compared: max |difference| {difference:.0e}"
    )


def run_base(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """The untuned model's answers to the test sets."""
    return answer_all(Measured(BASE, session), session.prompts, session.choices, folder)


def run_tuned(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """The tuned model's answers to the test sets."""
    model = tuned_model(session, directory)
    return answer_all(model, session.prompts, session.choices, folder)


def run_eval(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """Verdicts on both models' answers, and what the base model thinks of them."""
    tuned = tuned_model(session, directory)
    models = [
        (Measured(BASE, session), directory.folder("base")),
        (tuned, directory.folder("tuned")),
    ]
    measure(session, models, scorer_of(session), session.prompts, session.choices, folder)
    return f"judged by {', '.join(session.config.eval.judges)}"


def run_report(session: Session, directory: RunDirectory, records: Parts, folder: Path) -> str:
    """results.json, report.md and report.html."""
    rows, answers = result_rows(directory.folder("eval"), session.config.seed)
    _, neurons = load_neurons(directory.folder("select") / "neurons.csv")
    columns = {name: [row[name] for row in neurons] for name in ("layer", "index", "set", "score")}
    facts = directory.facts()
    train = directory.folder("train")
    best = best_state(session.config, directory.folder("select"), train)
    write_report(
        folder,
        rows,
        answers,
        settings=session.config.model_dump(mode="json"),
        timings=directory.seconds(),
        neurons={**columns, "num_layers": session.checkpoint.config.layers},
        history=read_history(train, int(best.best_epoch)),
        machine=facts,
        labels=session.config.eval.labels,
    )
    judges = in_order(row.judge for row in rows if row.metric == "refusal_rate")
    return f"{len(rows)} numbers, judge {', '.join(judges)}"


def scorer_of(session: Session) -> Session | None:
    """The session of the model that scores answers: eval.scorer, else the session's own."""
    source = session.config.eval.scorer
    if not session.config.eval.perplexity or source in (None, session.config.model.source):
        return session
    return session.of(source)


def tuned_model(session: Session, directory: RunDirectory) -> Measured:
    """The session's model with the best factors of the run, and the folder that it exported."""
    scale_LF = tuned_scale(session, directory.folder("select"), directory.folder("train"))
    return Measured(TUNED, session, jnp.asarray(scale_LF), directory.folder("export") / "hf")


def best_state(config: RunConfig, select: Path, train: Path) -> TuneState:
    """The last Orbax state in the folders of these two stages, with the best factors so far."""
    neurons, _ = load_neurons(select / "neurons.csv")
    state = restore(train / "orbax", fresh_state(config.tune, neurons))
    if state is None or int(state.best_epoch) == 0:
        raise RunError(f"{train} holds no validated factors yet. Let training go on first.")
    return state


def tuned_scale(
    session: Session, select: Path, train: Path, strength: float | None = None
) -> np.ndarray:
    """float32 [L, F]: the best factors found in the folders of these two stages, 1 elsewhere.

    With a `strength`, the last factors at that strength in place of the best.
    """
    neurons, _ = load_neurons(select / "neurons.csv")
    model = session.checkpoint.config
    state = best_state(session.config, select, train)
    theta_P = (
        state.best_P if strength is None else at_strength(state, strength, session.config.tune)
    )
    return full_scale(np.asarray(theta_P), neurons, (model.layers, model.neurons))


def write_manifest(path: Path, report: ExportReport, difference: float) -> None:
    """What was exported: changed tensors, rounding, the check's result, and file hashes."""
    facts = {
        "changed": report.changed,
        "tensors": report.tensors,
        "max_rounding": report.max_rounding,
        "max_logit_difference": difference,
        "sha256": report.sha256,
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


RUNNERS = {
    "answers": run_answers, "attribute": run_attribute, "select": run_select, "train": run_train,
    "export": run_export, "base": run_base, "tuned": run_tuned, "eval": run_eval,
    "report": run_report,
}  # fmt: skip
