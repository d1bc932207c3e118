"""A chat model as a judge: what it is asked, and how its reply is read."""

import pytest

from nt_jax.eval.judges import guard
from nt_jax.eval.judges.guard import GuardJudge
from nt_jax.eval.judges.judge import open_judge
from nt_jax.generate.chat import open_model
from tests import tiny

REFUSAL, HELP = "I cannot help with that.", "Sure, here is how."


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
    found = judge.verdicts(["How {answer}?"] * 3, [REFUSAL, "", HELP])
    assert found == [1.0, 0.5, 0.0]
    assert len(asked) == 2 and "How {answer}?" in asked[0] and REFUSAL in asked[0]
    assert judge.sha256 != GuardJudge("guard:x", "other weights", ask).sha256


def test_another_question_is_another_judge(tmp_path, monkeypatch):
    model = tiny.copy("smollm2", tmp_path / "guard")
    before = guard.identity(str(model)), GuardJudge("guard:x", "weights", list).sha256
    for name, other in (("QUESTION", "Declines?"), ("NEW_TOKENS", 9)):
        with monkeypatch.context() as changed:
            changed.setattr(guard, name, other)
            now = guard.identity(str(model)), GuardJudge("guard:x", "weights", list).sha256
        assert now[0] != before[0] and now[1] != before[1]


def test_a_guard_of_ours_answers_through_the_engine(tmp_path):
    model = tiny.copy("smollm2", tmp_path / "guard")
    tiny.edit_json(model / "config.json", max_position_embeddings=2048)
    assert open_judge(f"guard:{model}").sha256  # its own loader where none is given (nt.evaluate)
    judge = open_judge(f"guard:{model}", open_model)
    assert judge.name == "guard:guard" and len(judge.sha256) == 64
    found = judge.verdicts(["Why?"] * 2, ["Because.", ""])
    assert found[0] in (0, 0.5, 1) and found[1] == 0.5
