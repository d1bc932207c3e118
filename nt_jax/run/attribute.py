"""Attribution as a stage: which examples are scored, and scoring them, one file each."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from nt_jax.attribution.integrated import Attribution, Example, Options, attribute, plan
from nt_jax.attribution.store import load_attribution, save_attribution
from nt_jax.config.schema import AttributionConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.generate.session import Session
from nt_jax.train.own_answers import Records, read_own_answers, safety_pairs, utility_pairs
from nt_jax.train.pools import Pair


def choose_templates(
    templates: list[AttackTemplate], config: AttributionConfig
) -> tuple[list[AttackTemplate], int]:
    """(one template per wanted example, how many were dropped for having several types).

    Strategic attack selection (paper A.6): each attack type is represented by attacks of that type
    alone. Without it, any template that names the type will do, and where no template names any,
    all count as of every type.
    """
    if not config.attack_selection and not any(t.types for t in templates):
        templates = [dataclasses.replace(t, types=config.attack_types) for t in templates]
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


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One example to score, and the records that it was made from."""

    set: str  # safety | utility
    types: tuple[str, ...]  # of its attack
    template: str  # ids
    request: str
    example: Example


def make_examples(session: Session, train: Records, answers: Path) -> tuple[list[Chosen], int]:
    """(the examples of both sets, templates dropped by attack selection)."""
    templates, dropped = choose_templates(train.templates, session.config.attribution)
    own = read_own_answers(answers, session.eos_id)
    ids = {record.request: record.id for record in (*train.harmful, *train.harmless)}
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
            example = Example(question, attacked, pair.answer)
            record = ids[pair.request]
            examples.append(Chosen(name, template.types, template.id, record, example))
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
        sums_L, changes_L = result.standard_LF.sum(axis=1), result.end - result.start_L
        for layer, row in enumerate(zip(sums_L, changes_L, result.completeness_L, strict=True)):
            file.write(f"{name},{place},{layer},{','.join(f'{value:.6g}' for value in row)}\n")


def attribute_all(session: Session, train: Records, answers: Path, folder: Path) -> str:
    """Score every example into `folder`, skipping those already there; what to say about it."""
    config = session.config.attribution
    examples, dropped = make_examples(session, train, answers)
    say_plan(session, examples)
    results = []
    (folder / "completeness.csv").unlink(missing_ok=True)  # of a run that was killed
    with session.progress("attribute", len(examples), "examples") as advance:
        for place, chosen in enumerate(examples):
            path = folder / f"{chosen.set}-{place:03d}.npz"
            if not path.exists():
                options = options_for(config, chosen.set)
                save_attribution(path, attribute(session.lm, chosen.example, options))
            results.append(load_attribution(path))
            write_completeness(folder / "completeness.csv", chosen.set, place, results[-1])
            advance(1)
    write_together(folder, examples, results, dropped)
    neurons = session.checkpoint.config.layers * session.checkpoint.config.neurons
    # A plain gradient is no integral, so it has no change of P to sum to.
    integrals = [r for c, r in zip(examples, results, strict=True) if is_integral(config, c.set)]
    missed = max((relative_error(result) for result in integrals), default=0.0)
    multi = f"   {dropped} templates of several types left out" if dropped else ""
    return (
        f"{len(examples)} examples   {config.steps} nodes, {neurons:,} neurons   "
        f"completeness error {missed:.1%}{multi}"
    )


def is_integral(config: AttributionConfig, name: str) -> bool:
    """Whether the scores of this set sum to a change of P(answer)."""
    return config.path == "layer" and options_for(config, name).method == "integrated"


def relative_error(result: Attribution) -> float:
    """The largest completeness error of a layer, over the largest change of P(answer)."""
    largest = np.abs(result.end - result.start_L).max()
    return float(result.completeness_L.max() / largest) if largest > 0 else 0.0


def say_plan(session: Session, examples: list[Chosen]) -> None:
    """Print how the longest example of each set is cut into programs, before it is run."""
    lm, config = session.lm, session.config.attribution
    for name in ("safety", "utility"):
        widest = max((c.example for c in examples if c.set == name), key=lambda e: len(e.attacked))
        session.say("plan", f"{name}: {plan(lm, widest, options_for(config, name))}")


def write_together(
    folder: Path, examples: list[Chosen], results: list[Attribution], dropped: int
) -> None:
    """scores.npz, all examples in one file; examples.json, the records they were made from."""
    alpha, standard, v_q, v_pq = (
        np.stack([getattr(result, name) for result in results])
        for name in ("alpha_LF", "standard_LF", "v_q_LF", "v_pq_LF")
    )
    sets = np.array([chosen.set for chosen in examples])
    np.savez(folder / "scores.npz", set=sets, alpha=alpha, standard=standard, v_q=v_q, v_pq=v_pq)
    rows = [
        {"set": c.set, "types": c.types, "template": c.template, "request": c.request}
        for c in examples
    ]
    facts = {"examples": rows, "templates_of_several_types_left_out": dropped}
    (folder / "examples.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
