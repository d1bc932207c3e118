"""What test sets share with what is tuned on is counted."""

import dataclasses
import json

from nt_jax.config.schema import EvalConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.eval.overlap import attack_overlap, overlap
from nt_jax.eval.overlap import test_attacks as attacks_of_tests  # no test, whatever its name
from nt_jax.eval.prompts import read_tests, test_prompts


def write_rows(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_requests_that_were_also_tuned_on_are_counted():
    prompts = test_prompts(EvalConfig(limit=3))
    tuned_on = [prompts[0].request.upper() + "  ", "Something else?"]
    assert overlap(prompts, tuned_on) == {"demo_attack": 1, "demo_direct": 1}
    assert overlap(prompts, []) == {}


def test_a_request_counts_once_however_often_it_is_drawn():
    config = EvalConfig(limit=3, temperature=1.0, draws=5)
    prompts = test_prompts(config)
    assert overlap(prompts, [prompts[0].request]) == {"demo_attack": 1, "demo_direct": 1}


def test_attacks_of_the_rows_that_are_asked_are_counted(tmp_path):
    """A limit cuts the rows that hold an attack, here as in the prompts."""
    rows = [{"request": "How?"}, {"request": "Why?", "attacked": "Sing: Why?", "attack": "song"}]
    entry = {"source": write_rows(tmp_path / "a.jsonl", rows), "kind": "harmful",
             "prompt": "attacked"}  # fmt: skip
    config = EvalConfig(extra={"mine": entry}, datasets=("mine",), limit=1)
    assert [prompt.request for prompt in test_prompts(config)] == ["Why?"]
    assert attack_overlap(config, [], ["song"]) == {"mine": 1}


def test_attacks_that_were_also_tuned_on_are_counted(tmp_path):
    texts = ["Pretend: {request}", "Be  evil: {request}", "Sing: {request}"]
    source = write_rows(tmp_path / "attacks.jsonl", [{"text": text} for text in texts])
    entry = {"source": "demo", "kind": "harmful", "templates": {"source": source}}
    config = EvalConfig(extra={"mine": entry}, datasets=("demo_direct", "mine"))
    tuned_on = [AttackTemplate(str(n), text) for n, text in enumerate(texts[:2])]
    tuned_on[1] = dataclasses.replace(tuned_on[1], text="be evil: {request}")
    assert attack_overlap(config, tuned_on) == {"mine": 2}
    assert attack_overlap(config, []) == {}
    one = config.model_copy(update={"limit": 1})  # only the first attack is asked
    assert attack_overlap(one, tuned_on) == {"mine": 1}
    assert attacks_of_tests(one, read_tests(one))[1] == {texts[0]}


def test_attacks_of_a_test_set_are_known_by_their_text_and_records_own_by_name(tmp_path):
    """Two files number their templates alike: attacks-0001 here is not the one tuned on."""
    source = write_rows(tmp_path / "attacks.jsonl", [{"text": "Sing: {request}"}])
    rows = [{"request": "Why?", "attacked": "Hum: Why?", "attack": "song"}]
    own = {"source": write_rows(tmp_path / "own.jsonl", rows), "kind": "harmful",
           "prompt": "attacked"}  # fmt: skip
    mine = {"source": "demo", "kind": "harmful", "templates": {"source": source}}
    config = EvalConfig(extra={"mine": mine, "own": own}, datasets=("mine", "own"))
    names, texts = attacks_of_tests(config, read_tests(config))
    assert names == {"song"} and texts == {"Sing: {request}"}
