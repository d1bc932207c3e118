"""The untuned model's own answers: what tuning has to keep, and how the model itself refuses."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.attacks import attack_of
from nt_jax.data.prompts import Prompt, of_json, text_of, to_json
from nt_jax.data.training import Records, evenly
from nt_jax.errors import DataError, RunError
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.train.pools import Pair, Pools, make_pools
from nt_jax.train.safety_targets import (
    GIVEN,
    MIN_HARMFUL,
    SELF,
    SHIPPED,
    SafetyTargets,
    settle,
)

FILE = "own_answers.jsonl"
ATTACKED_SHARE = 2  # one attacked harmless request for so many bare ones
OPENING_TOKENS = 3  # of a refusal: "I can't", "I'm sorry"; the model itself says how it goes on
Own = dict[str, tuple[list[Pair], list[Pair]]]  # per set: (useful answers, refusals)


def write_own_answers(
    model: ChatModel, judge: Judge, train: Records, data: DataConfig, tune: TuneConfig, folder: Path
) -> SafetyTargets:
    """Let the base model answer what it should go on answering; where the refusals come from.

    Files: one JSON line per request {set, request, answer ids, ended, refused, declined}, a
    conversation as its list of messages. `declined` is a refusal of a harmless request: the first
    words of a safety target, carried on by the base model. Its own way of saying no is what a false
    refusal of the tuned model sounds like. And safety_targets.json: the source of the safety
    targets. Where the data do not settle it, the model is asked the harmful requests too.
    """
    targets = settle(judge, train, data.safety_targets, None)
    given = [row.refusal for row in train.harmful if row.refusal]
    if targets:
        check_openings(targets, train, tune)
    sets = {"harmless": [record.prompt for record in train.harmless]}
    if tune.attacked_harmless_fraction > 0:
        sets["attacked"] = train.attacked(sets["harmless"][::ATTACKED_SHARE])
    if targets is None:
        sets["harmful"] = [record.prompt for record in train.harmful]
    names, prompts = zip(*((name, asked) for name in sets for asked in sets[name]), strict=True)
    ids = model.answer(prompts, tune.answer_tokens, "base answers")
    verdicts = judge.verdicts([*map(text_of, prompts)], [model.text(row) for row in ids])
    refused = [verdict == 1 for verdict in verdicts]  # what the judge cannot tell is kept as it is
    every = list(zip(names, ids, refused, strict=True))
    if targets is None:
        own = [no for name, _, no in every if name == "harmful"]
        targets = settle(judge, train, data.safety_targets, own)
        assert targets is not None  # for the type checker: the model has answered
    if targets.source == SELF:
        begin = [row for name, row, no in every if no and name == "harmful"]
    else:
        taken = given if targets.source == GIVEN else targets.refusals.values()
        begin = [model.answer_ids(refusal) for refusal in taken]
    asked = [prompt for prompt, name in zip(prompts, names, strict=True) if name != "harmful"]
    declined = declined_answers(model, begin, asked, tune) if begin else {}
    targets.write(folder)
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for prompt, (name, row, no) in zip(prompts, every, strict=True):
            line = {"set": name, "request": to_json(prompt), "answer": row}
            line |= {"ended": len(row) < tune.answer_tokens, "refused": no}
            file.write(json.dumps(line | {"declined": declined.get(prompt, [])}) + "\n")
    return targets


def check_openings(targets: SafetyTargets, train: Records, tune: TuneConfig) -> None:
    """Raises a DataError where refusals are wanted whose beginning nothing tells."""
    given = any(row.refusal for row in train.harmful)
    if targets.source == GIVEN and tune.metric_requests and not given:
        raise DataError(
            "data.safety_targets=given, but no training row of data.harmful has a refusal "
            f"(tune.metric_requests={tune.metric_requests} needs them, too). Leave it at auto, "
            "which takes refusals from elsewhere."
        )


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


def safety_pairs(model: ChatModel, train: Records, own: Own, targets: SafetyTargets) -> list[Pair]:
    """Harmful requests with the refusal to learn, each once."""
    if targets.source == SELF:
        refusals = own.get("harmful", ([], []))[1]
        if len(refusals) < MIN_HARMFUL:
            raise DataError(
                "data.safety_targets=self needs a model that refuses bare harmful requests, but "
                f"this one refused {len(refusals)} of {len(train.harmful)}. Leave it at auto."
            )
        return refusals
    if targets.source == SHIPPED:
        texts = [(row.prompt, targets.refusals[row.request]) for row in train.harmful]
        return [Pair(prompt, model.answer_ids(refusal)) for prompt, refusal in texts]
    missing = [record.id for record in train.harmful if not record.refusal]
    if missing:
        raise DataError(
            f"data.harmful: {len(missing)} of {len(train.harmful)} training rows have no refusal "
            f"(first: {missing[0]}). Leave data.safety_targets at auto: it leaves such rows out, "
            "or takes refusals from elsewhere."
        )
    return [Pair(r.prompt, model.answer_ids(r.refusal or "")) for r in train.harmful]


def attacked_safety_pairs(
    model: ChatModel, train: Records, own: Own, targets: SafetyTargets
) -> list[Pair]:
    """The attacked prompts that the data hold, with the refusal to learn."""
    answers = {pair.request: pair.answer for pair in safety_pairs(model, train, own, targets)}
    given = targets.source == GIVEN
    found = []
    for row in train.paired:
        own_answer = model.answer_ids(row.refusal) if given and row.refusal else None
        if (answer := own_answer or answers.get(row.prompt)) is not None:
            about, attack = row.prompt, attack_of(row)
            found.append(Pair(row.attacked or "", answer, about=about, attack=attack))
    return found


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
    own, targets = read_own_answers(folder, model.eos_id), SafetyTargets.read(folder)
    return pools_of(model, train, own, targets, data, tune)


def pools_of(
    model: ChatModel,
    train: Records,
    own: Own,
    targets: SafetyTargets,
    data: DataConfig,
    tune: TuneConfig,
) -> Pools:
    """`own_pools` of answers that are in memory."""
    hard = {record.prompt for record in train.harmless if record.sounds_harmful}
    utility = [
        dataclasses.replace(pair, sounds_harmful=pair.request in hard)
        for pair in utility_pairs(model, train, own, data)
    ]
    wrapped = own.get("attacked", ([], []))[0]
    shares = (tune.local_fraction, tune.sounds_harmful_fraction)
    safety = safety_pairs(model, train, own, targets)
    held = attacked_safety_pairs(model, train, own, targets)
    around = train.added_templates if held else train.templates
    return make_pools(safety, around, utility, wrapped, *shares, attacked_safety=held)
