"""The untuned model's own answers: what tuning has to keep."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.attacks import attack_of
from nt_jax.data.openings import HELD_OUT, TOKENS
from nt_jax.data.prompts import Prompt, of_json, text_of, to_json
from nt_jax.data.training import Records
from nt_jax.errors import DataError
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.seal import reading
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
HARMFUL = "harmful"  # asked for refusals, if at all
CONSENT = "Sure,"  # the model goes on after it where it refuses a harmless request by itself
Own = dict[str, tuple[list[Pair], list[Pair]]]  # per set: (useful answers, refusals)


def write_own_answers(
    model: ChatModel, judge: Judge, train: Records, data: DataConfig, tune: TuneConfig, folder: Path
) -> SafetyTargets:
    """Let the base model answer what it should go on answering; where the refusals come from.

    Files: one JSON line per request {set, request, answer ids, ended, refused, attack}, a
    conversation as its list of messages. Harmless requests that the model refuses by itself it
    answers once more, after words of consent: to answer them is what tuning should teach. And
    safety_targets.json: the source of the safety targets. Where the data do not settle it, the
    model is asked harmful requests too.
    """
    targets = settle(judge, train, data.safety_targets, None, tune)
    if targets:
        check_given(targets, train, tune)
    sets = {"harmless": [record.prompt for record in train.harmless]}
    attacks: dict[Prompt, str] = {}
    about: dict[Prompt, Prompt] = {}  # attacked prompt > the request in it
    if tune.attacked_harmless_fraction > 0:
        inside = sets["harmless"][::ATTACKED_SHARE]
        wrapped = train.in_attacks(inside)
        attacks = {prompt: template.id for template, prompt in wrapped}
        about = {prompt: bare for (_, prompt), bare in zip(wrapped, inside, strict=True)}
        sets["attacked"] = list(attacks)
    if targets is None:
        sets[HARMFUL] = [record.prompt for record in train.harmful]
    rows = [
        {"set": name, "request": to_json(prompt), "attack": attacks.get(prompt, "")} | said
        for name, prompts in sets.items()
        for prompt, said in zip(
            prompts, answered(model, judge, prompts, name, tune, about), strict=True
        )
    ]
    if targets is None:
        own = [row["refused"] for row in rows if row["set"] == HARMFUL]
        targets = settle(judge, train, data.safety_targets, own)
        assert targets is not None  # for the type checker: the model has answered
    targets.write(folder)
    write_atomic(folder / FILE, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return targets


def answered(
    model: ChatModel,
    judge: Judge,
    prompts: Sequence[Prompt],
    name: str,
    tune: TuneConfig,
    about: Mapping[Prompt, Prompt],
) -> list[dict]:
    """{answer, ended, refused} of each prompt; harmless ones are asked twice if need be.

    `about`: the bare requests of attacked prompts, which answers are judged by.
    """
    harmful, width = name == HARMFUL, tune.answer_tokens
    ids = model.own_answers(prompts, width, f"base answers, {name}")
    texts = [text_of(about.get(prompt, prompt)) for prompt in prompts]
    refused = [*judge.verdicts(texts, [model.answer_text(row) for row in ids])]
    again = [n for n, no in enumerate(refused) if no == 1 and not harmful]
    if again:
        consent = model.answer_ids(CONSENT)[:-1]
        asked, left = [prompts[n] for n in again], max(1, width - len(consent))
        more = model.own_answers(asked, left, openings=[consent] * len(again))
        for n, row in zip(again, more, strict=True):
            ids[n] = consent + row
        said = judge.verdicts([texts[n] for n in again], [model.answer_text(ids[n]) for n in again])
        for n, no in zip(again, said, strict=True):
            refused[n] = no
    return [
        {
            "answer": row,
            "ended": len(row) < width,
            "refused": no == 1,
        }  # what the judge cannot tell is kept as it is
        for row, no in zip(ids, refused, strict=True)
    ]


def check_given(targets: SafetyTargets, train: Records, tune: TuneConfig) -> None:
    """Raises a DataError where the data's refusals are wanted and there are none."""
    if targets.source == GIVEN and not any(row.refusal for row in train.harmful):
        raise DataError(
            f"data.safety_targets=given with tune.target={tune.target}, but no training row of "
            "data.harmful has a refusal. Leave both at their defaults: then none is needed."
        )


def read_own_answers(folder: Path, eos_id: int) -> Own:
    """Per set: (pairs whose answer is useful, pairs whose answer is a refusal)."""
    pairs: Own = {}
    path = folder / FILE
    with reading(path):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answer = row["answer"] + ([eos_id] if row["ended"] else [])
            group = pairs.setdefault(row["set"], ([], []))
            if row["answer"]:
                pair = Pair(of_json(row["request"]), answer, attack=row["attack"])
                group[row["refused"]].append(pair)
    return pairs


def opening_ids(model: ChatModel, texts: Sequence[str]) -> list[list[int]]:
    """The first tokens of refusals, without an end: what follows is the model's own."""
    return [model.answer_ids(text)[:-1][:TOKENS] for text in texts]


def cut_opening(model: ChatModel, text: str, width: int) -> str:
    """What is learned of an opening, where that is not all of it; else nothing."""
    whole, (learned,) = model.answer_ids(text)[:-1], opening_ids(model, [text])
    return "" if learned[:width] == whole else model.text(learned[:width])


def measured_wordings(model: ChatModel) -> tuple[list[int], list[int]]:
    """Two openings that tuning does not learn."""
    first, second = opening_ids(model, HELD_OUT)
    return first, second


def safety_pairs(model: ChatModel, train: Records, own: Own, targets: SafetyTargets) -> list[Pair]:
    """Harmful requests with the refusal to learn, each once."""
    if targets.opening:
        (ids,) = opening_ids(model, [targets.opening])
        return [Pair(record.prompt, ids) for record in train.harmful]
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
        raise DataError(
            "data.utility_targets=given, but no harmless training row has an answer. Give some, or "
            "set data.utility_targets=self."
        )
    return [Pair(r.prompt, model.answer_ids(r.answer or "")) for r in rows]


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
