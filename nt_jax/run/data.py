"""What a run tunes on and what it asks, read together, with what there is to say about it."""

import dataclasses

from nt_jax.attribution.attack_selection import NONE, choose_templates, selects
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.data.attacks import attack_of
from nt_jax.data.repeats import repeat_lines
from nt_jax.data.training import Parts, attack_line, read_records, without_tests
from nt_jax.eval.judges.judge import open_judge
from nt_jax.eval.overlap import attack_overlap, overlap, test_attacks
from nt_jax.eval.prompts import Tests, read_tests
from nt_jax.train.safety_targets import SafetyTargets, settle, usable


@dataclasses.dataclass(frozen=True)
class RunData:
    """The records and the tests of a run, and lines about them for screen and report."""

    records: Parts
    tests: Tests
    targets: SafetyTargets | None  # None: the model decides
    notes: list[str]
    overlap: dict[str, int]  # test set -> requests that are also tuned on
    attack_overlap: dict[str, int]  # test set -> attacks that are also tuned on
    repeats: list[str]  # a line for each kind of record that stands on two sides

    @property
    def shared(self) -> list[str]:
        """A line for each test set that asks what is also tuned on, and for each of `repeats`."""
        kinds = (("requests", self.overlap), ("attacks", self.attack_overlap))
        return [
            *self.repeats,
            *(
                f"{count} {kind} of {name} are also tuned on: its result is too good"
                for kind, found in kinds
                for name, count in found.items()
            ),
        ]


def read_data(config: RunConfig) -> RunData:
    """All files opened and checked, as far as that goes without the model."""
    data, judge = config.data, open_judge(config.eval.judge)
    notes: list[str] = []
    records, tests = read_records(data, notes), read_tests(config.eval)
    if data.leave_out_tests:
        asked = (prompt.request for prompt in tests.prompts)
        records, rows, attacks = without_tests(records, asked, *test_attacks(config.eval, tests))
        notes.append(f"left out, as test sets ask them: {rows} requests, {attacks} attacks")
    notes.insert(0, f"attacks: {attack_line(records)}")
    before = records["train"].harmful
    records["train"] = train = usable(judge, records["train"], data.safety_targets)
    notes += _not_learned(before, train.harmful)
    if config.attribution.score != CONTRASTIVE:  # which reads no examples in attacks of a type
        choose_templates(train.templates, config.attribution)
        if config.attribution.attack_selection and not selects(train.templates, config.attribution):
            notes.append(NONE)
    targets = settle(judge, train, data.safety_targets, None, config.tune)
    tuned_on = [request for part in records.values() for request in part.requests]
    attacks = [template for part in records.values() for template in part.templates]
    names = {attack_of(row) for part in records.values() for row in part.paired}
    return RunData(
        records, tests, targets, notes,
        overlap(tests.prompts, tuned_on), attack_overlap(config.eval, attacks, names),
        repeat_lines(records),
    )  # fmt: skip


def _not_learned(before: list, after: list) -> list[str]:
    """How many training rows go because their safe answer does not refuse, or is missing."""
    kept = {row.request for row in after}
    gone = [row for row in before if row.request not in kept]
    other = sum(bool(row.refusal) for row in gone)
    lines = []
    if other:
        given = sum(bool(row.refusal) for row in before)
        lines.append(f"{other} of {given} safe answers do not refuse and are not learned")
    if len(gone) > other:
        missing = len(gone) - other
        lines.append(f"{missing} of {len(before)} harmful requests have no refusal, not learned")
    return [f"{line} (data.safety_targets)" for line in lines]
