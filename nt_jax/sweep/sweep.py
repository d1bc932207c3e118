"""The dial: every cell of a grid tuned on one attribution; the test sets asked for one choice.

SWEEP/answers, attribute    made once
SWEEP/cells/NAME-KEY        a run directory each, up to its factors; KEY tells settings apart
SWEEP/pareto                pareto.csv, pareto.md, pareto.png, sweep.json
SWEEP/picked/NAME           the run directory of a choice, carried on to its report
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nt_jax.config.grid import Cell, check_choice
from nt_jax.config.registry import PICKS
from nt_jax.config.schema import config_key
from nt_jax.console import clock, expect, say, show
from nt_jax.errors import ConfigError, DivergedError, RunError
from nt_jax.run import pipeline
from nt_jax.run.by_ray import ways_at
from nt_jax.run.cached import note_made, with_cache
from nt_jax.run.cells import tune_cell
from nt_jax.run.dry_run import header, model_line
from nt_jax.run.estimate import expected_seconds
from nt_jax.run.preflight import Inputs, check_cell, read_inputs
from nt_jax.run.said import say_about_inputs
from nt_jax.rundir import RunDirectory, Stage
from nt_jax.sweep.place import SHARED, Placed, beside, place, with_folder
from nt_jax.sweep.points import (
    Point,
    numbered,
    pick,
    points_of,
    rule,
    untuned_point,
    words,
)
from nt_jax.sweep.side_by_side import tune_by_ray
from nt_jax.sweep.write import TOLD, screen, write_results
from nt_jax.train.validate import Validation

AFTER = "cells after"  # what is expected of them, as if it were a stage


@dataclasses.dataclass(frozen=True)
class Dial:
    """What a sweep has found; a number or a name chooses a point."""

    folder: Path
    inputs: Inputs
    cells: Mapping[str, Placed]  # by the name of its folder
    points: Sequence[Point]
    untuned: Point
    picks: Mapping[str, Point]

    def chosen(self, choice: str) -> Point:
        """The point of a name of PICKS or a number; a ConfigError where there is none."""
        if choice in self.picks:
            return self.picks[choice]
        if choice.isdecimal() and 1 <= int(choice) <= len(self.points):
            return self.points[int(choice) - 1]
        raise ConfigError(
            f"'{choice}' is no choice (--pick): give {', '.join(PICKS)} or a number from 1 to "
            f"{len(self.points)}"
        )

    def measure(self, point: Point) -> Path:
        """Ask the test sets of this point's model, export and report; its run directory."""
        placed = self.cells[point.cell]
        strength = None if point.kept else point.strength
        suffix = "" if strength is None else f"-at-{strength:g}"
        picked = self.folder / "picked"
        others = sorted(path.parent for path in picked.glob("*/run.json"))
        config = with_folder(placed.config, picked / f"{point.cell}{suffix}")
        export = config.export.model_copy(update={"strength": strength})
        config = config.model_copy(update={"export": export})
        beside = [placed.folder, *others]
        pipeline.run(config, inputs=self.inputs, beside=beside, start=placed.start)
        return config.folder


def sweep(
    cells: Sequence[Cell],
    choice: str | None = None,
    then: Callable[[Dial], None] | None = None,
    warm: bool = False,
    ray: str | None = None,
) -> dict[str, Any]:
    """Tune every cell, compare them, measure the `choice` if there is one; what was found.

    `then` is called with the finished dial, the folder still held. If `warm`, every cell but the
    first begins at the factors of its neighbour, for half the epochs. `ray` is the HOST:PORT of a
    cluster that tunes the cells side by side, to the same factors.
    """
    check_choice(choice)
    first = cells[0].config
    ways = 1 if ray is None else ways_at(ray, first.mesh.devices)
    root = Path(first.run_dir or Path("runs") / f"{first.name}-sweep")
    config = with_folder(first, root)
    show(header(config))
    inputs = read_inputs(config)
    for cell in cells[1:]:
        check_cell(cell.config, inputs.model, inputs.data)
    placed = place(cells, root, inputs, warm)
    with RunDirectory(root) as directory:
        facts = directory.facts()
        tuned = "train" in facts.get("keys", {}) and (root / "train").exists()
        if tuned or "measured" in facts:
            what = "a run" if tuned else "the evaluation of a model"
            raise RunError(
                f"{root} holds {what}, whose settings a sweep would replace. Choose another folder "
                "with --run-dir DIR; nothing was changed."
            )
        table, keys = pipeline.begin(config, directory, inputs)
        say("model", model_line(inputs.model.checkpoint.config))
        say_about_inputs(config, inputs)
        fresh = [name for name in SHARED if not directory.done(name, keys[name])]
        say_time(fresh, list(placed.values()), keys, inputs, ways)
        for stage in table:
            if stage.name in SHARED:
                directory.carry(stage, keys[stage.name])
            if stage.name in fresh:
                note_made(config, keys, stage.name)
        if ray is None:
            failed = tune_all(list(placed.values()), inputs, root)
        else:
            failed = tune_by_ray(placed, root, ray)
        if len(failed) == len(placed):
            raise next(iter(failed.values()))
        tuned_cells = {name: one for name, one in placed.items() if name not in failed}
        dial = results(directory, tuned_cells, inputs)
        measured = None
        if choice is not None:
            point = dial.chosen(choice)
            say("chosen", f"{choice}: {point.number}, {point.where}")
            measured = dial.measure(point)
        if then is not None:
            then(dial)
    numbers = {name: point.number for name, point in dial.picks.items()}
    return {"run": str(root), "picks": numbers, "measured": measured and str(measured)}


def say_time(
    fresh: Sequence[str],
    placed: Sequence[Placed],
    keys: Mapping[str, str],
    inputs: Inputs,
    ways: int = 1,
) -> None:
    """How long the sweep may take in all, before it begins; `fresh`: shared stages to be made.

    `ways`: how many cells are tuned side by side.
    """
    first = with_cache(placed[0].config, keys, expected_seconds(placed[0].config, inputs))
    shared = {name: first[name] for name in fresh}
    cells = [cell_seconds(one, inputs) for one in placed if not one.done]
    if not shared and not cells:
        return
    longest = max(sum(cells) / ways, max(cells, default=0.0))
    expect(shared | {AFTER: longest})
    total = clock(sum(shared.values()) + longest)
    told = "".join(f"{name} {clock(part)}, " for name, part in shared.items())
    each = f"{len(cells)} of {len(placed)} cells {clock(longest)}"
    say("time", f"about {total} in all ({told}{each}); a guess, corrected on the way")


def cell_seconds(one: Placed, inputs: Inputs) -> float:
    """How long a cell may take once attribution is done."""
    expected = expected_seconds(one.config, inputs)
    return expected["select"] + expected["train"]


def tune_all(placed: Sequence[Placed], inputs: Inputs, root: Path) -> dict[str, DivergedError]:
    """Every cell to its factors; by name, why those that diverge have none.

    A cell that would begin at such a one's factors has none either.
    """
    failed: dict[str, DivergedError] = {}
    for n, one in enumerate(placed, 1):
        ahead = sum(cell_seconds(other, inputs) for other in placed[n:] if not other.done)
        mine = 0.0 if one.done else cell_seconds(one, inputs)
        expect({"train": mine, AFTER: ahead} if mine or ahead else {})
        show()
        begins = f", begun at {one.start.run.name}" if one.start else ""
        say("cell", f"{n} of {len(placed)}   {words(one.cell.settings)}{begins}   {one.folder}")
        try:
            if one.start and (before := failed.get(one.start.run.name)):
                raise DivergedError(f"the cell that it begins at has no factors: {before}")
            tune_cell(one.config, inputs, beside(one, root), one.start)
        except DivergedError as error:
            failed[one.folder.name] = error
            say("left out", str(error))
    return failed


def results(directory: RunDirectory, placed: Mapping[str, Placed], inputs: Inputs) -> Dial:
    """What the cells have measured, written down and shown."""
    config = next(iter(placed.values())).config
    prompts = Validation.of(inputs.records["validation"], config.tune.validation_answers)
    asked = {kind: len(rows) for kind, rows in prompts.prompts.items()}
    found: list[Point] = []
    for name, one in placed.items():
        keep, train = one.config.tune.keep, one.folder / "train"
        begun = one.start.run.name if one.start else ""
        found += points_of(name, one.cell.settings, train, keep, asked, begun)
    most = config.tune.max_over_refusal
    points = numbered(found)
    picks = {name: pick(points, name, most) for name in PICKS}
    untuned = untuned_point(next(iter(placed.values())).folder / "train", asked)
    rules = [rule(name, most) for name in PICKS]
    facts = {
        "cells": {name: str(one.folder) for name, one in placed.items()},
        "points": [dataclasses.asdict(point) for point in points],
    }
    # The numbers themselves: a cell that was tuned again has its key, and may have others.
    told = json.dumps([facts, dataclasses.asdict(untuned), rules])

    def write(folder: Path) -> str:
        write_results(folder, points, untuned, picks, rules, facts)
        return f"{len(points)} points of {len(placed)} cells"

    stage = Stage("pareto", (), (), write, resumable=False)
    show()
    folder = directory.carry(stage, config_key(config, (), [told]))
    show()
    show(screen(points, untuned, picks))
    show(TOLD)
    show()
    for line in rules:
        say("rule", line)
    say("results", f"{folder / 'pareto.csv'}   (also pareto.md and pareto.png)")
    return Dial(directory.path, inputs, placed, points, untuned, picks)
