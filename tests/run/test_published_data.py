"""Whole runs on data as people have them: SafeEdit's folder, bare prompts, untyped templates."""

import json

import pytest

from nt_jax.eval.prompts import test_prompts as prompts_of
from nt_jax.run.dry_run import describe
from tests.data import safe_edit
from tests.run import small

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("run")]
QUICK = ("tune.epochs=2", "tune.strengths=[1]", "eval.limit=3", "eval.perplexity=false",
         "eval.kl=false")  # fmt: skip


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def safe_edit_run(recipe, tmp_path_factory):
    """A run on a folder as SafeEdit has it, tested on its own attacks."""
    folder = safe_edit.write(tmp_path_factory.mktemp("data") / "SafeEdit")
    words = [
        *(f"data.{name}.source={folder}" for name in ("harmful", "harmless")),
        "data.harmful.limit=null", "data.attacks=records", "tune.metric_requests=4",
        "attribution.attack_types=[pretending, attention shifting, privilege escalation]",
        f"eval.sources.safeedit={folder}", "eval.datasets=[safeedit, demo_harmless]", *QUICK,
    ]  # fmt: skip
    config = small.settings(recipe, tmp_path_factory.mktemp("runs") / "run", *words)
    return config, small.carry_on(config)


def test_safe_edit_is_tuned_on_its_own_attacks(safe_edit_run):
    config, screen = safe_edit_run
    line = "attacks: the records' own, 84 prompts of 7 attacks for train, 18 prompts of 3 attacks"
    assert line in screen and line in "\n".join(describe(config))
    assert "safety targets: given: 12 of 12 training requests have a refusal" in screen
    report = (config.folder / "report" / "report.md").read_text()
    assert "records' own, 84 prompts of 7 attacks" in report and "safety targets: given" in report


def test_attribution_scores_records_of_exactly_one_type(safe_edit_run):
    config, _ = safe_edit_run
    facts = json.loads((config.folder / "attribute" / "examples.json").read_text())
    safety = [row for row in facts["examples"] if row["set"] == "safety"]
    kinds = ["pretending", "attention shifting", "privilege escalation"]
    assert [row["types"] for row in safety] == [[kind] for kind in kinds]
    assert [row["template"] for row in safety] == ["Actor", "Continue", "Boss"]
    assert facts["templates_of_several_types_left_out"] == 1  # Tears


def test_test_attacks_are_those_of_the_test_split(safe_edit_run):
    config, screen = safe_edit_run
    asked = prompts_of(config.eval)
    assert {p.template for p in asked if p.dataset == "safeedit"} == {"AIM", "Emotion"}
    assert "also tuned on" not in screen
    answers = rows(config.folder / "eval" / "answers.jsonl")
    assert any(row.get("template") == "AIM" for row in answers)


@pytest.fixture(scope="module")
def bare_run(recipe, tmp_path_factory):
    """A run on a lone goal column and on templates without types, as GPTFuzz publishes its own."""
    folder = tmp_path_factory.mktemp("data")
    goals = folder / "goals.csv"
    goals.write_text("goal\n" + "".join(f"Do harm of kind {n}\n" for n in range(60)))
    templates = folder / "GPTFuzzer.csv"
    texts = [f'{n},"Play part {n}. [INSERT PROMPT HERE]"\n' for n in range(20)]
    templates.write_text("id,text\n" + "".join(texts))
    words = [
        f"data.harmful.source={goals}", "data.harmful.limit=24",
        f"data.templates.source={templates}", "tune.metric_requests=4",
        "data.templates.limit=null", "eval.datasets=[demo_direct, demo_harmless]", *QUICK,
    ]  # fmt: skip
    config = small.settings(recipe, tmp_path_factory.mktemp("runs") / "run", *words)
    return config, small.carry_on(config)


def test_prompts_without_refusals_work_from_start_to_end(bare_run):
    config, screen = bare_run
    targets = json.loads((config.folder / "answers" / "safety_targets.json").read_text())
    count = len(targets["refusals"])
    said = f"0 of 0 given answers refuse, the model refused 0 of {count}"
    assert (targets["source"], targets["why"]) == ("shipped", said) and count > 10
    assert f"safety targets: shipped: {said}" in screen
    assert "safety targets: decided in the run" in "\n".join(describe(config))
    asked = [*rows(config.folder / "answers" / "own_answers.jsonl")]
    assert sum(row["set"] == "harmful" for row in asked) == count
    report = (config.folder / "report" / "report.md").read_text()
    assert f"safety targets: shipped: {said}" in report


def test_templates_without_types_are_scored_without_selection_and_that_is_said(bare_run):
    config, screen = bare_run
    line = "attack selection: none (templates have no types)"
    assert line in screen and line in "\n".join(describe(config))
    for file in ("report/report.md", "report/report.html"):
        assert line in (config.folder / file).read_text()
    assert line[1:] in (config.folder / "select" / "attribution.md").read_text()
    facts = json.loads((config.folder / "attribute" / "examples.json").read_text())
    assert [row["types"] for row in facts["examples"]] == [[], []]
