"""Attribution as a stage: which examples are scored, and scoring them, one file each."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nt_jax.attribution.attack_selection import choose_templates, selects
from nt_jax.attribution.own_score import is_own, load_score, own_scores
from nt_jax.attribution.score import (
    Attribution,
    EncodedExample,
    Options,
    neurons_at_last_token,
    plan,
    relative_error,
)
from nt_jax.attribution.select import aggregate
from nt_jax.attribution.signal import (
    check_example,
    check_scores,
    halves,
    large_error,
    low_overlap,
    split_half,
)
from nt_jax.attribution.store import load_attribution, save_attribution, save_set
from nt_jax.config.method import AttributionConfig
from nt_jax.config.registry import SCORES, load
from nt_jax.config.schema import DataConfig
from nt_jax.console import progress, say
from nt_jax.data.batching import bucket, pad_left
from nt_jax.data.training import Records
from nt_jax.errors import DataError
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.own_answers import (
    attacked_safety_pairs,
    read_own_answers,
    safety_pairs,
    utility_pairs,
)
from nt_jax.train.pools import Pair
from nt_jax.train.safety_targets import SafetyTargets

SETS = ("safety", "utility")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One example to score, and the records that it was made from."""

    set: str  # safety | utility
    types: tuple[str, ...]  # of its attack
    template: str  # ids
    request: str
    example: EncodedExample


def attribute_all(
    model: ChatModel,
    train: Records,
    answers: Path,
    config: AttributionConfig,
    data: DataConfig,
    folder: Path,
) -> str:
    """Score every example into `folder`, skipping those already there; what to say about it."""
    examples, dropped = make_examples(model, train, answers, config, data)
    write_examples(folder, examples, dropped, config, selects(train.templates, config))
    if is_own(config.score):
        return score_sets(model, examples, config.score, folder)
    say_plan(model, examples, config)
    results = []
    (folder / "completeness.csv").unlink(missing_ok=True)  # of a run that was killed
    with progress("attribute", len(examples), "examples") as advance:
        for place, chosen in enumerate(examples):
            path = folder / f"{chosen.set}-{place:03d}.npz"
            if not path.exists():
                score = load(SCORES[score_name(config, chosen.set)])
                options = options_for(config, chosen.set)
                save_attribution(path, score(model.lm, chosen.example, options))
            results.append(load_attribution(path))
            what = f"{chosen.set} example {place} (request {chosen.request}, "
            what += f"template {chosen.template})"
            integral = score_name(config, chosen.set) == "integrated"
            check_example(model.lm, chosen.example, results[-1], what, integral)
            if is_integral(config, chosen.set) and config.path == "layer":
                write_completeness(folder / "completeness.csv", chosen.set, place, results[-1])
            advance(1)
    write_together(folder, examples, results)
    say_overlap(examples, results)
    size = model.checkpoint.config
    missed = say_missed(examples, results, config)
    error = "" if missed is None else f"   completeness error {missed:.1%}"
    multi = f"   {dropped} templates of several types left out" if dropped else ""
    return (
        f"{len(examples)} examples   {config.steps} nodes, {size.layers * size.neurons:,} neurons"
        f"{error}{multi}"
    )


def say_overlap(examples: Sequence[Chosen], results: Sequence[Attribution]) -> None:
    """Warn where two halves of a set's examples would choose other neurons."""
    for name in SETS:
        mine = [r.score_LF for c, r in zip(examples, results, strict=True) if c.set == name]
        if (parts := halves(mine)) is not None:
            found = split_half(*(aggregate(np.stack(part)) for part in parts))
            if warning := low_overlap(found, f"the {name} examples"):
                say("warning", warning)


def say_missed(
    examples: Sequence[Chosen], results: Sequence[Attribution], config: AttributionConfig
) -> float | None:
    """The worst completeness error of an integral, None without one; warn of a large one."""
    pairs = zip(examples, results, strict=True)
    mine = [relative_error(r, config.path) for c, r in pairs if is_integral(config, c.set)]
    if mine and (warning := large_error(max(mine), config.steps)):
        say("warning", warning)
    return max(mine, default=None)


def score_sets(model: ChatModel, examples: Sequence[Chosen], spec: str, folder: Path) -> str:
    """A score of the user's own into `folder`, one file a set; what to say about it."""
    score = load_score(spec)
    with progress("attribute", len(SETS), "sets") as advance:
        for name in SETS:
            path, mine = folder / f"{name}.npz", [c.example for c in examples if c.set == name]
            if not path.exists():
                active_LF = np.mean(
                    [active_at_end(model.lm, each.attacked) for each in mine], axis=0
                )
                score_LF = own_scores(score, model.lm, mine)
                check_scores(score_LF, f"the {name} scores of {spec}")
                save_set(path, score_LF, active_LF)
            advance(1)
    size = model.checkpoint.config
    return f"{len(examples)} examples   score {spec}, {size.layers * size.neurons:,} neurons"


def active_at_end(lm: LanguageModel, ids: list[int]) -> np.ndarray:
    """Every neuron's value [L, F] at the last token of a prompt."""
    prompt = pad_left([ids], bucket(len(ids), 64))
    return np.asarray(host(neurons_at_last_token(lm, *prompt)), np.float32)


def make_examples(
    model: ChatModel, train: Records, answers: Path, config: AttributionConfig, data: DataConfig
) -> tuple[list[Chosen], int]:
    """(the examples, how many templates attack selection left out).

    An attack that the data hold comes with a record of its own for the safety set; its template is
    put around harmless requests only.
    """
    templates, dropped = choose_templates(train.templates, config)
    own = read_own_answers(answers, model.eos_id)
    targets = SafetyTargets.read(answers)
    ids = {record.prompt: record.id for record in (*train.harmful, *train.harmless)}
    held: dict[str, list[Pair]] = {}
    for pair in attacked_safety_pairs(model, train, own, targets):
        held.setdefault(pair.attack, []).append(pair)
    bare = {
        "safety": safety_pairs(model, train, own, targets),
        "utility": utility_pairs(model, train, own, data),
    }
    examples = []
    for name, pairs in bare.items():
        if not pairs:
            raise DataError(
                f"attribution has no {name} example: every answer of the model to a harmless "
                "training request is empty or a refusal. Check eos_token_id in the model's "
                "config.json and generation_config.json, or set data.utility_targets=given."
                if name == "utility"
                else f"attribution has no {name} example: no training request is left."
            )
        step = max(1, len(pairs) // len(templates))  # spread over the kinds of request
        for place, template in enumerate(templates):
            pair = pairs[(place * step) % len(pairs)]
            request, attacked = pair.request, template.apply(pair.request)
            if name == "safety" and (mine := held.get(template.id)):
                pair = mine[place * max(1, len(mine) // len(templates)) % len(mine)]
                request, attacked = pair.about, pair.request
            prompts = model.encode(request), model.encode(attacked)
            example = EncodedExample(*prompts, pair.answer, name)
            examples.append(Chosen(name, template.types, template.id, ids[request], example))
    return examples, dropped


def score_name(config: AttributionConfig, name: str) -> str:
    """Which score the safety or the utility set gets."""
    return config.score if name == "safety" or is_own(config.score) else config.utility_method


def options_for(config: AttributionConfig, name: str) -> Options:
    """The attribution options of the safety or the utility set."""
    named = {field.name for field in dataclasses.fields(Options)}
    target = config.target if name == "safety" else config.utility_target
    shared = {key: value for key, value in config if key in named}
    return Options(**{**shared, "target": target})


def is_integral(config: AttributionConfig, name: str) -> bool:
    """Whether the scores of this set sum to changes of P(answer)."""
    return score_name(config, name) == "integrated"


def say_plan(model: ChatModel, examples: Sequence[Chosen], config: AttributionConfig) -> None:
    """Print how the longest example of each set is cut into programs, before it is run."""
    for name in SETS:
        if score_name(config, name) == "integrated":
            mine = [chosen.example for chosen in examples if chosen.set == name]
            widest = max(mine, key=lambda example: len(example.attacked))
            say("plan", f"{name}: {plan(model.lm, widest, options_for(config, name))}")


def write_completeness(path: Path, name: str, place: int, result: Attribution) -> None:
    """Append one line per layer: what its scores sum to, and what they should sum to."""
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write("set,example,layer,sum_of_scores,end_minus_start,error\n")
        sums_L, changes_L = result.standard_LF.sum(axis=1), result.end - result.start_L
        for layer, row in enumerate(zip(sums_L, changes_L, result.completeness_L, strict=True)):
            file.write(f"{name},{place},{layer},{','.join(f'{value:.6g}' for value in row)}\n")


def write_together(
    folder: Path, examples: Sequence[Chosen], results: Sequence[Attribution]
) -> None:
    """scores.npz, all examples in one file."""
    alpha, standard, v_q, v_pq = (
        np.stack([getattr(result, name) for result in results])
        for name in ("alpha_LF", "standard_LF", "v_q_LF", "v_pq_LF")
    )
    sets = np.array([chosen.set for chosen in examples])
    np.savez(folder / "scores.npz", set=sets, alpha=alpha, standard=standard, v_q=v_q, v_pq=v_pq)


def write_examples(
    folder: Path,
    examples: Sequence[Chosen],
    dropped: int,
    config: AttributionConfig,
    selected: bool,
) -> None:
    """examples.json: the records that are scored, and by what.

    `selected`: whether their attacks were chosen by type, which left out `dropped`.
    """
    rows = [
        {"set": c.set, "types": c.types, "template": c.template, "request": c.request}
        for c in examples
    ]
    facts = {
        "score": {name: score_name(config, name) for name in SETS},
        "examples": rows,
        "templates_of_several_types_left_out": dropped,
        "attack_selection": selected,
    }
    (folder / "examples.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
