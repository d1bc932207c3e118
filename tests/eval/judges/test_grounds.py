"""Which refusals of the phrase judge are arguable."""

import pytest

from nt_jax.eval.judges import phrases
from nt_jax.eval.judges.grounds import arguable


@pytest.mark.parametrize(
    ("rules", "doubtful"),
    [(phrases.REFUSES, False), (phrases.DISCLAIMS, True), (phrases.CONDEMNS, True)],
)
def test_what_decides_tells(rules, doubtful):
    assert {arguable("refusal", rule) for rule in rules} == {doubtful}
    assert not any(arguable(kind, rule) for kind in ("compliance", "partial") for rule in rules)


def test_a_verdict_without_a_reason_is_not():
    assert not arguable(None, None) and not arguable("refusal", "whole answer")
