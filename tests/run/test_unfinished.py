"""A prompt or judge call that fails: the stage is not done, tables say n of N, a repeat does it."""

import shutil

import pytest

from nt_jax.data.prompts import text_of
from nt_jax.errors import UnfinishedError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.eval.measure import read_lines
from nt_jax.eval.metrics.result import find, read_rows
from nt_jax.eval.under_test import ModelUnderTest
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture
def begun(finished, tmp_path):
    """A copy of the finished run without the tuned model's answers and what rests on them."""
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    for name in ("tuned", "eval", "report"):
        shutil.rmtree(folder / name)
    return folder


def marked(folder) -> list[dict]:
    return read_lines(folder / "FAILED.jsonl")


def ends_like(finished, folder) -> None:
    """The same command, with nothing in its way: the numbers of a run that met nothing."""
    screen = small.carry_on(small.settings(finished.recipe, folder))
    assert {"answers", "attribute", "select", "train", "export", "base"} <= small.kept(screen)
    for name in ("tuned/tuned.jsonl", "eval/answers.jsonl"):
        mine, whole = ((path / name).read_text() for path in (folder, finished.folder))
        assert sorted(mine.splitlines()) == sorted(whole.splitlines()), name
    name = "report/results.json"
    assert (folder / name).read_bytes() == (finished.folder / name).read_bytes()
    assert "not finished" not in screen and " of 5)" not in screen
    assert not [path for path in folder.rglob("*") if path.name in ("FAILED.jsonl", ".eval.tmp")]


def test_a_prompt_that_fails_is_marked_and_asked_again(finished, begun, monkeypatch):
    rows = read_lines(finished.folder / "tuned/tuned.jsonl")
    bad = rows[3]["request"]
    answer = ModelUnderTest.answer

    def failing(self, asked, *rest, **more):
        if self.name == "tuned" and any(text_of(prompt) == bad for prompt in asked):
            raise RuntimeError("the server did not answer")
        return answer(self, asked, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ModelUnderTest, "answer", failing)
        with pytest.raises(UnfinishedError, match=r"FAILED.jsonl say which .* Repeat") as caught:
            small.carry_on(small.settings(finished.recipe, begun))
    assert caught.value.exit_code == 3
    failed = marked(begun / ".tuned.tmp")
    assert [row["id"] for row in failed] == [rows[3]["id"]]
    assert failed[0]["error"] == "RuntimeError: the server did not answer"
    assert not any((begun / name).exists() for name in ("tuned", "eval", "report"))
    report = (begun / ".report.tmp" / "report.md").read_text()
    assert "(4 of 5)" in report
    found = read_rows(begun / ".report.tmp" / "results.json")
    dataset = rows[3]["dataset"]
    assert find(found, dataset, "refusal_rate", "tuned").n == 4  # type: ignore[union-attr]
    assert find(found, dataset, "refusal_rate", "base").n == 5  # type: ignore[union-attr]
    ends_like(finished, begun)


def test_a_judge_call_that_fails_is_marked_and_made_again(finished, begun, monkeypatch):
    rows = read_lines(finished.folder / "eval/answers.jsonl")
    bad, verdicts = rows[-1], PhraseJudge.verdicts

    def failing(self, requests, answers):
        if (bad["request"], bad["answer"]) in zip(requests, answers, strict=True):
            raise KeyError("verdict")
        return verdicts(self, requests, answers)

    with monkeypatch.context() as patch:
        patch.setattr(PhraseJudge, "verdicts", failing)
        with pytest.raises(UnfinishedError):
            small.carry_on(small.settings(finished.recipe, begun))
    assert (begun / "tuned").is_dir() and not (begun / "eval").exists()
    failed = marked(begun / ".eval.tmp")
    assert bad["id"] in {row["id"] for row in failed}
    assert {row["error"] for row in failed} == {"KeyError: 'verdict'"}
    assert " of 5)" in (begun / ".report.tmp" / "report.md").read_text()
    ends_like(finished, begun)
