"""What a run says of itself on the screen: before its stages, and at its end."""

from collections.abc import Mapping, Sequence

from nt_jax.config.paper import as_written, departures
from nt_jax.config.schema import RunConfig
from nt_jax.console import clock, expect, say, show
from nt_jax.eval.gate import gate_lines
from nt_jax.eval.measure import labels_with_counts
from nt_jax.eval.metrics.result import read_rows
from nt_jax.report.terminal import screen_table
from nt_jax.run.cached import with_cache
from nt_jax.run.dry_run import warnings
from nt_jax.run.epochs import share_ahead
from nt_jax.run.estimate import expected_seconds
from nt_jax.run.preflight import Inputs
from nt_jax.rundir import RunDirectory, Stage


def say_time(
    config: RunConfig,
    inputs: Inputs,
    keys: Mapping[str, str],
    ahead: Sequence[str],
    directory: RunDirectory,
) -> None:
    """How long the stages ahead may take, and what the screen then holds them against."""
    if not ahead:
        return
    begun = directory.current("train", keys["train"]) if "train" in ahead else None
    share = share_ahead(config.tune, begun) if begun else 1.0
    found = with_cache(config, keys, expected_seconds(config, inputs, share))
    seconds = {name: found[name] for name in ahead}
    expect(seconds)
    told = ", ".join(f"{name} {clock(part)}" for name, part in seconds.items())
    say(
        "time",
        f"about {clock(sum(seconds.values()))} in all ({told}); a guess, corrected on the way",
    )


def say_departures(config: RunConfig) -> None:
    """Settings of a run as the paper has it that are not the paper's."""
    found = [
        f"{row.key} = {as_written(value)} ({row.whose}: {as_written(row.paper)})"
        for row, value in departures(config.model_dump(mode="json"))
    ]
    say("algorithm", "as the paper prints it" + (f", but {'; '.join(found)}" if found else ""))


def say_about_inputs(config: RunConfig, inputs: Inputs) -> None:
    """Where attacks come from, what is left out or also tuned on, plain marks, a slow dtype."""
    for note in inputs.data.notes:
        say("data", note)
    for line in warnings(config, inputs):
        say("warning", line)


def finish(config: RunConfig, directory: RunDirectory, table: Sequence[Stage]) -> None:
    """The last screen: stage times, the before/after table, where everything lies."""
    folder, seconds = directory.path, directory.seconds()
    names = [stage.name for stage in table if stage.name in seconds]
    show()
    labels = labels_with_counts(directory.read("eval"), config.eval.labels)
    show(screen_table(read_rows(directory.read("report") / "results.json"), labels))
    show()
    say("times", "   ".join(f"{name} {clock(seconds[name])}" for name in names))
    say("model", f"{folder / 'export' / 'hf'}")
    say_results(directory, config)


def say_results(directory: RunDirectory, config: RunConfig) -> None:
    """Whether anything else got worse; where the report and the answers of a run lie."""
    rows = read_rows(directory.folder("report") / "results.json")
    for line in gate_lines(rows, config.eval.gate_margin, config.eval.labels):
        say("gate", line)
    say("report", f"{directory.folder('report') / 'report.md'}   (and report.html)")
    say("answers", f"{directory.folder('eval') / 'answers.jsonl'}")
