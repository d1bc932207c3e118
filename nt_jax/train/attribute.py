"""Attribution as a stage: which examples are scored, and scoring them, one file each."""

import dataclasses
from pathlib import Path

import numpy as np

from nt_jax.attribution.integrated import Attribution, Example, Options, attribute
from nt_jax.attribution.store import load_attribution, save_attribution
from nt_jax.config import AttributionConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.train.examples import Pair
from nt_jax.train.prepare import Records, read_own_answers, safety_pairs, utility_pairs
from nt_jax.train.session import Session


def choose_templates(
    templates: list[AttackTemplate], config: AttributionConfig
) -> tuple[list[AttackTemplate], int]:
    """(one template per wanted example, how many were dropped for having several types).

    Strategic attack selection (paper A.6): each attack type is represented by attacks of that type
    alone. Without it, any template that names the type will do.
    """
    single = [t for t in templates if len(t.types) == 1]
    dropped = len(templates) - len(single) if config.attack_selection else 0
    pool = single if config.attack_selection else templates
    chosen: list[AttackTemplate] = []
    for kind in config.attack_types:
        fitting = [t for t in pool if kind in t.types and t not in chosen]
        if len(fitting) < config.examples_per_type:
            raise DataError(
                f"data.templates: {len(fitting)} training templates are of the type '{kind}' "
                f"{'alone' if config.attack_selection else 'at all'}, but attribution needs "
                f"{config.examples_per_type}. Add some, drop the type from "
                "attribution.attack_types, or set attribution.attack_selection=false."
            )
        chosen += fitting[: config.examples_per_type]
    return chosen, dropped


def make_examples(
    session: Session, train: Records, answers: Path
) -> tuple[list[tuple[str, Example]], int]:
    """([(set, example), ...], templates dropped by attack selection)."""
    templates, dropped = choose_templates(train.templates, session.config.attribution)
    own = read_own_answers(answers, session.eos_id)
    examples = []
    for name, pairs in (
        ("safety", safety_pairs(session, train, own)),
        ("utility", utility_pairs(session, train, own)),
    ):
        step = max(1, len(pairs) // len(templates))  # spread over the kinds of request
        for place, template in enumerate(templates):
            pair: Pair = pairs[(place * step) % len(pairs)]
            question = session.encode(pair.request)
            attacked = session.encode(template.apply(pair.request))
            examples.append((name, Example(question, attacked, pair.answer)))
    return examples, dropped


def options_for(config: AttributionConfig, name: str) -> Options:
    """The attribution options of the safety or the utility set."""
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(Options)
        if field.name != "method"
    }
    if name == "safety":
        return Options(**shared)
    return Options(**{**shared, "target": config.utility_target}, method=config.utility_method)


def write_completeness(path: Path, name: str, place: int, result: Attribution) -> None:
    """Append one line per layer: what its scores sum to, and what they should sum to."""
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write("set,example,layer,sum_of_scores,end_minus_start,error\n")
        sums_L, changes_L = result.score_LF.sum(axis=1), result.end - result.start_L
        for layer, row in enumerate(zip(sums_L, changes_L, result.completeness_L, strict=True)):
            file.write(f"{name},{place},{layer},{','.join(f'{value:.6g}' for value in row)}\n")


def attribute_all(session: Session, train: Records, answers: Path, folder: Path) -> str:
    """Score every example into `folder`, skipping those already there; what to say about it."""
    config = session.config.attribution
    examples, dropped = make_examples(session, train, answers)
    errors = []
    (folder / "completeness.csv").unlink(missing_ok=True)  # of a run that was killed
    with session.progress("attribute", len(examples), "examples") as advance:
        for place, (name, example) in enumerate(examples):
            path = folder / f"{name}-{place:03d}.npz"
            if not path.exists():
                save_attribution(path, attribute(session.lm, example, options_for(config, name)))
            result = load_attribution(path)
            if config.weighting == "standard":
                errors.append(float(np.max(result.completeness_L)))
                write_completeness(folder / "completeness.csv", name, place, result)
            advance(1)
    neurons = session.checkpoint.config.layers * session.checkpoint.config.neurons
    exact = f"   completeness error {max(errors):.0e}" if errors else ""
    multi = f"   {dropped} templates of several types left out" if dropped else ""
    return f"{len(examples)} examples   {config.steps} nodes, {neurons:,} neurons{exact}{multi}"
