"""What the stages of a run do; every function writes into `folder` and says one line about it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nt_jax.attribution.select import select
from nt_jax.attribution.store import load_neurons, load_scores, neuron_rows, save_neurons
from nt_jax.checkpoints.checkpoint import fingerprint, open_checkpoint
from nt_jax.config.method import NeuronsConfig, TuneConfig
from nt_jax.config.schema import ModelSourceConfig, RunConfig
from nt_jax.console import say
from nt_jax.data.training import Parts
from nt_jax.errors import RunError
from nt_jax.eval.gate import gate_lines
from nt_jax.eval.judges.judge import Judge
from nt_jax.eval.measure import labels_with_counts, result_rows
from nt_jax.eval.metrics.result import read_rows
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors
from nt_jax.report.attribution import write_attribution_report
from nt_jax.report.run import SETTINGS, Tuning, write_report
from nt_jax.report.terminal import judge_names
from nt_jax.run.contrast import chosen_slopes
from nt_jax.run.log import tracked_rows
from nt_jax.rundir import RunDirectory
from nt_jax.track import track
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.level import read_lifts
from nt_jax.train.own_answers import FILE, HARMFUL, cut_opening, write_own_answers
from nt_jax.train.safety_targets import SafetyTargets
from nt_jax.train.state import TuneState, read_history, restore
from nt_jax.train.strength import at_strength, kept_strength, read_strengths
from nt_jax.train.tune import STATES, fresh_state, tune
from nt_jax.train.tuning_data import TuningData

ROUNDED = (
    "all figures are of int8 matrices; an export has those of the source: measure it, too "
    "(nt_jax.eval --model RUN/export/hf)"
)


def own_answers(
    model: ChatModel, judge: Judge, records: Parts, config: RunConfig, folder: Path
) -> str:
    """The base model's own answers, which tuning must keep."""
    train = records["train"]
    targets = write_own_answers(model, judge, train, config.data, config.tune, folder)
    say("targets", targets.line)
    opening, width = targets.opening, config.tune.answer_tokens
    if opening and (learned := cut_opening(model, opening, width)):
        say("warning", f"tune.opening is too long: what is learned is its beginning, {learned!r}")
    rows = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    dropped = sum(row["refused"] for row in rows if row["set"] != HARMFUL)
    return f"{len(rows)} answers of the model itself, {dropped} refusals dropped"


def select_neurons(
    model: ChatModel,
    attributed: Path,
    wanted: NeuronsConfig | Factors,
    name: str,
    folder: Path,
    shown: Path,
) -> str:
    """The neurons to tune, and attribution.md about where they come from; `shown` is its place.

    `wanted`: how many to choose by their scores, or the factors that are gone on from: neurons.csv
    then holds them too.
    """
    scores = load_scores(attributed)
    if isinstance(wanted, Factors):
        neurons, shared, how = wanted.neurons, None, "gone on from"
        factors = wanted.theta_P.tolist()
        found = neuron_rows(neurons, scores)
        rows = [{**row, "factor": f} for row, f in zip(found, factors, strict=True)]
    else:
        neurons, shared = select(scores["safety"], scores["utility"], **wanted.counts)
        rows, how = neuron_rows(neurons, scores), f"{shared} were in both: shared out"
    save_neurons(folder, rows)
    write_attribution_report(model, name, attributed, scores, shared, rows, folder)
    safety = int(np.sum(neurons.is_safety_P))
    layers, most = np.unique(np.asarray(neurons.layer_P)[:safety], return_counts=True)
    top = f"   most safety: layer {layers[most.argmax()]} ({most.max()})" if safety else ""
    return (
        f"{safety} safety + {len(neurons) - safety} utility neurons ({how}){top}   "
        f"{shown / 'attribution.md'}"
    )


def tune_factors(
    model: ChatModel,
    judge: Judge,
    selected: Path,
    data: TuningData,
    config: TuneConfig,
    seed: int,
    folder: Path,
    slopes: CellSlopes | None,
    start: Factors | None = None,
) -> str:
    """Algorithm 1; neurons.csv and neurons.parquet hold the best factors."""
    neurons, rows = load_neurons(selected / "neurons.csv")
    first = [row["factor"] for row in rows if "factor" in row]  # of all, or of none
    if first and start is None:
        start = Factors(neurons, np.asarray(first, np.float32))
    settings = {"judge": judge, "seed": seed, "slopes": slopes, "start": start}
    found = tune(model, neurons, data, config, folder=folder, **settings)
    factors = np.asarray(found.theta_P).tolist()
    save_neurons(folder, [{**row, "factor": f} for row, f in zip(rows, factors, strict=True)])
    state = best_state(config, selected, folder)
    history = [row for row in read_history(folder, int(state.best_epoch)) if "loss" in row]
    first, last = history[0], history[-1]
    return (
        f"{int(state.epoch)} epochs   safety loss {first['safety_loss']:.2f} > "
        f"{last['safety_loss']:.2f}   utility loss {first['utility_loss']:.2f} > "
        f"{last['utility_loss']:.2f}   best epoch {int(state.best_epoch)}"
    )


def slopes_of(
    attributed: Path, selected: Path, first_layer: int | None, model: ChatModel
) -> CellSlopes | None:
    """The slopes of the chosen neurons that attribution measured; None where it did not."""
    if first_layer is None:
        return None
    neurons, _ = load_neurons(selected / "neurons.csv")
    return chosen_slopes(attributed, neurons, first_layer, model.checkpoint.config.neurons)


def write_run_report(directory: RunDirectory, config: RunConfig, layers: int, folder: Path) -> str:
    """The report of what the stage `eval` measured, with the neurons and their tuning."""
    train = directory.read("train")
    _, neurons = load_neurons(train / "neurons.csv")
    names = ("layer", "index", "set", "score", "factor")
    columns = {name: [row[name] for row in neurons] for name in names}
    chosen, _ = load_neurons(directory.read("select") / "neurons.csv")
    best = best_state(config.tune, directory.read("select"), train)
    share = kept_strength(chosen, best, config.tune, train)
    lifts = read_lifts(train)
    if share is None:  # an epoch's own factors won over every lift
        lifts = [{name: x for name, x in row.items() if name != "kept"} for row in lifts]
    told = read_history(train, int(best.best_epoch)), read_strengths(train, share), lifts
    tuning = Tuning({**columns, "num_layers": layers}, *told)
    targets = SafetyTargets.read(directory.read("answers"))
    notes = [targets.line]
    if config.export.strength is not None:
        notes.append(f"factors at strength {config.export.strength:g}, chosen by export.strength")
    command = f"python -m nt_jax.train --config {SETTINGS} run_dir=again"
    said = write_measured(directory, config, folder, command, notes, tuning)
    track(int(best.epoch), tracked_rows(read_rows(folder / "results.json")))
    return said


def write_measured(
    directory: RunDirectory,
    config: RunConfig,
    folder: Path,
    command: str,
    notes: Sequence[str] = (),
    tuning: Tuning | None = None,
) -> str:
    """results.json, report.md and report.html of what the stage `eval` measured.

    `command` repeats it; `notes`: lines about the data besides those that run.json holds.
    """
    rows, answers = result_rows(directory.read("eval"), config.seed)
    known = directory.facts()
    labels = labels_with_counts(directory.folder("eval"), config.eval.labels)
    rounded = [ROUNDED] if config.model.frozen else []
    told = [*notes, *rounded, *gate_lines(rows, config.eval.gate_margin, labels)]
    write_report(
        folder, rows, answers, config.model_dump(mode="json"), directory.seconds(), tuning,
        machine=known | {"notes": [*known.get("notes", []), *told]},
        labels=labels, command=command,
    )  # fmt: skip
    return f"{len(rows)} numbers, judge {judge_names(rows) or 'none'}"


def best_state(config: TuneConfig, selected: Path, train: Path) -> TuneState:
    """The last Orbax state in the folders of these two stages, with the best factors so far."""
    neurons, _ = load_neurons(selected / "neurons.csv")
    state = restore(train / STATES, fresh_state(config, neurons))
    if state is None or int(state.best_epoch) == 0:
        raise RunError(
            f"{train} holds no factors to keep yet: they are chosen after the last epoch, or at a "
            "validation (tune.validate_every). Repeat the command that trains: it goes on."
        )
    return state


def kept_factors(
    config: TuneConfig, selected: Path, train: Path, strength: float | None = None
) -> Factors:
    """The best factors found in the folders of these two stages.

    With a `strength`, the last factors at that strength in place of the best, unless it is theirs.
    """
    neurons, _ = load_neurons(selected / "neurons.csv")
    state = best_state(config, selected, train)
    if strength is None or strength == kept_strength(neurons, state, config, train):
        return Factors(neurons, np.asarray(state.best_P))
    return Factors(neurons, at_strength(neurons, state, strength, config))


def check_same_weights(source: ModelSourceConfig, run_dir: Path, known: str) -> None:
    """Raises a RunError where the model's files are not those that the run was tuned on."""
    checkpoint = open_checkpoint(source.source, source.revision)
    if fingerprint(checkpoint) != known:
        raise RunError(
            f"{checkpoint.path} is not the model that {run_dir} was tuned on: its "
            "files have changed. Put the old ones back, or repeat the run."
        )
