"""What is learned as a refusal: the data's own, the model's own, or those that ship with us.

One source a run, never mixed. `data.safety_targets=auto` takes the first that refuses often enough.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from nt_jax.config.method import TuneConfig
from nt_jax.data.records import HarmfulRequest
from nt_jax.data.shipped import shipped_refusal
from nt_jax.data.training import Records, each_request_once
from nt_jax.errors import DataError
from nt_jax.eval.judges.judge import Judge
from nt_jax.seal import reading

FILE = "safety_targets.json"
ENOUGH = 50  # refusals that make a source good enough; fewer will do where none is missing
MIN_HARMFUL = 2  # one for each of Algorithm 1's sets
GIVEN, SELF, SHIPPED, OPENING = "given", "self", "shipped", "opening"


@dataclasses.dataclass(frozen=True)
class SafetyTargets:
    """The source of a run's refusals, why it is that one, and request -> refusal where shipped.

    `opening`: what is learned in place of whole refusals, if so.
    """

    source: str
    why: str = ""
    refusals: dict[str, str] = dataclasses.field(default_factory=dict)
    opening: str = ""

    @property
    def line(self) -> str:
        """The source and why, for screen and report."""
        return f"safety targets: {self.source}: {self.why}"

    def write(self, folder: Path) -> None:
        """Into the folder of the model's own answers, for the stages after them."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / FILE).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "SafetyTargets":
        """What `write` wrote."""
        path = folder / FILE
        with reading(path):
            return cls(**json.loads(path.read_text(encoding="utf-8")))


def enough(refusals: int, of: int) -> bool:
    """Whether a source with so many refusals of so many is learned from."""
    return refusals >= ENOUGH or refusals == of >= MIN_HARMFUL


def refusing(judge: Judge, rows: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
    """The rows whose safe answer the judge takes for a refusal."""
    given = [row for row in rows if row.refusal]
    verdicts = judge.verdicts([r.request for r in given], [r.refusal or "" for r in given])
    return [row for row, refuses in zip(given, verdicts, strict=True) if refuses == 1]


def usable(judge: Judge, train: Records, wanted: str) -> Records:
    """The training records that are learned from, as far as that is known without the model.

    `wanted` is data.safety_targets. Where the data's refusals are learned, rows without one go.
    """
    if wanted == "refusals":
        return refusals_only(judge, train)
    if wanted == "auto" and enough(len(refusing(judge, train.harmful)), len(train.harmful)):
        left = refusals_only(judge, train)
        return dataclasses.replace(
            left,
            harmful=[row for row in left.harmful if row.refusal],
            paired=[row for row in left.paired if row.refusal],
        )
    return train


def refusals_only(judge: Judge, train: Records) -> Records:
    """`train` without the harmful rows whose safe answer does not refuse.

    Published safe answers hold corrections, advice and plain answers ("No, arson is a crime ...");
    a model that learns them together with refusals learns neither. Rows without an answer stay. A
    request that stands in several attacks keeps the first safe answer that refuses.
    """
    refuse = set(map(id, refusing(judge, [*train.harmful, *train.paired])))

    def left(rows: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
        return [row for row in rows if not row.refusal or id(row) in refuse]

    kept, paired = left(train.harmful), left(train.paired)
    kept = each_request_once([*kept, *paired]) if paired else kept
    given = [row for row in train.harmful if row.refusal]
    other = [row for row in given if id(row) not in refuse]
    if other and len(kept) < MIN_HARMFUL:
        raise DataError(
            f"data.harmful: of {len(given)} safe answers to tune on the judge takes "
            f"{len(given) - len(other)} for refusals (the first of the others: row {other[0].id}). "
            "Leave data.safety_targets at auto, which then takes refusals from elsewhere."
        )
    return dataclasses.replace(train, harmful=kept, paired=paired)


def settle(
    judge: Judge,
    train: Records,
    wanted: str,
    refused: Sequence[float] | None,
    tune: TuneConfig | None = None,
) -> SafetyTargets | None:
    """The source of the safety targets; None as long as the model has to answer first.

    `refused` says of each harmful training request whether the model refuses it by itself;
    `tune` says whether an opening is learned in place of whole refusals.
    """
    rows = train.harmful
    if tune is not None and tune.target == "opening":
        return SafetyTargets(OPENING, repr(tune.opening), opening=tune.opening)
    given = len(refusing(judge, rows))
    if wanted in ("refusals", GIVEN):
        return SafetyTargets(GIVEN, f"data.safety_targets={wanted}")
    if wanted == "auto" and enough(given, len(rows)):
        return SafetyTargets(GIVEN, f"{given} of {len(rows)} training requests have a refusal")
    shipped = {row.request: shipped_refusal(row.request, row.kind) for row in rows}
    if wanted == SHIPPED:
        return SafetyTargets(SHIPPED, f"data.safety_targets={wanted}", shipped)
    if refused is None:
        return None
    count = sum(map(bool, refused))
    said = f"the model refused {count} of {len(rows)}"
    if wanted == SELF:
        return SafetyTargets(SELF, said)
    answers = sum(bool(row.refusal) for row in rows)
    said = f"{given} of {answers} given answers refuse, {said}"
    if enough(count, len(rows)):
        return SafetyTargets(SELF, said)
    return SafetyTargets(SHIPPED, said, shipped)
