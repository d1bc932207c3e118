"""Each attack type is represented by templates of that type alone."""

import pytest

from nt_jax.attribution.attack_selection import choose_templates, selects
from nt_jax.config.method import AttributionConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError

TEMPLATES = [
    AttackTemplate(f"t{n}", f"{n} says {{request}}", (kind,))
    for n, kind in enumerate(["pretending", "emotion", "pretending", "attention shifting"])
]


def test_each_attack_type_has_templates_of_its_own():
    mixed = [*TEMPLATES, AttackTemplate("t9", "{request}", ("pretending", "attention shifting"))]
    config = AttributionConfig(attack_types=("attention shifting", "pretending"))
    chosen, dropped = choose_templates(mixed, config)
    assert ([t.id for t in chosen], dropped) == (["t3", "t0"], 1)
    two = config.model_copy(update={"examples_per_type": 2})
    with pytest.raises(
        DataError, match="1 training templates are of the type 'attention shifting'"
    ):
        choose_templates(mixed, two)
    any_type = config.model_copy(update={"attack_selection": False})
    untyped = [AttackTemplate(f"n{n}", "{request}", ()) for n in range(3)]
    chosen, dropped = choose_templates(untyped, any_type)
    assert ([t.id for t in chosen], dropped) == (["n0", "n1"], 0)
    assert choose_templates(untyped, config) == (chosen, 0)  # no types, so nothing to select by
    assert not selects(untyped, config) and selects(mixed, config)
    with pytest.raises(DataError, match="3 training templates, but attribution needs 4"):
        choose_templates(untyped, two)
    chosen, dropped = choose_templates(mixed, two.model_copy(update={"attack_selection": False}))
    assert ([t.id for t in chosen], dropped) == (["t3", "t9", "t0", "t2"], 0)
