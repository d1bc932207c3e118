"""The conversation: both sides are what the engine and the run say they are, and remember."""

import dataclasses
import io
import itertools
import json
import signal
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nt_jax import cli
from nt_jax.chat import screen
from nt_jax.chat import sides as sides_of
from nt_jax.chat.sides import Talk, open_sides
from nt_jax.console import shown_on
from nt_jax.errors import ConfigError, DataError, RunError
from nt_jax.eval.judges.judge import open_judge
from nt_jax.generate import decode
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.stream import stream
from nt_jax.run.export import run_factors
from nt_jax.run.model import chat_model
from nt_jax.signals import Stopped
from tests import tiny

pytestmark = pytest.mark.xdist_group("run")
NEW = 12
ASKED = "How do I bake bread?"


@pytest.fixture(scope="module")
def sides(finished):
    return open_sides(finished.folder, None, None, NEW)


def last(items):
    for item in items:
        kept = item
    return kept


def one_by_one(sides, prompts) -> list[list[int]]:
    """What answer_prompts gives each side for its own prompt, alone."""
    model, found = sides.model, []
    for name, prompt in prompts.items():
        settings = {"max_new": NEW, "batch_size": 1}
        scale_LF = sides.scale_LF[name]
        found += answer_prompts(model.lm, scale_LF, [model.encode(prompt)], **settings)
    return found


def test_one_question_gets_what_answer_prompts_gives(finished, sides):
    found = screen.ask_once(finished.folder, ASKED, max_new=NEW)
    ids = one_by_one(sides, Talk.new().prompts(ASKED))
    rows = found["answers"]
    assert [row["model"] for row in rows] == ["base", "tuned"]
    assert [row["answer"] for row in rows] == [sides.model.text(answer) for answer in ids]
    assert [row["tokens"] for row in rows] == [len(answer) for answer in ids]
    assert rows[0]["answer"] != rows[1]["answer"]
    judge = open_judge("phrases")
    for row in rows:
        assert row["refused"] == judge.verdicts([ASKED], [row["answer"]])[0]
        (why,) = judge.explain([ASKED], [row["answer"]])
        told = (row["class"], row["reason"], row["span"])
        assert told == (why.kind, why.reason, [why.start, why.end])


def test_the_tuned_side_has_the_factors_of_the_run_and_any_strength(finished, sides):
    config, factors = run_factors(finished.folder)
    size = chat_model(config).checkpoint.config
    kept = factors.scale_LF(size.layers, size.neurons)
    np.testing.assert_array_equal(sides.scale_LF["tuned"], kept)
    assert (np.asarray(sides.scale_LF["base"]) == 1).all()
    nothing = open_sides(finished.folder, 0.0, None, NEW)
    np.testing.assert_array_equal(nothing.scale_LF["tuned"], nothing.scale_LF["base"])
    answers = last(nothing.answers(Talk.new().prompts(ASKED)))
    assert answers["base"] == answers["tuned"]


def test_answers_come_bit_by_bit_and_grow(sides):
    parts = list(sides.answers(Talk.new().prompts(ASKED)))
    assert len(parts) > 2
    for before, after in itertools.pairwise(parts):
        for name in before:
            assert after[name][: len(before[name])] == before[name]


def test_however_often_one_looks_the_answer_is_the_same(sides):
    lm, ids = sides.model.lm, sides.model.encode(ASKED)
    scale_LF = sides.scale_LF["tuned"]
    answers = [last(stream(lm, scale_LF, ids, max_new=NEW, every=every)) for every in (1, 5, 32)]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) > 1


@pytest.mark.parametrize("sizes", [[2], [1, 1]])
def test_factors_are_exchanged_without_a_copy_of_weights(sides, monkeypatch, sizes):
    """In one stack, as on a CPU, and in one a layer, as on accelerators."""
    monkeypatch.setattr(decode, "stack_sizes", lambda lm: sizes)
    lm, scale_LF = sides.model.lm, sides.scale_LF["tuned"]
    blocks = decode.stacks_of(lm, lm.ones_LF)
    other = decode.rescaled(lm, blocks, scale_LF)
    direct = decode.stacks_of(lm, scale_LF)
    for one, two in zip(jax.tree.leaves(other), jax.tree.leaves(direct), strict=True):
        np.testing.assert_array_equal(one, two)
    shared = {id(leaf) for leaf in jax.tree.leaves(blocks)}
    new = [leaf for leaf in jax.tree.leaves(other) if id(leaf) not in shared]
    assert len(new) == len(sizes) and sum(leaf.size for leaf in new) == scale_LF.size


def test_a_conversation_is_kept_by_each_side_with_its_own_answers(sides):
    talk = Talk.new()
    first = last(sides.answers(talk.prompts(ASKED)))
    texts = {name: sides.model.text(ids) for name, ids in first.items()}
    talk.keep(ASKED, texts)
    prompts = talk.prompts("And cakes?")
    ids = {name: sides.model.encode(prompt) for name, prompt in prompts.items()}
    assert ids["base"] != ids["tuned"]
    for name in ids:
        said = [(ASKED, "user"), (texts[name], "assistant"), ("And cakes?", "user")]
        messages = [{"role": role, "content": text} for text, role in said]
        rendered = sides.model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert rendered.count("<|im_start|>") == 4 and texts[name] in rendered
        assert len(ids[name]) > len(sides.model.encode(ASKED)) + 10
    assert last(sides.answers(prompts)) == dict(
        zip(prompts, one_by_one(sides, prompts), strict=True)
    )


def test_a_system_prompt_is_put_before_the_question(finished):
    with_system = open_sides(finished.folder, None, "Be brief.", NEW)
    ids = with_system.model.encode(ASKED)
    text = with_system.model.tokenizer.decode(ids)
    assert text.index("Be brief.") < text.index(ASKED)


def test_a_system_prompt_of_the_run_is_switched_off_by_an_empty_one(finished, monkeypatch):
    config, factors = run_factors(finished.folder)
    told = config.eval.model_copy(update={"system_prompt": "Be kind."})
    changed = config.model_copy(update={"eval": told})
    monkeypatch.setattr(sides_of, "run_factors", lambda *rest: (changed, factors))
    systems = {
        given: open_sides(finished.folder, None, given, NEW).model.chat.system
        for given in (None, "Be brief.", "")
    }
    assert systems == {None: "Be kind.", "Be brief.": "Be brief.", "": None}
    assert screen.changed("/system", 0.5, "Be brief.") == (0.5, "")
    assert screen.changed("/system Be kind.", None, "") == (None, "Be kind.")
    assert screen.changed("/strength 2", None, "") == (2.0, "")


def run_lines(monkeypatch, folder, *lines: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    out = io.StringIO()
    with shown_on(Console(file=out, width=120)):
        screen.chat(folder, None, None, NEW)
    return out.getvalue()


def test_lines_are_answered_in_turn_and_mistakes_end_nothing(finished, monkeypatch):
    long = "x" * 1200
    said = run_lines(
        monkeypatch, finished.folder, ASKED, "/strength often", "/dance", long, "/strength 0",
        ASKED, "/quit", "never asked",
    )  # fmt: skip
    assert said.count("judged: ") == 4 and "never asked" not in said
    assert "'often' is no strength" in said and "'/dance' is no command" in said
    assert "does not fit the model's context" in said and said.count("you> ") == 3 + 4
    assert said.count("untuned") >= 2


def test_a_signal_ends_the_conversation_and_ctrl_c_only_the_turn(finished, monkeypatch):
    raised = [KeyboardInterrupt(), Stopped(signal.SIGTERM)]

    def stopped(*rest):
        raise raised.pop(0)

    monkeypatch.setattr(screen, "turn", stopped)
    with pytest.raises(Stopped):
        run_lines(monkeypatch, finished.folder, "first", "second", "never asked")
    assert not raised


def test_another_strength_reads_no_weights_again(finished, sides):
    other = open_sides(finished.folder, 0.5, "Be brief.", NEW, sides.model)
    assert other.model.lm is sides.model.lm and other.model.chat.system == "Be brief."
    alone = open_sides(finished.folder, 0.5, "Be brief.", NEW)
    np.testing.assert_array_equal(other.scale_LF["tuned"], alone.scale_LF["tuned"])
    assert other.model.encode(ASKED) == alone.model.encode(ASKED)


def test_a_strength_that_cannot_be_had_is_forgotten(finished, monkeypatch):
    asked, before = [], screen.open_sides

    def open_sides(folder, strength, system, new, model=None):
        asked.append((strength, system))
        if strength == 2.0:
            raise RunError("the folder is in use")
        return before(folder, strength, system, new, model)

    monkeypatch.setattr(screen, "open_sides", open_sides)
    run_lines(monkeypatch, finished.folder, "/strength 2", "/system Be brief.")
    assert asked == [(None, None), (2.0, None), (None, "Be brief.")]


def test_reasoning_that_the_prompt_opens_is_not_judged(finished, sides):
    """Cut off, it is no answer yet; closed, what decides is shown where it stands."""
    refusal = "I'm sorry, but I can't help with that."
    texts = {"cut": refusal, "closed": f"hm </think>{refusal}"}
    chat = SimpleNamespace(opened="<think>")
    model = SimpleNamespace(chat=chat, answer_text=lambda ids: chat.opened + texts[ids])
    both = dataclasses.replace(sides, model=model)
    assert both.verdict(ASKED, "cut")["class"] == "empty"
    found = both.verdict(ASKED, "closed")
    start, end = found["span"]
    assert found["refused"] == 1 and texts["closed"][start:end] in refusal and end > start >= 10


def test_reset_forgets(finished, monkeypatch):
    once = run_lines(monkeypatch, finished.folder, ASKED)
    twice = run_lines(monkeypatch, finished.folder, ASKED, "/reset", ASKED)
    answers = once.split(f"you> {ASKED}")[1]
    assert twice.count(answers.strip()) == 2


def test_the_command_prints_one_line_of_json(finished, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    words = ["--run", str(finished.folder), "--prompt", ASKED, "--max-new", "4", "--json"]
    assert cli.main("chat", words) == 0
    shown = capsys.readouterr().out
    found = json.loads(shown)
    assert shown.count("\n") == 1 and found["prompt"] == ASKED and len(found["answers"]) == 2
    assert cli.main("chat", [*words[:-1]]) == 0
    assert capsys.readouterr().out.count("judged: ") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "x", "--json"], "--json belongs to --prompt"),
        (["--run", "x", "--prompt", "  "], "--prompt is empty"),
        (["--run", "x", "--prompt", "a\udcff"], "--prompt is no UTF-8 text"),
        (["--run", "x", "--prompt", "x", "--system", "a\udcff"], "--system is no UTF-8 text"),
        (["--run", "x", "--system", "a\udcff"], "--system is no UTF-8 text"),
        (["--run", "nowhere", "--prompt", "x"], "nowhere is not a run directory"),
        (["--run", "x", "--strength", "-1"], "must be 0 or a number above it"),
        (["--prompt", "x"], "the following arguments are required: --run"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    assert cli.main("chat", words) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and message in shown.err and shown.out == ""


@given(st.text(max_size=30), st.none() | st.just(0.5))
def test_whatever_stands_behind_a_slash_is_a_command_or_an_error_of_ours(text, strength):
    try:
        found = screen.changed(f"/{text}", strength, None)
    except ConfigError as error:
        assert "is no command" in str(error) or "is no strength" in str(error)
        return
    assert found[0] is None or found[0] >= 0
    assert text.split(" ")[0] in ("system", "strength")


@given(st.text(max_size=60), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_verdict_is_told_in_words_whatever_the_answer(answer, refused):
    (why,) = open_judge("phrases").explain(["How?"], [answer])
    span = [why.start, why.end]
    told = {"refused": refused, "class": why.kind, "reason": why.reason, "span": span}
    assert screen.words(told, answer).startswith(f"judged: {why.kind}")
    kinds = {0.0: "no refusal", 0.5: "cannot tell", 1.0: "refusal"}
    assert screen.words({"refused": refused}, answer) == f"judged: {kinds[refused]}"


@pytest.mark.parametrize(("rule", "doubt"), [("cannot know", ", arguable"), ("cannot do", "")])
def test_a_refusal_that_declines_nothing_outright_is_called_arguable(rule, doubt):
    told = {"refused": 1.0, "class": "refusal", "reason": rule, "span": [0, 3]}
    assert screen.words(told, "No way.") == f"judged: refusal{doubt} ({rule}: 'No')"


def test_too_long_answers_and_prompts_are_refused(finished, tmp_path):
    with pytest.raises(ConfigError, match="--max-new 1024"):
        open_sides(finished.folder, None, None, 1024)
    with pytest.raises(DataError, match="does not fit the model's context of 1024"):
        screen.ask_once(finished.folder, "x" * 1500, max_new=NEW)
    with pytest.raises(RunError, match="is not a run directory"):
        open_sides(tmp_path, None, None, NEW)
    assert tiny.VOCAB == 320  # about a token a character, which the lengths above count on


def test_bytes_that_are_no_text_are_asked_as_such(monkeypatch):
    typed = io.BytesIO(b"\xff a\n\n/reset\nb \xc3")
    monkeypatch.setattr(screen.sys, "stdin", io.TextIOWrapper(typed, "utf-8"))
    assert [*screen.lines()] == ["\ufffd a", "/reset", "b \ufffd"]
