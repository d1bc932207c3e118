"""What test sets and tuning have in common, which would flatter a tuned model."""

from collections import Counter
from collections.abc import Iterable

from nt_jax.config.evaluation import EvalConfig
from nt_jax.data.attacks import attack_of, derived_templates
from nt_jax.data.prompts import plain_text
from nt_jax.data.records import AttackTemplate
from nt_jax.eval.prompts import TestPrompt, Tests, read_set, templates_of


def overlap(prompts: Iterable[TestPrompt], tuned_on: Iterable[str]) -> dict[str, int]:
    """By test set, how many of its requests were also tuned on; sets without any are left out.

    A request counts once, however many answers to it are drawn.
    """
    known = {plain_text(text) for text in tuned_on}
    once = (prompt for prompt in prompts if not prompt.draw)
    return dict(Counter(p.dataset for p in once if plain_text(p.request) in known))


def attack_overlap(
    config: EvalConfig, tuned_on: Iterable[AttackTemplate], names: Iterable[str] = ()
) -> dict[str, int]:
    """By test set, how many of its attacks were also tuned on; sets without any are left out.

    An attack is known by its text, and where rows hold their own (`prompt: attacked`) by its name
    too; `names` are those of the rows that were tuned on.
    """
    texts, called = {plain_text(t.text) for t in tuned_on}, {plain_text(name) for name in names}
    shared = {}
    for name in config.datasets:
        entry = config.test_set(name)
        if entry.templates is not None:
            asked = len(read_set(name, entry)[: config.limit])  # each inside one, in turn
            around = templates_of(entry.templates)[:asked]
            shared[name] = len({plain_text(t.text) for t in around} & texts)
        elif entry.prompt == "attacked" and entry.kind == "harmful":
            rows = [row for row in read_set(name, entry) if row.attacked][: config.limit]
            same = {attack_of(row) for row in rows if plain_text(attack_of(row)) in called}
            same |= {t.id for t in derived_templates(rows) if plain_text(t.text) in texts}
            shared[name] = len(same)
    return {name: count for name, count in shared.items() if count}


def test_attacks(config: EvalConfig, tests: Tests) -> tuple[set[str], set[str]]:
    """(names of records' own attacks, template texts) that the test sets use.

    Templates are known by their text alone: two files may number theirs alike.
    """
    around = {name: config.test_set(name).templates for name in config.datasets}
    used = {(p.dataset, p.template) for p in tests.prompts if p.template}
    names = {template for name, template in used if around[name] is None}
    texts = {
        template.text
        for name, at in around.items()
        if at is not None
        for template in templates_of(at)
        if (name, template.id) in used
    }
    return names, texts


test_attacks.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test
