"""What an interruption of a run loses, and what a failed stage leaves behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from nt_jax import cli
from nt_jax.attribution import integrated
from nt_jax.attribution.store import load_neurons
from nt_jax.errors import RunError
from nt_jax.eval.answer_file import RecordFile
from nt_jax.export import hf, lora
from nt_jax.run import pipeline, stages
from nt_jax.run.export import export_run
from nt_jax.train import tune
from tests.run import small
from tests.run.small import TUNED

pytestmark = pytest.mark.xdist_group("run")
WEIGHTS = Path("export/hf/model.safetensors")


class Killed(BaseException):
    """Stands for the end of the process: nothing in the run may catch it."""


def without(finished, folder: Path, *names: str) -> Path:
    """A copy of the finished run that has not come to some of its stages yet."""
    shutil.copytree(finished.folder, folder)
    for name in names:
        shutil.rmtree(folder / name)
    return folder


def test_another_test_set_size_tunes_nothing_anew(finished, tmp_path):
    folder = without(finished, tmp_path / "run")
    screen = small.carry_on(small.settings(finished.recipe, folder, "eval.limit=2"))
    assert small.kept(screen) == {"answers", "attribute", "select", "train", "export"}
    rows = json.loads((folder / "report" / "results.json").read_text())
    assert {row["n"] for row in rows if row["metric"] == "refusal_rate"} == {2}


# --- killed --------------------------------------------------------------------------------------


def test_attribution_goes_on_after_its_last_whole_example(finished, tmp_path):
    folder = without(finished, tmp_path / "run", *small.STAGES[1:])
    config = small.settings(finished.recipe, folder)
    calls = [mock.DEFAULT, Killed]
    score = integrated.integrated_gradients
    with (
        mock.patch.object(integrated, score.__name__, wraps=score, side_effect=calls),
        pytest.raises(Killed),
    ):
        small.carry_on(config, until="attribute")
    partial = folder / ".attribute.tmp"
    assert [file.name for file in partial.glob("*.npz")] == ["safety-000.npz"]
    (partial / ".utility-001.npz.tmp").write_bytes(b"half")  # as a kill while writing leaves it
    with mock.patch.object(integrated, score.__name__, wraps=score) as again:
        small.carry_on(config, until="attribute")
    assert again.call_count == 1
    scores = {file.name: dict(np.load(file)) for file in (folder / "attribute").glob("*-*.npz")}
    assert scores.keys() == {"safety-000.npz", "utility-001.npz"}
    for name, arrays in scores.items():
        whole = dict(np.load(finished.folder / "attribute" / name))
        assert arrays.keys() == whole.keys()
        assert all((arrays[key] == whole[key]).all() for key in whole), name
    assert not list((folder / "attribute").glob(".*"))


def test_answers_to_the_test_sets_go_on_after_the_last_batch(finished, tmp_path):
    folder = without(finished, tmp_path / "run", "tuned", "eval", "report")
    config, append, asked = small.settings(finished.recipe, folder), RecordFile.append, []

    def append_once(self, rows):
        if self.rows:
            raise Killed
        append(self, rows)

    def append_and_count(self, rows):
        asked.extend(row for row in rows if "answer" in row)
        append(self, rows)

    with mock.patch.object(RecordFile, "append", append_once), pytest.raises(Killed):
        small.carry_on(config)
    partial = folder / ".tuned.tmp" / "tuned.jsonl"
    assert len(partial.read_text().splitlines()) == config.eval.batch_size
    with partial.open("a") as file:
        file.write('{"dataset": "demo_attack", "id": "cut off h')
    with mock.patch.object(RecordFile, "append", append_and_count):
        small.carry_on(config)
    every = len(config.eval.datasets) * small.PROMPTS
    assert len(asked) == every - config.eval.batch_size
    for name in ("eval/answers.jsonl", "report/results.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes(), name


# --- failed --------------------------------------------------------------------------------------


def diverge_at(epoch: int):
    """meta_step whose factors are lost at that epoch."""
    step, calls = tune.meta_step, []

    def meta_step(*args, **options):
        theta_P, moments, losses = step(*args, **options)
        calls.append(1)
        return theta_P * (jnp.nan if len(calls) == epoch else 1), moments, losses

    return mock.patch.object(tune, "meta_step", meta_step)


def test_divergence_names_the_epoch_and_the_last_good_factors(finished, tmp_path):
    folder = without(finished, tmp_path / "run", *TUNED)
    config = small.settings(finished.recipe, folder)
    with diverge_at(3), pytest.raises(RunError) as error:
        small.carry_on(config)
    saved = folder / ".train.tmp" / "orbax"
    assert "tuning diverged at epoch 3 (its batch is drawn by seed 0" in str(error.value)
    assert f"The factors of epoch 2 are in {saved}. Lower tune.meta_lr" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(path.name for path in saved.iterdir()) == ["000001", "000002"]
    assert not (folder / "train").exists() and not (folder / "export").exists()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # of 1e300
def test_steps_without_bounds_diverge_in_one_line(finished, tmp_path, capsys):
    folder = without(finished, tmp_path / "run", *TUNED)
    with small.small_programs():  # a step of 1e38 would not do: the norms of the model absorb it
        code = command(finished, folder, "tune.inner_lr=1e300", "tune.factor_max=1000")
    shown = capsys.readouterr().err
    assert code == 2 and shown.startswith("nt_jax: tuning diverged at epoch 1 (")
    assert shown.count("\n") == 1 and '"nan"' in shown and "factors of epoch" not in shown


def test_an_export_that_does_not_answer_like_the_tuned_model_is_not_kept(finished, tmp_path):
    folder = without(finished, tmp_path / "run", "export", "eval", "report")

    export_hf = hf.export_hf

    def wrong(checkpoint, scale_LF, *rest):
        return export_hf(checkpoint, scale_LF * 1.01, *rest)

    with mock.patch.object(hf, "export_hf", wrong), pytest.raises(RunError) as error:
        small.carry_on(small.settings(finished.recipe, folder))
    assert "holds other weights than were written: blocks.mlp.down." in str(error.value)
    assert {path.name for path in folder.iterdir()} == {
        "answers", "attribute", "select", "train", "base", "tuned", "run.json", ".lock"
    }  # fmt: skip
    with mock.patch.object(hf, "export_hf", wrong), pytest.raises(RunError):
        export_run(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize("missing", [(), ("report",)])
def test_a_run_whose_run_json_was_deleted_comes_to_its_last_screen(finished, tmp_path, missing):
    """As the message about a damaged one advises; a kill can also leave out the last stage."""
    folder = without(finished, tmp_path / "run", *missing)
    (folder / "run.json").unlink()
    screen = small.carry_on(small.settings(finished.recipe, folder))
    assert small.kept(screen) == {*small.STAGES} - {*missing}
    assert str(folder / "report" / "report.md") in screen.replace("\n", "")


# --- export --------------------------------------------------------------------------------------


def command(finished, folder: Path, *words: str) -> int:
    """The exit code of `python -m nt_jax.train`, in this process."""
    with mock.patch.object(cli, "_enter"):  # it changes the whole process
        words = ("--config", str(finished.recipe), *small.SETTINGS, *words)
        return cli.main("train", [*words, "--run-dir", str(folder)])


def export(folder: Path, out: Path, *words: str) -> int:
    with mock.patch.object(cli, "_enter"):
        return cli.main("export", ["--run", str(folder), "--out", str(out), *words])


def test_exporting_a_run_again_gives_the_same_files(finished, tmp_path, capsys):
    assert export(finished.folder, tmp_path / "out") == 0
    assert f"export     {tmp_path / 'out'}   2 of 20 tensors changed" in capsys.readouterr().out
    made = small.contents(tmp_path / "out")
    assert {"nt_jax_export.json", "README.md"} < made.keys()
    assert made == small.contents(finished.folder / "export" / "hf")
    assert export(finished.folder, tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_several_formats_lie_in_folders_of_their_own_and_all_or_none_appear(
    finished, tmp_path, capsys
):
    out = tmp_path / "out"
    assert export(finished.folder, out, "--format", "ia3,hf,lora", "--rank", "2") == 0
    shown = capsys.readouterr().out
    assert f"{out / 'lora'}   2 of 20 tensors changed" in shown and "--max-lora-rank 8" in shown
    made_in = {path.name for path in out.iterdir()}
    assert made_in == {"hf", "ia3", "lora"}
    made, own = (small.contents(folder) for folder in (out / "hf", finished.folder / "export/hf"))
    assert made == own  # the rank is the adapter's, and not named beside the others
    told = {name: json.loads((out / name / "nt_jax_export.json").read_text()) for name in made_in}
    assert {name: each["rank"] for name, each in told.items()} == {
        "hf": None,
        "ia3": None,
        "lora": 2,
    }
    with mock.patch.object(lora, "write_adapter", side_effect=RunError("no")):
        assert export(finished.folder, tmp_path / "other", "--format", "ia3,lora") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_strength_0_is_the_untuned_model(finished, tmp_path, capsys):
    assert export(finished.folder, tmp_path / "base", "--strength", "0") == 0
    made = small.contents(tmp_path / "base")
    assert made.pop("nt_jax_export.json") and made.pop("README.md")
    assert made == small.contents(finished.model)
    assert export(finished.folder, tmp_path / "none", "--strength", "0", "--format", "ia3") == 2
    assert "every factor is 1" in capsys.readouterr().err


def test_an_export_at_a_strength_goes_that_share_of_the_way(finished, tmp_path):
    untuned = load_file(finished.model / "model.safetensors")
    config = small.settings(finished.recipe, finished.folder)
    state = stages.best_state(config.tune, finished.folder / "select", finished.folder / "train")
    neurons, _ = load_neurons(finished.folder / "select" / "neurons.csv")
    for strength in (0.3, 1, 50):
        out = tmp_path / f"at{strength}"
        assert export(finished.folder, out, "--strength", str(strength)) == 0
        theta_P = 1 + strength * (np.asarray(state.average_P, np.float64) - 1)
        theta_P = theta_P.clip(*config.tune.bounds)
        found = load_file(out / "model.safetensors")
        for layer, neuron, theta in zip(neurons.layer_P, neurons.index_P, theta_P, strict=True):
            name = f"model.layers.{layer}.mlp.down_proj.weight"
            np.testing.assert_allclose(
                found[name][:, neuron], theta * untuned[name][:, neuron], rtol=1e-5
            )
    assert (theta_P == config.tune.factor_max).any()  # the last one met a bound


def test_the_best_factors_of_an_interrupted_run_can_be_exported(finished, tmp_path, capsys):
    folder = without(finished, tmp_path / "run", *TUNED)
    config = small.settings(finished.recipe, folder)
    with diverge_at(2), pytest.raises(RunError):
        small.carry_on(config)
    assert export(folder, tmp_path / "out") == 2
    assert "holds no factors to keep yet" in capsys.readouterr().err
    with diverge_at(2), pytest.raises(RunError):  # epoch 3 of the run: it goes on after epoch 1
        small.carry_on(config)
    assert export(folder, tmp_path / "out") == 0
    state = stages.best_state(config.tune, folder / "select", folder / ".train.tmp")
    assert (int(state.epoch), int(state.best_epoch)) == (2, 2)
    whole = load_file(finished.folder / WEIGHTS)  # that run too kept epoch 2
    for name, weight in load_file(tmp_path / "out" / "model.safetensors").items():
        np.testing.assert_array_equal(weight, whole[name], err_msg=name)


def test_factors_of_other_settings_or_another_model_are_not_exported(finished, tmp_path, capsys):
    folder = without(finished, tmp_path / "run")
    small.carry_on(small.settings(finished.recipe, folder, "neurons.safety=9"), until="select")
    assert export(folder, tmp_path / "out") == 2
    assert "holds no factors tuned with its present settings" in capsys.readouterr().err
    small.carry_on(small.settings(finished.recipe, folder), until="select")  # as advised
    before = (folder / "run.json").read_text()
    facts = json.loads(before)
    facts["hashes"]["weights"] = "those of another model"
    (folder / "run.json").write_text(json.dumps(facts))
    assert export(folder, tmp_path / "out") == 2
    assert "is not the model that" in capsys.readouterr().err
    assert export(tmp_path, tmp_path / "out") == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    (folder / "run.json").write_text(before)  # the old model put back, and a run named
    assert export(folder, tmp_path / "out") == 0


def test_a_finished_run_is_quiet_and_quick_on_a_real_command_line(finished):
    """In a process of its own: no warning of ours or of a library, and no fake devices."""
    root = Path(__file__).parents[2]
    words = ["--config", str(finished.recipe), *small.SETTINGS, "--run-dir", str(finished.folder)]
    command = [sys.executable, "-m", "nt_jax.train", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert small.kept(done.stdout) == set(small.STAGES)


@pytest.mark.parametrize(("targets", "learned"), [("refusals", 12), ("given", 20), ("auto", 20)])
def test_safe_answers_that_do_not_refuse_are_left_out(recipe, tmp_path, targets, learned):
    path = tmp_path / "harmful.jsonl"
    said = ["I'm sorry, but I can't help with that.", "It lies on the Seine."]
    rows = [
        {"request": f"harm {n}", "refusal": said[n % 5 > 2], "split": split}
        for split, count in (("train", 20), ("validation", 4))
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = [f"data.harmful.source={path}", "data.harmful.limit=20"]
    words = [*source, f"data.safety_targets={targets}"]
    config = small.settings(recipe, tmp_path / "run", *words)
    screen = small.carry_on(config, until="answers")
    line = "8 of 20 safe answers do not refuse and are not learned (data.safety_targets)"
    assert (line in screen) == (learned == 12)
    inputs = pipeline.read_inputs(config)
    assert len(inputs.records["train"].harmful) == learned
    told = "shipped: 12 of 20 given answers refuse, the model refused 0 of 20"
    assert (f"safety targets: {told}" in screen) == (targets == "auto")
