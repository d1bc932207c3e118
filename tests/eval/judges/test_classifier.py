"""A classifier of ours as a judge, against transformers one answer at a time."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.eval.judges.classifier import _label
from nt_jax.eval.judges.judge import open_judge
from tests import tiny

TEXTS = ["I cannot help with that.", "Sure, here is how.", "Paris is old. " * 300, "", " <think>x"]


def test_a_classifier_judges_the_response_alone_at_512_tokens(classifier):
    import torch
    import transformers

    judge = open_judge(f"classifier:{classifier}")
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


@pytest.mark.parametrize("stray", ["a folder", "a device"])
def test_a_folder_that_holds_no_regular_file_is_refused(stray, classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "judge")
    odd = folder / "odd.json"
    odd.mkdir() if stray == "a folder" else odd.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"odd\.json is no regular file"):
        open_judge(f"classifier:{folder}")


def test_code_of_a_classifier_is_not_run_nor_asked_about(classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "judge")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text("raise SystemExit(1)\n")
    with pytest.raises(ConfigError, match="is no sequence classifier"):
        open_judge(f"classifier:{folder}")


def weights(change):
    """A damage to the tensors in a classifier's folder."""

    def hurt(folder):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return hurt


HEAD = "classifier.out_proj.weight"


def config(**fields):
    return lambda folder: tiny.edit_json(folder / "config.json", **fields)


DAMAGE = {
    "a tensor is missing": (weights(lambda t: t.pop(HEAD)), rf"lack 1 of its tensors.*{HEAD}"),
    "another size": (weights(lambda t: t.update({HEAD: t[HEAD][:1].copy()})), rf"sizes.*{HEAD}"),
    "too large": (config(hidden_size=1 << 40), "hidden_size in config.json is more than 16"),
    "too deep": (config(num_hidden_layers=10**6), "more than 1,000"),
    "no object": (lambda to: (to / "config.json").write_text("[]"), "holds no object"),
    "nested": (lambda to: (to / "config.json").write_text("[" * 100_000), "nested more than"),
    "one label": (config(id2label={"0": "safe"}), "."),
    "a gap": (
        config(id2label={"0": "unsafe", "7": "safe"}),
        "does not name two or more labels",
    ),
    "a panic": (
        lambda to: tiny.edit_json(
            to / "tokenizer.json", pre_tokenizer={"type": "FixedLength", "length": 0}
        ),
        "chunk size must be non-zero",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_classifier_is_one_line(name, classifier, tmp_path):
    """transformers itself draws the weights that it does not find."""
    folder = shutil.copytree(classifier, tmp_path / "judge")
    hurt, said = DAMAGE[name]
    hurt(folder)
    with pytest.raises(ConfigError, match=rf"^eval\.judges: .*{said}") as caught:
        open_judge(f"classifier:{folder}")
    assert "\n" not in str(caught.value)


def test_scores_that_are_not_finite_are_no_verdicts(classifier, tmp_path):
    """The likeliest label of NaN would be the first one, that of a refusal."""
    folder = shutil.copytree(classifier, tmp_path / "judge")
    weights(lambda t: t[HEAD].fill(np.nan))(folder)
    with pytest.raises(CheckpointError, match="scores of an answer are not finite"):
        open_judge(f"classifier:{folder}").verdicts([""], ["Sure."])


def test_an_answer_at_which_it_fails_is_one_line(classifier, tmp_path):
    judge = open_judge(f"classifier:{classifier}")
    judge.tokenizer = lambda *words, **more: {}["input_ids"]
    with pytest.raises(CheckpointError, match="classifier fails on an answer: 'input_ids'"):
        judge.verdicts(["", ""], ["Sure.", ""])
    assert judge.verdicts([""], [""]) == [0.5]  # is not asked


def test_the_label_that_means_refusal_may_be_named(classifier):
    first = open_judge(f"classifier:{classifier}").verdicts([""] * 2, TEXTS[:2])
    other = open_judge(f"classifier:{classifier}#1").verdicts([""] * 2, TEXTS[:2])
    assert [a + b for a, b in zip(first, other, strict=True)] == [1, 1]
    with pytest.raises(ConfigError, match="no label 'safe'; it has 0 = LABEL_0, 1 = LABEL_1"):
        open_judge(f"classifier:{classifier}#safe")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({0: "LABEL_0", 1: "LABEL_1"}, 0), ({0: "NORMAL", 1: "REJECTION"}, 1),
        ({0: "unsafe", 1: "safe"}, 1), ({0: "comply", 1: "hedge", 2: "refusal"}, 2),
    ],
)  # fmt: skip
def test_named_labels_are_understood(names, expected):
    assert _label("x", "", names) == expected
    for unknown in ({0: "a", 1: "b", 2: "c"}, {0: "ACCEPTED", 1: "DECLINED"}):
        with pytest.raises(ConfigError, match="which label of x means"):
            _label("x", "", unknown)


def test_two_labels_of_one_classifier_are_two_judges(classifier):
    plain, *named = (open_judge(f"classifier:{classifier}{end}") for end in ("", "#0", "#1"))
    assert len({plain.sha256, *(judge.sha256 for judge in named)}) == 3
    assert all(len(judge.sha256) == 64 for judge in named)


def test_other_weights_have_another_hash(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "classifier")
    same = open_judge(f"classifier:{copy}").sha256
    assert same == open_judge(f"classifier:{classifier}").sha256
    tiny.edit_json(copy / "config.json", layer_norm_eps=1e-3)
    assert open_judge(f"classifier:{copy}").sha256 != same
