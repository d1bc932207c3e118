"""Every name that the settings may use stands for something that is there."""

import pytest

from nt_jax.config.registry import FORMATS, JUDGES, METHODS, METRICS, SCORES, load


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_can_be_opened_checked_and_told_apart(name):
    module = load(JUDGES[name].module)
    assert all(
        callable(getattr(module, part)) for part in ("open_judge", "check", "identity", "called")
    )


def test_metrics_give_rows_and_no_two_show_the_same_column():
    modules = [load(name) for name in {line.module for line in METRICS.values()}]
    assert all(callable(module.rows) for module in modules)
    columns = [name for module in modules for name in module.COLUMNS]
    assert columns and len(set(columns)) == len(columns)


@pytest.mark.parametrize("target", [*SCORES.values(), *(line.writer for line in FORMATS.values())])
def test_scores_and_formats_are_functions(target):
    assert callable(load(target))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_made(name):
    method = load(METHODS[name].maker)()
    assert (method.name, method.label) == (name, METHODS[name].label) and method.settings
