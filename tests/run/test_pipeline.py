"""A whole run: every file it promises, from numbers that transformers and torch confirm."""

import csv
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.config.load import load_config
from nt_jax.data.batching import pad_left
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.eval.judges.judge import open_judge
from nt_jax.generate.engine import answer_prompts
from nt_jax.mesh import make_mesh
from nt_jax.models.transformer import logits
from nt_jax.run.evaluate import evaluate_model
from nt_jax.run.stages import best_state
from tests import tiny
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")  # one worker makes the finished run, once
DATASETS = ("demo_attack", "demo_direct", "demo_harmless", "demo_harmless_attack")
NEW_TOKENS = 6


def lines_of(path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def answers(finished) -> list[dict]:
    return lines_of(finished.folder / "eval" / "answers.jsonl")


@pytest.fixture(scope="module")
def neurons(finished) -> list[dict]:
    with (finished.folder / "select" / "neurons.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scale_LF(finished, neurons) -> np.ndarray:
    """The factors the run kept, put in place here by hand."""
    config = small.settings(finished.recipe, finished.folder)
    state = best_state(config.tune, finished.folder / "select", finished.folder / "train")
    scale_LF = np.ones((tiny.LAYERS, tiny.NEURONS), np.float32)
    for row, factor in zip(neurons, state.best_P, strict=True):
        scale_LF[int(row["layer"]), int(row["index"])] = factor
    return scale_LF


def test_every_stage_is_marked_done_and_nothing_is_left_over(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {*small.STAGES, "run.json", ".lock"}
    assert all((finished.folder / name / "DONE").is_file() for name in small.STAGES)
    assert not list(finished.folder.rglob("*.tmp")) + list(finished.folder.rglob("RESUME"))


def test_the_promised_files_are_there(finished):
    for name in (
        "attribute/safety-000.npz", "attribute/utility-001.npz", "attribute/scores.npz",
        "attribute/completeness.csv", "attribute/examples.json", "select/neurons.csv",
        "select/neurons.parquet", "select/attribution.md", "select/layers.png",
        "select/cumulative.png", "train/neurons.csv", "train/metrics.jsonl",
        "export/hf/config.json", "export/hf/tokenizer.json",
        "export/hf/generation_config.json", "export/export.json", "eval/answers.jsonl",
        "report/report.md", "report/report.html", "report/results.json", "report/settings.yaml",
    ):  # fmt: skip
        assert (finished.folder / name).stat().st_size > 0, name


def test_the_screen_tells_each_stage_and_where_the_report_lies(finished):
    lines = [line.rstrip() for line in finished.screen.splitlines()]
    told = [line.split()[0] for line in lines if re.search(r"   \d+:\d\d$", line)]
    assert [name for name in told if name in small.STAGES] == [*small.STAGES]
    assert small.kept(finished.screen) == set()
    assert f"report     {finished.folder / 'report' / 'report.md'}" in finished.screen
    assert "unseen attacks" in finished.screen and "harmless requests" in finished.screen


def test_run_json_tells_what_was_run(finished):
    facts = json.loads((finished.folder / "run.json").read_text())
    assert facts["stages"].keys() == set(small.STAGES) == facts["keys"].keys()
    config = small.settings(finished.recipe, finished.folder)
    assert facts["config"] == config.model_dump(mode="json") and facts["seed"] == config.seed
    assert facts["devices"] == f"cpu x {jax.device_count()}" and facts["versions"]["jax"]
    assert all(stage["peak_memory_bytes"] > 0 for stage in facts["stages"].values())


# --- results -------------------------------------------------------------------------------------


def test_results_have_the_promised_shape(finished):
    rows = json.loads((finished.folder / "report" / "results.json").read_text())
    wanted = {"dataset", "metric", "model", "value", "n", "low", "high", "judge", "judge_sha256"}
    assert all(row.keys() == wanted for row in rows)
    keys = [(row["dataset"], row["metric"], row["model"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for model in ("base", "tuned"):
        for dataset in DATASETS:
            for metric in ("refusal_rate", "entropy", "ngram_entropy"):
                assert (dataset, metric, model) in keys
        assert any(metric == "su_f1" and m == model for _, metric, m in keys)
    assert all(math.isfinite(row["value"]) for row in rows)


def test_refusal_rates_and_entropies_follow_from_the_answers(finished, answers):
    rows = json.loads((finished.folder / "report" / "results.json").read_text())
    values = {(r["dataset"], r["metric"], r["model"]): r for r in rows}
    for dataset in DATASETS:
        for model in ("base", "tuned"):
            mine = [a for a in answers if (a["dataset"], a["model"]) == (dataset, model)]
            refusals = values[dataset, "refusal_rate", model]
            assert refusals["value"] == sum(a["refused"] for a in mine) / small.PROMPTS
            assert refusals["n"] == len(mine) == small.PROMPTS
            assert refusals["low"] <= refusals["value"] <= refusals["high"]
            assert refusals["judge"].startswith("phrases-v")
            words = [a["answer"].split() for a in mine]
            bits = [
                -sum((n := w.count(x) / len(w)) * math.log2(n) for x in set(w)) for w in words if w
            ]
            assert 0 <= values[dataset, "entropy", model]["value"] <= max([*bits, 0]) + 8


def test_answers_are_those_of_both_models_to_every_prompt(answers):
    asked = {model: [] for model in ("base", "tuned")}
    for answer in answers:
        asked[answer["model"]].append((answer["dataset"], answer["id"], answer["prompt"]))
    assert asked["base"] == asked["tuned"]
    assert len(set(asked["base"])) == len(DATASETS) * small.PROMPTS
    judge = open_judge("phrases")
    verdicts = judge.verdicts([a["request"] for a in answers], [a["answer"] for a in answers])
    assert verdicts == [a["refused"] for a in answers]
    assert all(a["harmful"] == ("harmless" not in a["dataset"]) for a in answers)
    assert all((a["prompt"] != a["request"]) == a["dataset"].endswith("attack") for a in answers)


def test_no_test_request_or_attack_was_seen_in_tuning(answers):
    """Neither the request nor the attack: every template the run could draw is looked for."""
    seen = {
        row.request
        for load in (load_harmful, load_harmless)
        for row in load()
        if row.split != "test"
    }
    assert not seen & {answer["request"] for answer in answers}
    for template in load_templates():
        used = any(
            answer["prompt"] == template.apply(answer["request"])
            for answer in answers
            if answer["dataset"].endswith("attack")
        )
        assert not (used and template.split != "test"), template.id


def test_the_report_shows_both_models(finished):
    text = (finished.folder / "report" / "report.md").read_text()
    html = (finished.folder / "report" / "report.html").read_text()
    assert "before" in text.lower() and "after" in text.lower()
    assert "<html" in html and str(finished.model) in text + html


def test_the_settings_beside_the_report_are_those_of_the_run(finished):
    folder = finished.folder / "report"
    assert "--config settings.yaml run_dir=again" in (folder / "report.md").read_text()
    again = load_config(str(folder / "settings.yaml"))
    assert again == small.settings(finished.recipe, finished.folder)


def test_the_report_has_strengths_factors_and_what_each_stage_took(finished):
    text = (finished.folder / "report" / "report.md").read_text()
    for name in ("strengths", "layers", "factors", "tuning", "before_after"):
        assert f"](figures/{name}.png)" in text
    tried = lines_of(finished.folder / "train" / "strengths.jsonl")
    table = text.split("## How far the model was turned")[1].split("## ")[0]
    said = re.findall(r"^\| ([\d.]+) \|.*\| (\w*) \|$", table, re.M)
    assert [float(strength) for strength, _ in said] == sorted([0, *(r["strength"] for r in tried)])
    facts = json.loads((finished.folder / "run.json").read_text())["stages"]
    for stage, fact in facts.items():
        if stage != "report":
            seconds = round(fact["wall_seconds"])
            said = f"| {stage} | {seconds // 60}:{seconds % 60:02d} | "
            assert said + f"{fact['peak_memory_bytes'] / 2**30:.1f} GiB |" in text


# --- neurons and factors -------------------------------------------------------------------------


def test_neurons_are_the_best_of_the_scores_on_disk(finished, neurons):
    sets = {"safety": [], "utility": []}
    for row in neurons:
        sets[row["set"]].append((int(row["layer"]), int(row["index"])))
    assert [len(rows) for rows in sets.values()] == [14, 10]
    assert len({*sets["safety"], *sets["utility"]}) == small.NEURONS
    scores = {}
    for name, file in (("safety", "safety-000.npz"), ("utility", "utility-001.npz")):
        score_LF = np.load(finished.folder / "attribute" / file)["alpha"]
        scores[name] = score_LF / np.abs(score_LF).max()
        rows = [row for row in neurons if row["set"] == name]
        assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
        found = [float(row["score"]) for row in rows]
        assert found == sorted(found, reverse=True)
        expected = [scores[name][place] for place in sets[name]]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # The first of each list could only lose its place to the other list's first.
    for name, score_LF in scores.items():
        best = np.unravel_index(score_LF.argmax(), score_LF.shape)
        assert tuple(map(int, best)) in {*sets["safety"], *sets["utility"]}, name


def test_tuning_moved_every_factor_within_its_bounds(finished, neurons, scale_LF):
    start_P = np.array([1.6 if row["set"] == "safety" else 0.6 for row in neurons], np.float32)
    kept_P = np.array([scale_LF[int(row["layer"]), int(row["index"])] for row in neurons])
    assert (kept_P != start_P).all() and (kept_P != 1).all()
    assert (kept_P >= 0).all() and (kept_P <= 4).all()
    assert (scale_LF == 1).sum() == scale_LF.size - small.NEURONS


def test_metrics_hold_a_line_per_epoch_and_the_kept_one_scores_best(finished):
    rows = lines_of(finished.folder / "train" / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == list(range(small.EPOCHS + 1))
    assert [row["epoch"] for row in rows if "refusal_attack" in row] == [0, 2, 4]
    assert [row["epoch"] for row in rows if "separation_attacked" in row] == [3, 4]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    scores = {row["epoch"]: row["score"] for row in rows if "score" in row}
    config = small.settings(finished.recipe, finished.folder)
    state = best_state(config.tune, finished.folder / "select", finished.folder / "train")
    assert int(state.best_epoch) == max(scores, key=scores.get)  # the first of equals
    assert int(state.epoch) == small.EPOCHS


# --- the exported model --------------------------------------------------------------------------


def test_only_chosen_columns_of_down_proj_changed(finished, scale_LF):
    before = load_file(finished.model / "model.safetensors")
    after = load_file(finished.folder / "export" / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.down_proj\.weight", name)
        expected = weight * scale_LF[int(layer[1])] if layer else weight
        np.testing.assert_array_equal(after[name], expected, err_msg=name)


def test_the_manifest_is_true(finished):
    facts = json.loads((finished.folder / "export" / "export.json").read_text())
    made = small.contents(finished.folder / "export" / "hf")
    assert made.pop("README.md") and made.pop("nt_jax_export.json")
    assert facts["sha256"] == made
    assert len(facts["changed"]) == tiny.LAYERS and facts["max_logit_difference"] < 1e-5


def test_transformers_and_our_engine_give_the_same_greedy_tokens(finished, answers, scale_LF):
    """Ours from the source with factors, transformers from the exported files: 5 prompts."""
    torch = pytest.importorskip("torch")
    import transformers

    hf = finished.folder / "export" / "hf"
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(hf).eval()
    lm = load_weights(str(finished.model), "float32", make_mesh())
    tuned = [answer for answer in answers if answer["model"] == "tuned"][:5]
    for answer in tuned:
        chat = [{"role": "user", "content": answer["prompt"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            made = theirs.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=NEW_TOKENS, do_sample=False,
            )[0, len(ids) :]  # fmt: skip
        token_BP, mask_BP = pad_left([ids], 16 * -(-len(ids) // 16))
        [ours] = answer_prompts(
            lm, jnp.asarray(scale_LF), [ids], max_new=NEW_TOKENS, batch_size=1
        )  # fmt: skip
        assert ours == made[: len(ours)].tolist()
        assert len(made) == NEW_TOKENS or made[len(ours)] in lm.config.eos_ids
        assert tokenizer.decode(made, skip_special_tokens=True) == answer["answer"]
        with torch.no_grad():
            their_logits = theirs(torch.tensor([ids])).logits[0, -1].numpy()
        our_logits = logits(lm, token_BP, mask_BP, jnp.asarray(scale_LF))[0, -1]
        np.testing.assert_allclose(our_logits, their_logits, atol=1e-5 * np.abs(their_logits).max())
        plain = logits(lm, token_BP, mask_BP, lm.ones_LF)[0, -1]
        assert np.abs(plain - our_logits).max() > 1e-3 * np.abs(their_logits).max()


def texts_by_row(path) -> dict[tuple, str]:
    return {(row["model"], row["dataset"], row["id"]): row["answer"] for row in lines_of(path)}


def test_a_run_directory_measured_alone_answers_as_the_run_did(finished, tmp_path):
    config = small.settings(finished.recipe, tmp_path / "alone")
    folder = evaluate_model(config, str(finished.folder))
    again, before = (texts_by_row(f / "eval" / "answers.jsonl") for f in (folder, finished.folder))
    assert again == before and {model for model, *_ in again} == {"base", "tuned"}
    numbers = {}
    for path in (finished.folder, folder):
        rows = json.loads((path / "report" / "results.json").read_text())
        numbers[path] = {(r["dataset"], r["metric"], r["model"]): r["value"] for r in rows}
    assert numbers[finished.folder] == pytest.approx(numbers[folder], nan_ok=True)
