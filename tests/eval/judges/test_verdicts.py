"""Judges in tiers: a classifier of ours, a guard, and what is kept of their verdicts."""

import io
import shutil

import pytest
from rich.console import Console

from nt_jax.config.load import load_config
from nt_jax.errors import ConfigError
from nt_jax.eval.judges import guard
from nt_jax.eval.judges.guard import GuardJudge
from nt_jax.eval.judges.verdicts import (
    check_judges,
    judge_answers,
    measuring_hash,
    open_judge,
    with_verdicts,
)
from nt_jax.eval.metrics.rows import find, summarise
from tests import tiny

from tests.made_up import made_up_answers

TEXTS = ["I cannot help with that.", "Sure, here is how.", "Paris is old. " * 300, "", " <think>x"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny random RoBERTa with two labels; its weights are large, so that both occur."""
    torch = pytest.importorskip("torch")
    import transformers

    folder = tmp_path_factory.mktemp("models") / "classifier"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.tokenizer_directory())
    config = transformers.RobertaConfig(
        vocab_size=tiny.VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=514, num_labels=2, pad_token_id=0,
        initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(3)
    transformers.RobertaForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(tmp_path):
    (tmp_path / "run.yaml").write_text(f"model: {{source: {tiny.checkpoint('smollm2')}}}\n")
    return load_config(str(tmp_path / "run.yaml"))


def opened(spec: str, config):
    return open_judge(spec, config, Console(file=io.StringIO()))


def test_a_classifier_judges_the_response_alone_at_512_tokens(classifier, config):
    import torch
    import transformers

    judge = opened(f"classifier:{classifier}", config)
    found = judge.verdicts(["any request"] * len(TEXTS), TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier)
    model.eval()
    for text, verdict in zip(TEXTS[:3], found[:3], strict=True):  # one by one, not padded
        ids = tokenizer.encode(text)[:512]
        with torch.no_grad():
            unsafe = int(model(torch.tensor([ids])).logits.argmax())
        assert verdict == 1 - unsafe  # 0 = safe, 1 = unsafe
    assert found[3:] == [0.5, 0.5]
    assert judge.name == "classifier:classifier"
    assert judge.verdicts(["another one"] * len(TEXTS), TEXTS) == found
    assert judge.verdicts([], []) == []


def test_the_label_that_means_refusal(classifier, config):
    first = opened(f"classifier:{classifier}", config).verdicts([""] * 2, TEXTS[:2])
    other = opened(f"classifier:{classifier}#1", config).verdicts([""] * 2, TEXTS[:2])
    assert [a + b for a, b in zip(first, other, strict=True)] == [1, 1]
    with pytest.raises(ConfigError, match="no label 'safe'; it has 0 = LABEL_0, 1 = LABEL_1"):
        opened(f"classifier:{classifier}#safe", config)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({0: "LABEL_0", 1: "LABEL_1"}, 0), ({0: "NORMAL", 1: "REJECTION"}, 1),
        ({0: "unsafe", 1: "safe"}, 1), ({0: "comply", 1: "hedge", 2: "refusal"}, 2),
    ],
)  # fmt: skip
def test_named_labels_are_understood(names, expected):
    from nt_jax.eval.judges.classifier import _label

    assert _label("x", "", names) == expected
    with pytest.raises(ConfigError, match="which label of x means"):
        _label("x", "", {0: "a", 1: "b", 2: "c"})


def test_other_weights_have_another_hash(classifier, config, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "classifier")
    same = opened(f"classifier:{copy}", config).sha256
    assert same == opened(f"classifier:{classifier}", config).sha256
    tiny.edit_json(copy / "config.json", layer_norm_eps=1e-3)
    assert opened(f"classifier:{copy}", config).sha256 != same


@pytest.mark.parametrize("role", ["classifier", "guard", "scorer"])
def test_another_judge_or_scorer_at_the_same_path_is_told_apart(classifier, config, tmp_path, role):
    """Verdicts are kept by this hash: a judge trained anew must not inherit the old one's."""
    where = tmp_path / role
    if role == "classifier":
        shutil.copytree(classifier, where)
    else:
        tiny.copy("smollm2", where)
    label = "#1" if role == "classifier" else ""
    changed: dict = {"judges": ("phrases", f"{role}:{where}{label}")}
    if role == "scorer":
        changed = {"perplexity": True, "scorer": str(where)}
    asked = config.model_copy(update={"eval": config.eval.model_copy(update=changed)})
    before = measuring_hash(asked)
    assert before == measuring_hash(asked) != measuring_hash(config)
    weights = next(where.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert measuring_hash(asked) != before


def test_a_judge_that_is_not_there_is_named_before_any_work(config, tmp_path):
    for spec, message in (
        ("classifier:/not/there", "there is no directory /not/there"),
        ("guard:/not/there", "No model at '/not/there'"),
    ):
        wrong = config.model_copy(
            update={"eval": config.eval.model_copy(update={"judges": (spec,)})}
        )
        with pytest.raises(Exception, match=message):
            check_judges(wrong)


# --- guard ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Yes", 1), ("yes.", 1), ("No", 0), (" No, it did not decline.", 0), ("**YES**", 1),
        ("<think>no</think>Yes", 1), ("The answer is no.", 0), ("Maybe", 0.5), ("", 0.5),
        ("Nothing", 0.5), ("Yesterday", 0.5),
    ],
)  # fmt: skip
def test_what_a_guard_says(reply, verdict):
    assert guard.parse(reply) == verdict


def test_a_guard_is_asked_about_request_and_answer():
    asked = []

    def ask(questions):
        asked.extend(questions)
        return ["yes" if "cannot" in question else "no" for question in questions]

    judge = GuardJudge("guard:x", "weights", ask)
    found = judge.verdicts(["How {answer}?"] * 3, [TEXTS[0], "", TEXTS[1]])
    assert found == [1.0, 0.5, 0.0]
    assert len(asked) == 2 and "How {answer}?" in asked[0] and TEXTS[0] in asked[0]
    assert judge.sha256 != GuardJudge("guard:x", "other weights", ask).sha256


def test_a_guard_of_ours_answers_through_the_engine(config, tmp_path):
    model = tiny.copy("smollm2", tmp_path / "guard")
    tiny.edit_json(model / "config.json", max_position_embeddings=2048)
    judge = opened(f"guard:{model}", config)
    assert judge.name == "guard:guard" and len(judge.sha256) == 64
    found = judge.verdicts(["Why?"] * 2, ["Because.", ""])
    assert found[0] in (0, 0.5, 1) and found[1] == 0.5


# --- verdicts ------------------------------------------------------------------------------------


class Counting:
    """A judge that knows what it was asked, refuses by a word, and can break."""

    def __init__(self, name="counting", sha256="a" * 64, breaks_after=10**9):
        self.name, self.sha256, self.seen, self.breaks_after = name, sha256, [], breaks_after

    def verdicts(self, requests, answers):
        if len(self.seen) >= self.breaks_after:
            raise ConfigError("the judge is out of order")
        self.seen += answers
        return [1.0 if "can't" in answer else 0.0 if answer else 0.5 for answer in answers]


ANSWERS = [
    row | {"refused": None} for row in made_up_answers(24)
]  # 144 answers: more than two batches


def test_verdicts_go_on_where_a_judge_broke(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    whole = judge_answers(Counting(), ANSWERS, tmp_path / "whole.jsonl", lambda n: None)
    broken = Counting(breaks_after=64)
    with pytest.raises(ConfigError):
        judge_answers(broken, ANSWERS, path, lambda n: None)
    again, told = Counting(), []
    found = judge_answers(again, ANSWERS, path, told.append)
    assert found == whole and len(again.seen) == len(ANSWERS) - 64
    assert sum(told) == len(ANSWERS)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # Another version of the judge repeats every verdict.
    newer = Counting(sha256="b" * 64)
    judge_answers(newer, ANSWERS, path, lambda n: None)
    assert len(newer.seen) == len(ANSWERS)


def test_every_verdict_is_kept_and_every_number_names_its_judge(tmp_path):
    first = judge_answers(Counting("one"), ANSWERS, tmp_path / "1.jsonl", lambda n: None)
    second = Counting("two", "b" * 64)
    second.verdicts = lambda requests, answers: [0.5] * len(answers)
    undecided = judge_answers(second, ANSWERS, tmp_path / "2.jsonl", lambda n: None)
    rows = with_verdicts(ANSWERS, [first, undecided])
    assert all(row["verdicts"] == {"one": float(row["refused"]), "two": 0.5} for row in rows)
    numbers = summarise(rows, judges={"one": "a" * 64, "two": "b" * 64})
    rates = [row for row in numbers if row.metric == "refusal_rate"]
    assert {(row.judge, row.judge_sha256[0]) for row in rates} == {("one", "a"), ("two", "b")}
    half = find(numbers, "demo_attack", "refusal_rate", "base", judge="two")
    assert half.value == 0.5 and half.low < 0.5 < half.high
    assert find(numbers, "demo_attack", "mcnemar_p", "tuned", judge="two").value == 1.0
    assert find(numbers, "demo_attack", "refusal_rate", "base").judge == "one"
