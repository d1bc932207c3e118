"""The untuned model's own answers: what tuning has to keep, and how the model itself refuses."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.prompts import Prompt, of_json, text_of, to_json
from nt_jax.data.training import Records, evenly
from nt_jax.errors import DataError, RunError
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.train.pools import Pair, Pools, make_pools

FILE = "own_answers.jsonl"
MIN_HARMFUL = 2  # one for each of Algorithm 1's sets
ATTACKED_SHARE = 2  # one attacked harmless request for so many bare ones
OPENING_TOKENS = 3  # of a refusal: "I can't", "I'm sorry"; the model itself says how it goes on
Own = dict[str, tuple[list[Pair], list[Pair]]]  # per set: (useful answers, refusals)


def refusals_only(judge: Judge, train: Records) -> Records:
    """`train` without the harmful requests whose safe answer does not refuse.

    Published safe answers hold corrections, advice and plain answers ("No, arson is a crime ...");
    a model that learns them together with refusals learns neither. Rows without an answer stay.
    """
    given = [row for row in train.harmful if row.refusal]
    verdicts = judge.verdicts([r.request for r in given], [r.refusal or "" for r in given])
    other = [row for row, refuses in zip(given, verdicts, strict=True) if not refuses]
    left_out = set(map(id, other))
    kept = [row for row in train.harmful if id(row) not in left_out]
    if other and len(kept) < MIN_HARMFUL:
        raise DataError(
            f"data.harmful: of {len(given)} safe answers to tune on the judge takes "
            f"{len(given) - len(other)} for refusals (the first of the others: row {other[0].id}). "
            "Add refusals, or set data.safety_targets=given to learn all of them."
        )
    return dataclasses.replace(train, harmful=kept)


def write_own_answers(
    model: ChatModel, judge: Judge, train: Records, data: DataConfig, tune: TuneConfig, folder: Path
) -> None:
    """Let the base model answer what it should go on answering, and refuse where it does.

    Files: one JSON line per request {set, request, answer ids, ended, refused, declined}, a
    conversation as its list of messages. `declined` is a refusal of a harmless request: the first
    words of a safety target, carried on by the base model. Its own way of saying no is what a false
    refusal of the tuned model sounds like.
    """
    own_targets = data.safety_targets == "self"
    given = [record.refusal for record in train.harmful if record.refusal]
    if tune.metric_requests and not own_targets and not given:
        raise DataError(
            f"tune.metric_requests={tune.metric_requests} needs refusals in data.harmful to tell "
            "how a refusal begins, but none of its training rows has one. Add some, set it to 0, "
            "or set data.safety_targets=self."
        )
    sets = {"harmless": [record.prompt for record in train.harmless]}
    if tune.attacked_harmless_fraction > 0:
        sets["attacked"] = train.attacked(sets["harmless"][::ATTACKED_SHARE])
    if own_targets:
        sets["harmful"] = [record.prompt for record in train.harmful]
    names, prompts = zip(*((name, asked) for name in sets for asked in sets[name]), strict=True)
    ids = model.answer(prompts, tune.answer_tokens, "base answers")
    refused = judge.verdicts([*map(text_of, prompts)], [model.text(row) for row in ids])
    if own_targets:
        every = zip(names, ids, refused, strict=True)
        begin = [row for name, row, no in every if no and name == "harmful"]
    else:
        begin = [model.answer_ids(refusal) for refusal in given]
    asked = [prompt for prompt, name in zip(prompts, names, strict=True) if name != "harmful"]
    declined = declined_answers(model, begin, asked, tune) if begin else {}
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for name, prompt, row, no in zip(names, prompts, ids, refused, strict=True):
            line = {"set": name, "request": to_json(prompt), "answer": row}
            line |= {"ended": len(row) < tune.answer_tokens, "refused": no}
            file.write(json.dumps(line | {"declined": declined.get(prompt, [])}) + "\n")


def declined_answers(
    model: ChatModel, refusals: Sequence[list[int]], harmless: Sequence[Prompt], tune: TuneConfig
) -> dict[Prompt, list[int]]:
    """Harmless request -> a refusal of it as token ids, for tune.metric_requests of them.

    `refusals` are the safety targets, whose first words are carried on.
    """
    if tune.metric_requests == 0:
        return {}
    prompts = evenly(harmless, tune.metric_requests)
    every = itertools.cycle(refusal[:OPENING_TOKENS] for refusal in refusals)
    openings = [opening for opening, _ in zip(every, prompts, strict=False)]
    width = max(1, tune.answer_tokens - OPENING_TOKENS)
    ids = model.answer(prompts, width, "refusals", openings=openings)
    return {p: opening + row for p, opening, row in zip(prompts, openings, ids, strict=True)}


def read_own_answers(folder: Path, eos_id: int) -> Own:
    """Per set: (pairs whose answer is useful, pairs whose answer is a refusal)."""
    pairs: Own = {}
    path = folder / FILE
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answer = row["answer"] + ([eos_id] if row["ended"] else [])
            group = pairs.setdefault(row["set"], ([], []))
            if row["answer"]:
                pair = Pair(of_json(row["request"]), answer, declined=row["declined"])
                group[row["refused"]].append(pair)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete its folder and repeat.") from error
    return pairs


def safety_pairs(model: ChatModel, train: Records, own: Own, data: DataConfig) -> list[Pair]:
    """Harmful requests with the refusal to learn: the data's, or the model's own."""
    if data.safety_targets == "self":
        refusals = own.get("harmful", ([], []))[1]
        if len(refusals) < MIN_HARMFUL:
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
    return [Pair(r.prompt, model.answer_ids(r.refusal or "")) for r in train.harmful]


def utility_pairs(model: ChatModel, train: Records, own: Own, data: DataConfig) -> list[Pair]:
    """Harmless requests with the answer to keep: the model's own, or the data's."""
    if data.utility_targets == "self":
        return own["harmless"][0]
    rows = [record for record in train.harmless if record.answer]
    if not rows:
        raise DataError("data.utility_targets=given, but no harmless training row has an answer.")
    declined = {p.request: p.declined for group in own.get("harmless", ()) for p in group}
    return [
        Pair(r.prompt, model.answer_ids(r.answer or ""), declined=declined.get(r.prompt, []))
        for r in rows
    ]


def own_pools(
    model: ChatModel, train: Records, folder: Path, data: DataConfig, tune: TuneConfig
) -> Pools:
    """D_local and D_global of Algorithm 1, from records and the answers in `folder`."""
    own = read_own_answers(folder, model.eos_id)
    hard = {record.prompt for record in train.harmless if record.sounds_harmful}
    utility = [
        dataclasses.replace(pair, sounds_harmful=pair.request in hard)
        for pair in utility_pairs(model, train, own, data)
    ]
    safety, attacked = safety_pairs(model, train, own, data), own.get("attacked", ([], []))[0]
    shares = (tune.local_fraction, tune.sounds_harmful_fraction)
    return make_pools(safety, train.templates, utility, attacked, *shares)
