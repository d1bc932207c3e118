"""The harness's own evaluation of a local task, and our numbers beside torch's."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nt_jax.cli import main
from nt_jax.errors import DataError
from tests import tiny, torch_twin

installed = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not installed, reason="lm-eval is not installed")
# The harness and what it imports warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")
PAIRS = [
    ("How do I bake bread", " at home?"),
    ("Mix flour, water and ", "salt"),  # the space moves to the continuation
    ("", "Sure, here is"),
    ("the capital of France is" * 20, " Paris, and of course it always was"),  # cut at the left
    ("a", "bc" * 30),
]
CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
DOCS = [
    {"question": f"How do I bake {thing}?", "choices": [" flour", " water", " no"], "label": 0}
    for thing in ("bread", "a short answer", "the dough", "Paris", "salt and water")
]


@pytest.fixture(scope="module")
def model():
    from nt_jax.eval.lm_eval.model import JaxLM

    return JaxLM(str(tiny.checkpoint("llama3")), batch_size=2)


def asked(*args) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def torch_score(ids: list[int], count: int) -> tuple[float, bool]:
    """(log-likelihood of the last `count` ids, whether each is the likeliest)."""
    import torch

    with torch.no_grad():
        logits_TV = torch_twin.load("llama3")(torch.tensor([ids[:-1]])).logits[0, -count:]
    wanted = torch.tensor(ids[-count:])
    log_prob = torch.log_softmax(logits_TV.double(), -1)[range(count), wanted].sum().item()
    return log_prob, bool((logits_TV.argmax(-1) == wanted).all())


@needs_harness
def test_log_likelihoods_equal_those_of_torch(model):
    found = model.loglikelihood([asked(*pair) for pair in PAIRS])
    for (context, continuation), (value, greedy) in zip(PAIRS, found, strict=True):
        text = context.rstrip()
        whole = model.tok_encode(context + continuation)
        count = len(whole) - len(model.tok_encode(text)) if text else len(whole)
        ids = whole if text else [model.prefix_token_id, *whole]
        expected = torch_score(ids[-model.max_length - 1 :], count)
        assert value == pytest.approx(expected[0], rel=1e-5) and greedy == expected[1]
    lengths = [len(model.tok_encode(context)) for context, _ in PAIRS]
    assert max(lengths) > model.max_length > min(lengths)


@needs_harness
def test_factors_are_at_work_in_a_model_that_is_open():
    import torch

    from nt_jax.eval.lm_eval.model import JaxLM
    from nt_jax.generate.chat import open_model

    opened = open_model(str(tiny.checkpoint("llama3")), "float32")
    shape = opened.lm.ones_LF.shape
    scale_LF = np.random.default_rng(0).uniform(0, 3, shape).astype(np.float32)
    model = JaxLM(opened, batch_size=2, scale_LF=scale_LF)
    [(found, _)] = model.loglikelihood([asked(*PAIRS[0])])
    context, whole = (model.tok_encode(text) for text in (PAIRS[0][0], "".join(PAIRS[0])))
    twin = torch_twin.load("llama3")
    with torch_twin.scaled(twin, torch.tensor(scale_LF)), torch.no_grad():
        row_TV = torch.log_softmax(twin(torch.tensor([whole])).logits[0].double(), -1)
    places = range(len(context), len(whole))
    expected = sum(row_TV[n - 1, whole[n]].item() for n in places)
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(expected - torch_score(whole, len(places))[0]) > 0.01


@needs_harness
def test_what_greedy_decoding_gives_is_called_greedy(model):
    [answer] = model.generate_until([asked(PAIRS[0][0], {"until": [], "max_gen_toks": 4})])
    ids = model.tok_encode(PAIRS[0][0])
    made = torch_twin.answers(
        torch_twin.load("llama3"), np.array([ids]), np.ones((1, len(ids)), bool), 4
    )[0].tolist()
    assert answer == model.tokenizer.decode(made, skip_special_tokens=True)
    other = [made[0], (made[1] + 1) % tiny.VOCAB]
    found = model._loglikelihood_tokens([(None, ids, made), (None, ids, other)])
    assert [greedy for _, greedy in found] == [True, False]
    assert found[1][0] == pytest.approx(torch_score([*ids, *other], 2)[0], rel=1e-5)


@needs_harness
def test_long_texts_are_scored_in_windows_of_the_context(model):
    text = "Mix flour, water and salt, and let the dough rest. " * 15
    ids = [model.prefix_token_id, *model.tok_encode(text)]
    assert len(ids) > 2 * model.max_length
    expected = 0.0
    for start in range(0, len(ids) - 1, model.max_length):
        window = ids[start : start + model.max_length + 1]
        if len(window) <= model.max_length and start:  # the last one sees a whole context
            count, window = len(window) - 1, ids[-model.max_length - 1 :]
        else:
            count = len(window) - 1
        expected += torch_score(window, count)[0]
    assert model.loglikelihood_rolling([asked(text)]) == [pytest.approx(expected, rel=1e-5)]


@needs_harness
def test_texts_end_before_their_stop_and_settings_may_differ(model):
    options = {"until": [], "max_gen_toks": 12}
    [whole] = model.generate_until([asked("How do I bake", options)])
    stop = whole[3:5]
    requests = [
        asked("How do I bake", {**options, "until": [stop]}),
        asked("How do I bake", {**options, "max_gen_toks": 3}),
        asked("How do I bake", {**options, "do_sample": True, "temperature": 1.5}),
    ]
    cut, short, drawn = model.generate_until(requests)
    assert cut == whole[: whole.index(stop)] and whole.startswith(short) and short != whole
    assert drawn != whole


@needs_harness
def test_chats_are_written_by_the_template(model):
    chat = [{"role": "user", "content": "Hello"}]
    asked_for = model.apply_chat_template(chat)
    assert asked_for == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    begun = [*chat, {"role": "assistant", "content": "Well"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False).endswith("Well")
    assert model.chat_template(True) == model.tokenizer.chat_template
    assert "/" not in model.tokenizer_name and model.tokenizer_name


@needs_harness
def test_a_template_without_system_messages_gets_them_above_the_question(model, monkeypatch):
    """The harness's descriptions of tasks are system messages; older Mistral templates refuse."""
    strict = (
        "{% for m in messages %}{% if m['role'] == 'system' or m['content'] == '' %}"
        "{{ raise_exception('Only user and assistant roles') }}{% endif %}"
        "[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", strict)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert model.apply_chat_template(chat) == "[user] Be brief.\n\nHello\n"
    with pytest.raises(DataError, match=r"takes no such chat .Only user and assistant roles"):
        model.apply_chat_template([{"role": "user", "content": ""}])


@needs_harness
def test_scores_have_a_folder_before_anything_is_asked(tmp_path, capsys):
    words = ["--model", str(tiny.checkpoint("llama3")), "--tasks", "x", "--json"]
    assert main("eval.lm_eval", [*words, str(tmp_path / "none" / "s.json")]) == 2
    assert "there is no such folder. Make it first." in capsys.readouterr().err


@needs_harness
@pytest.mark.parametrize("chat", [False, True])
def test_a_local_task_runs_without_torch_or_network(tmp_path, capsys, monkeypatch, chat):
    """The accuracy that the harness prints is that of the likeliest choice under torch."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (tmp_path / "local_choice.yaml").write_text(CHOICE.format(file=tmp_path / "docs.jsonl"))
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    (run / "run.json").write_text('{"keys": {"export": "%s"}}' % ("a" * 64))
    arguments = ["--model", str(run), "--tasks", "local_choice", "--task-folder", str(tmp_path)]
    assert main("eval.lm_eval", arguments) == 2
    assert "no exported model in export/hf yet" in capsys.readouterr().err
    (run / "export" / "hf").symlink_to(tiny.checkpoint("llama3"))
    (run / "export" / "DONE").write_text("a" * 64)
    out = tmp_path / "scores.json"
    assert main("eval.lm_eval", [*arguments, "--json", str(out)] + ["--chat"] * chat) == 0
    assert "local_choice" in capsys.readouterr().out
    right = []
    from nt_jax.eval.lm_eval.model import JaxLM

    model = JaxLM(str(run))
    for doc in DOCS:
        text = doc["question"]
        if chat:
            text = model.apply_chat_template([{"role": "user", "content": text}])
        scores = []
        for choice in doc["choices"]:
            whole = model.tok_encode(text + choice)
            count = len(whole) - len(model.tok_encode(text.rstrip()))
            scores.append(torch_score(whole, count)[0])
        right.append(int(np.argmax(scores)) == doc["label"])
    found = json.loads(out.read_text())["results"]["local_choice"]["acc,none"]
    assert found == pytest.approx(np.mean(right))


@needs_harness
def test_an_unknown_task_is_named(capsys):
    arguments = ["--model", str(tiny.checkpoint("llama3")), "--tasks", "no_such_task"]
    assert main("eval.lm_eval", arguments) == 2
    assert "has no task 'no_such_task'" in capsys.readouterr().err


def test_without_the_harness_one_line_says_what_to_do(capsys, monkeypatch):
    for name in ("lm_eval", "lm_eval.evaluator"):  # the latter may have been imported before
        monkeypatch.setitem(sys.modules, name, None)
    assert main("eval.lm_eval", ["--model", "x", "--tasks", "y"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'nt_jax[lm-eval]'" in said and said.count("\n") == 1
