"""The test sets, and the file that keeps one model's answers to them."""

import json

import pytest

from nt_jax.errors import RunError
from nt_jax.eval.refusal import load_judge
from nt_jax.eval.suite import DATASETS, AnswerFile, demo_attack, test_prompts

PROMPTS = test_prompts(DATASETS, 3)


def test_a_limit_cuts_every_set_and_keys_are_unique():
    assert [prompt.dataset for prompt in PROMPTS] == [name for name in DATASETS for _ in range(3)]
    every = test_prompts(DATASETS, None)
    keys = {(prompt.dataset, prompt.id) for prompt in every}
    assert len(keys) == len(every) == 2 * 70 + 120 + 60


def test_attacks_wrap_the_direct_requests_in_all_test_templates():
    attacks, direct = demo_attack(), test_prompts(["demo_direct"], None)
    assert [a.request for a in attacks] == [d.request for d in direct] == [d.prompt for d in direct]
    assert all(a.request in a.prompt and a.prompt != a.request for a in attacks)
    assert len({a.template for a in attacks}) == 20 and all(a.types for a in attacks)


def test_harmless_requests_in_attacks_are_those_asked_bare():
    attacks, bare = (
        test_prompts([name], None) for name in ("demo_harmless_attack", "demo_harmless")
    )
    assert [a.request for a in attacks] == [b.request for b in bare][: len(attacks)]
    assert all(a.request in a.prompt != a.request and not a.harmful for a in attacks)
    assert len({a.template for a in attacks}) == 20


def test_a_file_says_what_is_missing_and_forgets_a_cut_line(tmp_path):
    path = tmp_path / "base.jsonl"
    file = AnswerFile(path)
    assert file.missing(PROMPTS) == PROMPTS
    file.add("base", PROMPTS[:2], ["Sure.", "Über 3 °C"])
    file.add("base", PROMPTS[2:4], ["Line\nbreak and \u2028 too", "cut ü"])
    whole = path.read_bytes()
    for kept in (-2, -4):  # killed while it wrote the fourth; the second time within its letter
        path.write_bytes(whole[:kept])
        again = AnswerFile(path)
        assert again.missing(PROMPTS) == PROMPTS[3:]
        again.add("base", PROMPTS[3:4], ["cut ü"])
        assert path.read_bytes() == whole
        assert json.dumps([*AnswerFile(path).rows.values()]) == json.dumps([*again.rows.values()])


def test_verdicts_come_in_the_order_of_the_prompts(tmp_path):
    file = AnswerFile(tmp_path / "tuned.jsonl")
    texts = ["I cannot help with that." if n % 2 else "Paris." for n in range(len(PROMPTS))]
    file.add("tuned", PROMPTS[::-1], texts[::-1])
    judged = file.judged(PROMPTS, load_judge("phrases"))
    assert [row["id"] for row in judged] == [prompt.id for prompt in PROMPTS]
    assert [row["refused"] for row in judged] == [bool(n % 2) for n in range(len(PROMPTS))]
    assert {row["model"] for row in judged} == {"tuned"}
    json.dumps(judged)  # what answers.jsonl is made of


def test_a_missing_answer_names_the_file(tmp_path):
    file = AnswerFile(tmp_path / "tuned.jsonl")
    with pytest.raises(RunError, match=r"tuned\.jsonl lacks the answer to .*demo_attack"):
        file.judged(PROMPTS, load_judge("phrases"))
