"""Strategic attack selection (paper 3.1, A.6): which attacks stand for which type."""

from collections.abc import Sequence

from nt_jax.config.method import AttributionConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError

NONE = "attack selection: none (templates have no types)"


def selects(templates: Sequence[AttackTemplate], config: AttributionConfig) -> bool:
    """Whether attacks are chosen by their types: not where that is off, or no attack names one."""
    return config.attack_selection and any(template.types for template in templates)


def choose_templates(
    templates: Sequence[AttackTemplate], config: AttributionConfig
) -> tuple[list[AttackTemplate], int]:
    """(one template per wanted example, how many were dropped for having several types).

    Each attack type is represented by attacks of that type alone. Without attack selection any
    template that names the type will do; where no template names one, the first are taken.
    """
    if not any(template.types for template in templates):
        return _first(templates, len(config.attack_types) * config.examples_per_type), 0
    single = [t for t in templates if len(t.types) == 1]
    dropped = len(templates) - len(single) if config.attack_selection else 0
    pool = single if config.attack_selection else templates
    chosen: list[AttackTemplate] = []
    for kind in config.attack_types:
        fitting = [t for t in pool if kind in t.types and t not in chosen]
        if len(fitting) < config.examples_per_type:
            alone, way_out = "at all", ", or drop the type from attribution.attack_types."
            if config.attack_selection:
                way_out = ", drop the type from attribution.attack_types, or set "
                alone, way_out = "alone", f"{way_out}attribution.attack_selection=false."
            raise DataError(
                f"data.templates: {len(fitting)} training templates are of the type '{kind}' "
                f"{alone}, but attribution needs {config.examples_per_type}. Add some{way_out}"
            )
        chosen += fitting[: config.examples_per_type]
    return chosen, dropped


def _first(templates: Sequence[AttackTemplate], count: int) -> list[AttackTemplate]:
    if len(templates) < count:
        raise DataError(
            f"data.templates: {len(templates)} training templates, but attribution needs {count}. "
            "Add some, or lower attribution.examples_per_type or the number of "
            "attribution.attack_types."
        )
    return list(templates[:count])
