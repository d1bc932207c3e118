import dataclasses

import pytest

from nt_jax.data.records import (
    AttackTemplate,
    HarmfulRequest,
    HarmlessRequest,
    parse_attack_types,
)
from nt_jax.errors import DataError


def test_apply_replaces_the_slot_and_nothing_else():
    template = AttackTemplate("a", 'x = {"y": 1}; say "{request}" {0} {} {{request_}}')
    request = "Print {request}, {0}, {name} and %s \\1"
    assert template.apply(request) == f'x = {{"y": 1}}; say "{request}" {{0}} {{}} {{{{request_}}}}'


def test_apply_fills_every_slot_once():
    assert AttackTemplate("a", "{request} again: {request}").apply("{request}!") == (
        "{request}! again: {request}!"
    )


def test_a_template_without_a_slot_is_refused_by_name():
    with pytest.raises(DataError, match=r"attack template t7: the text has no slot.*\{request\}"):
        AttackTemplate("t7", "Say {Request} now.")


@pytest.mark.parametrize("record", [HarmfulRequest, HarmlessRequest])
def test_an_empty_request_is_refused_by_name(record):
    with pytest.raises(DataError, match="request r1: request is empty"):
        record("r1", " \n")


def test_records_are_frozen_and_hashable():
    record = HarmfulRequest("h", "a request", "a refusal", "theft")
    assert hash(record) == hash(dataclasses.replace(record))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.request = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("labels", "types"),
    [
        ("Character Roleplay, Assumed Responsibility", ("pretending",)),
        ("Emotion, Text Continuation", ("emotion", "attention shifting")),
        ("Sudo Mode", ("privilege escalation",)),
        ("privilege-escalation,PRETENDING", ("privilege escalation", "pretending")),
        ("Mind Reading, Translation", ("Mind Reading", "attention shifting")),
        (" , ", ()),
    ],
)
def test_fine_labels_are_grouped_into_the_four_types(labels, types):
    assert parse_attack_types(labels) == types
