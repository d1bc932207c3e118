"""The judges that settings name: found before any work, told apart by what they are made of."""

import shutil
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from nt_jax.config.load import load_config
from nt_jax.config.registry import JUDGES, METRICS, JudgeLine, MetricLine
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.eval.judges.judge import (
    check_judges,
    judges_hash,
    judges_to_open,
    open_judge,
    without_thinking,
)
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.eval.prompts import TestPrompt, Tests
from nt_jax.run.preflight import measuring_hash
from tests import tiny

NONE = Tests([], [])


@pytest.fixture
def config(tmp_path):
    (tmp_path / "run.yaml").write_text(f"model: {{source: {tiny.checkpoint('smollm2')}}}\n")
    return load_config(str(tmp_path / "run.yaml"))


@pytest.mark.parametrize("spec", ["phrases", "phrases-v2"])
def test_the_phrase_judge_goes_by_its_kind_and_its_name(spec):
    judge = open_judge(spec)
    assert isinstance(judge, PhraseJudge) and judge.name == "phrases-v2"
    assert judges_hash([spec]) == judges_hash(["phrases"])
    check_judges([spec])
    with pytest.raises(ConfigError, match="is no judge"):
        open_judge("phrases-v1")  # other rules, other verdicts


def test_two_judges_of_one_name_are_told_before_any_work(tmp_path):
    for folder in (tmp_path / "a" / "guard", tmp_path / "b" / "guard"):
        tiny.copy("smollm2", folder)
    same = [f"guard:{tmp_path}/{one}/guard" for one in "ab"]
    with pytest.raises(ConfigError, match=r"are both called guard:guard, .* rename its folder"):
        check_judges(same)
    with pytest.raises(ConfigError, match="are both called phrases-v2"):
        check_judges(["phrases", same[0], "phrases-v2"])
    check_judges(["phrases", same[0]])


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
    before = measuring_hash(asked, NONE)
    assert before == measuring_hash(asked, NONE) != measuring_hash(config, NONE)
    weights = next(where.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert measuring_hash(asked, NONE) != before


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("classifier:/not/there", ConfigError, "there is no directory /not/there"),
        ("guard:/not/there", CheckpointError, "No model at '/not/there'"),
    ],
)
def test_a_judge_that_is_not_there_is_named_before_any_work(spec, error, message):
    with pytest.raises(error, match=message):
        check_judges(["phrases", spec])


def test_a_kind_of_judge_is_one_module_and_one_line(config, tmp_path, monkeypatch):
    class Length:
        """Refuses what is shorter than its source says."""

        def __init__(self, source: str):
            self.name, self.sha256, self.shortest = f"length:{source}", "c" * 64, int(source)

        def verdicts(self, requests, answers):
            return [float(len(answer) < self.shortest) for answer in answers]

    def check(source: str) -> None:
        if not source.isdigit():
            raise ConfigError(f"eval.judges: {source} is no length")

    module = ModuleType("made_up_judge")
    module.open_judge = lambda source, load_model: Length(source)
    module.check, module.identity = check, lambda source: f"length {source}"
    module.called = lambda source: f"length:{source}"
    monkeypatch.setitem(sys.modules, "made_up_judge", module)
    with pytest.raises(ConfigError, match=r"eval\.judges\[0\] = 'length:9'"):
        load_config(str(tmp_path / "run.yaml"), ["eval.judges=['length:9']"])
    monkeypatch.setitem(JUDGES, "length", JudgeLine("made_up_judge", True))
    asked = load_config(str(tmp_path / "run.yaml"), ["eval.judges=['length:9', phrases]"])
    specs = asked.eval.judges
    assert specs == ("length:9", "phrases")
    check_judges(specs)
    with pytest.raises(ConfigError, match="nine is no length"):
        check_judges(["length:nine"])
    assert len({judges_hash(found) for found in (specs, ["length:8", "phrases"], specs[1:])}) == 3
    (spec, opener), (_, phrases) = judges_to_open(specs, lambda source: None)
    assert spec == "length:9" and opener().name == "length:9"
    assert opener().verdicts(["Why?"] * 2, ["No.", "Because it is."]) == [1.0, 0.0]
    assert isinstance(phrases(), PhraseJudge)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<think>Hm.</think> It is 3.", "It is 3."),
        ("Hm.</think>\n\nIt is 3.", "It is 3."),  # templates often open the tag in the prompt
        ("<Reasoning>cut off", ""),
        ("It is <b>3</b>. ", "It is <b>3</b>."),
    ],
)
def test_an_answer_is_what_follows_its_reasoning(answer, text):
    assert without_thinking(answer) == text


def test_a_new_metric_has_a_finished_run_measured_again(config, monkeypatch):
    before = measuring_hash(config, NONE)
    monkeypatch.setitem(METRICS, "mine", MetricLine("somewhere.mine"))
    assert measuring_hash(config, NONE) != before


def test_other_marks_have_a_finished_run_measured_again_and_other_words_do_not(config):
    """Words are no matter of measuring: other words are other answers."""
    asked = TestPrompt("a", "1", "Kill time?", "Kill time?", harmful=False)
    before = measuring_hash(config, Tests([asked], []))
    other, marked = replace(asked, prompt="Kill it?"), replace(asked, sounds_harmful=True)
    assert measuring_hash(config, Tests([other], [])) == before
    assert measuring_hash(config, Tests([marked], [])) != before
