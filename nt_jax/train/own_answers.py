"""Everything tuning and testing read, from records and the base model's own answers."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from nt_jax.config.schema import RunConfig
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.data.splits import divide
from nt_jax.errors import DataError, RunError
from nt_jax.eval.judges.phrase_judge import Judge
from nt_jax.generate.session import Session
from nt_jax.train.pools import Pair, Pools, far_apart, make_pools

Row = TypeVar("Row")
MIN_HARMFUL = 2  # one for each of Algorithm 1's sets
ATTACKED_SHARE = 2  # one attacked harmless request for so many bare ones
OPENING_TOKENS = 3  # of a refusal: "I can't", "I'm sorry"; the model itself says how it goes on


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split."""

    harmful: list[HarmfulRequest]
    harmless: list[HarmlessRequest]
    templates: list[AttackTemplate]

    def attacked(self, requests: Sequence[str]) -> list[str]:
        """Each request inside one template; neighbours get templates far apart, all are used."""
        count = len(self.templates)
        stride = far_apart(count)
        return [
            self.templates[place * stride % count].apply(text)
            for place, text in enumerate(requests)
        ]


def read_records(config: RunConfig) -> dict[str, Records]:
    """The records to tune on and those to validate on."""
    data, parts = config.data, {}
    harmful = load_harmful(data.harmful.source, data.harmful.split, data.harmful.limit)
    harmful = each_question_once(harmful)
    harmless = load_harmless(data.harmless.source, data.harmless.split, data.harmless.limit)
    templates = load_templates(data.templates.source, data.templates.split, data.templates.limit)
    for part in ("train", "validation"):
        parts[part] = Records(
            divide(harmful, part, "harmful"),
            divide(harmless, part, "harmless"),
            divide(templates, part, "templates"),
        )
    return parts


def each_question_once(rows: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
    """`rows` without repeats of a question that a file holds once for each attack (SafeEdit).

    Attacks come from `data.templates`; repeats would lie on both sides of every cut.
    """
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row.attacked is None or row.request not in seen:
            kept.append(row)
        if row.attacked is not None:
            seen.add(row.request)
    return kept


def refusals_only(judge: Judge, train: Records) -> Records:
    """`train` without the harmful requests whose safe answer does not refuse.

    Published safe answers hold corrections, advice and plain answers ("No, arson is a crime ...");
    a model that learns them together with refusals learns neither. Rows without an answer stay.
    """
    given = [row for row in train.harmful if row.refusal]
    verdicts = judge.verdicts([r.request for r in given], [r.refusal or "" for r in given])
    other = [row for row, refuses in zip(given, verdicts, strict=True) if not refuses]
    left_out = {id(row) for row in other}
    kept = [row for row in train.harmful if id(row) not in left_out]
    if other and len(kept) < MIN_HARMFUL:
        raise DataError(
            f"data.harmful: of {len(given)} safe answers to tune on the judge takes "
            f"{len(given) - len(other)} for refusals (the first of the others: row {other[0].id}). "
            "Add refusals, or set data.safety_targets=given to learn all of them."
        )
    return dataclasses.replace(train, harmful=kept)


def data_hash(parts: dict[str, Records]) -> str:
    """sha256 over every record, so that a run never reuses work made from other data."""
    rows = {part: dataclasses.asdict(records) for part, records in parts.items()}
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_prompts(session: Session, parts: dict[str, Records]) -> None:
    """Raises a DataError for the first prompt that leaves no room for its answer: before any work.

    Each template is tried around the longest request, which some later batch may well draw.
    """
    config, context = session.config, session.checkpoint.config.max_positions
    answer = max(config.tune.answer_tokens, config.attribution.answer_tokens)

    def check(where: str, text: str) -> None:
        if (tokens := len(session.encode(text))) > context - answer:
            raise DataError(
                f"{where}: the prompt has {tokens} tokens; with {answer} of its answer it does not "
                f"fit the model's context of {context}. Shorten or drop it, or lower "
                "tune.answer_tokens."
            )

    for records in parts.values():
        for name, rows in (("harmful", records.harmful), ("harmless", records.harmless)):
            for row in rows:
                check(f"data.{name}, row {row.id}", row.request)
        rows = [*records.harmful, *records.harmless]
        longest = max(rows, key=lambda row: len(session.encode(row.request)))
        for template in records.templates:
            where = f"data.templates, row {template.id} around the longest request ({longest.id})"
            check(where, template.apply(longest.request))


def write_own_answers(session: Session, train: Records, folder: Path) -> None:
    """Let the base model answer what it should go on answering, and refuse where it does.

    Files: one JSON line per request {set, request, answer ids, ended, refused, declined}, the last
    being a refusal of a harmless request: the first words of a safety target, carried on by the
    base model. Its own way of saying no is what a false refusal of the tuned model sounds like.
    """
    requests = [record.request for record in train.harmless]
    wanted, own_targets = session.config.tune.metric_requests, own_safety_targets(session)
    if wanted and not own_targets and not any(record.refusal for record in train.harmful):
        raise DataError(
            f"tune.metric_requests={wanted} needs refusals in data.harmful to tell how a refusal "
            "begins, but none of its training rows has one. Add some, set it to 0, or set "
            "data.safety_targets=self."
        )
    sets = {"harmless": requests}
    if session.config.tune.attacked_harmless_fraction > 0:
        sets["attacked"] = train.attacked(requests[::ATTACKED_SHARE])
    if own_targets:
        sets["harmful"] = [record.request for record in train.harmful]
    texts = [text for group in sets.values() for text in group]
    width = session.config.tune.answer_tokens
    ids = session.answer(texts, width, "base answers")
    answers = [session.text(row) for row in ids]
    refused = session.judge.verdicts(texts, answers)
    names = [name for name, group in sets.items() for _ in group]
    if own_targets:
        every = zip(names, ids, refused, strict=True)
        begin = [row for name, row, no in every if no and name == "harmful"]
    else:
        begin = [session.answer_ids(record.refusal) for record in train.harmful if record.refusal]
    asked = [text for text, name in zip(texts, names, strict=True) if name != "harmful"]
    declined = declined_answers(session, begin, asked) if begin else {}
    with (folder / "own_answers.jsonl").open("w", encoding="utf-8") as file:
        for name, text, row, no in zip(names, texts, ids, refused, strict=True):
            line = {"set": name, "request": text, "answer": row, "ended": len(row) < width}
            line |= {"refused": no, "declined": declined.get(text, [])}
            file.write(json.dumps(line) + "\n")


def own_safety_targets(session: Session) -> bool:
    """Whether the refusals to learn are the model's own."""
    return session.config.data.safety_targets == "self"


def declined_answers(
    session: Session, refusals: Sequence[list[int]], harmless: Sequence[str]
) -> dict[str, list[int]]:
    """Harmless request -> a refusal of it as token ids, for as many as the metric asks for.

    `refusals` are the safety targets, whose first words are carried on.
    """
    tune = session.config.tune
    if tune.metric_requests == 0:
        return {}
    texts = spread(harmless, tune.metric_requests)
    every = itertools.cycle(refusal[:OPENING_TOKENS] for refusal in refusals)
    openings = [opening for opening, _ in zip(every, texts, strict=False)]
    width = tune.answer_tokens - OPENING_TOKENS
    ids = session.answer(texts, max(1, width), "refusals", openings=openings)
    return {t: opening + row for t, opening, row in zip(texts, openings, ids, strict=True)}


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` of the rows, evenly over all of them and in their order."""
    count = min(count, len(rows))
    return [rows[len(rows) * n // count] for n in range(count)]


def read_own_answers(folder: Path, eos_id: int) -> dict[str, tuple[list[Pair], list[Pair]]]:
    """Per set: (pairs whose answer is useful, pairs whose answer is a refusal)."""
    pairs: dict[str, tuple[list[Pair], list[Pair]]] = {}
    path = folder / "own_answers.jsonl"
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answer = row["answer"] + ([eos_id] if row["ended"] else [])
            group = pairs.setdefault(row["set"], ([], []))
            if row["answer"]:
                pair = Pair(row["request"], answer, declined=row["declined"])
                group[row["refused"]].append(pair)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete its folder and repeat.") from error
    return pairs


def safety_pairs(session: Session, train: Records, own: dict) -> list[Pair]:
    """Harmful requests with the refusal to learn: the data's, or the model's own."""
    if own_safety_targets(session):
        refusals = own.get("harmful", ([], []))[1]
        if len(refusals) < 2:
            raise DataError(
                "data.safety_targets=self needs a model that refuses bare harmful requests, but "
                f"this one refused {len(refusals)} of {len(train.harmful)}. Use 'given'."
            )
        return refusals
    missing = [record.id for record in train.harmful if not record.refusal]
    if missing:
        raise DataError(
            f"data.harmful: {len(missing)} of {len(train.harmful)} training rows have no refusal "
            f"(first: {missing[0]}). Add one, or set data.safety_targets=self."
        )
    return [Pair(r.request, session.answer_ids(r.refusal or "")) for r in train.harmful]


def utility_pairs(session: Session, train: Records, own: dict) -> list[Pair]:
    """Harmless requests with the answer to keep: the model's own, or the data's."""
    if session.config.data.utility_targets == "self":
        return own["harmless"][0]
    rows = [record for record in train.harmless if record.answer]
    if not rows:
        raise DataError("data.utility_targets=given, but no harmless training row has an answer.")
    declined = {p.request: p.declined for group in own.get("harmless", ()) for p in group}
    return [
        Pair(
            record.request,
            session.answer_ids(record.answer or ""),
            declined=declined.get(record.request, []),
        )
        for record in rows
    ]


def pools(session: Session, train: Records, folder: Path) -> Pools:
    """D_local and D_global of Algorithm 1."""
    own = read_own_answers(folder, session.eos_id)
    hard = {record.request for record in train.harmless if record.sounds_harmful}
    utility = [
        dataclasses.replace(pair, sounds_harmful=pair.request in hard)
        for pair in utility_pairs(session, train, own)
    ]
    return make_pools(
        safety_pairs(session, train, own),
        train.templates,
        utility,
        own.get("attacked", ([], []))[0],
        session.config.tune.local_fraction,
        session.config.tune.sounds_harmful_fraction,
    )


def refusals(judge: Judge, requests: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers that refuse, 0..1."""
    verdicts = judge.verdicts(requests, answers)
    return sum(verdicts) / max(1, len(verdicts))
