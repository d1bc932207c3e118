"""A run whose neurons are scored by the user's own function: files, report, interruption, keys."""

import json
import shutil
import sys
from unittest import mock

import numpy as np
import pytest

from nt_jax import cli
from nt_jax.attribution.store import load_neurons
from nt_jax.errors import ConfigError
from nt_jax.run import pipeline
from nt_jax.run.dry_run import describe
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")
SPEC = "run_own_score:shift"
# Higher the later the layer and the lower the number; utility the other way round.
SOURCE = """
import numpy as np

calls = []


def shift(lm, examples):
    calls.append((examples[0].set, len(examples), len(examples[0].attacked)))
    layer, index = np.indices((lm.config.layers, lm.config.neurons)).astype(np.float32)
    score = layer * lm.config.neurons - index
    return score if examples[0].set == "safety" else -score
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The user's file, where Python finds it; the imported module is forgotten afterwards."""
    path = tmp_path / "code" / "run_own_score.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(path.parent))
    yield path
    sys.modules.pop("run_own_score", None)


def arrays(path) -> dict[str, np.ndarray]:
    """What an .npz file holds."""
    with np.load(path) as saved:
        return dict(saved)


def copied(finished, folder):
    """A copy of the finished run that has its own answers alone."""
    shutil.copytree(finished.folder, folder)
    for name in small.STAGES[1:]:
        shutil.rmtree(folder / name)
    return folder


def test_a_run_chooses_the_neurons_that_the_users_score_ranks_first(finished, module, tmp_path):
    folder = copied(finished, tmp_path / "run")
    config = small.settings(finished.recipe, folder, f"attribution.score={SPEC}")
    screen = small.carry_on(config, until="select")
    assert f"2 examples   score {SPEC}, 96 neurons" in screen and "completeness" not in screen
    calls = sys.modules["run_own_score"].calls
    assert [call[:2] for call in calls] == [("safety", 1), ("utility", 1)]
    written = {path.name for path in (folder / "attribute").iterdir()}
    assert written == {"safety.npz", "utility.npz", "examples.json", "DONE"}
    neurons, _ = load_neurons(folder / "select" / "neurons.csv")
    places = list(zip(neurons.layer_P.tolist(), neurons.index_P.tolist(), strict=True))
    assert places == [(1, n) for n in range(14)] + [(0, 47 - n) for n in range(10)]
    text = (folder / "select" / "attribution.md").read_text()
    assert f"score: {SPEC}\n" in text and "rank correlation" not in text
    assert "## Best safety neurons" in text and "| neurons chosen | 14 | 10 |" in text
    summary = json.loads((folder / "select" / "summary.json").read_text())
    assert summary["score"] == {"safety": SPEC, "utility": SPEC}
    assert summary["sets"]["safety"].keys() == {"neurons_for_half", "share_of_chosen"}


def test_the_shipped_scores_are_named_in_the_report_too(finished, tmp_path):
    assert "score: integrated\n" in (finished.folder / "select" / "attribution.md").read_text()
    folder = copied(finished, tmp_path / "run")
    small.carry_on(
        small.settings(finished.recipe, folder, "attribution.score=gradient"), until="select"
    )
    text = (folder / "select" / "attribution.md").read_text()
    assert "score: gradient (safety), integrated (utility)\n" in text
    one, other = (arrays(at / "attribute/safety-000.npz") for at in (folder, finished.folder))
    assert np.abs(one["alpha"] - other["alpha"]).max() > 0


def test_an_interrupted_stage_goes_on_after_its_last_whole_set(finished, module, tmp_path):
    folder = copied(finished, tmp_path / "run")
    config = small.settings(finished.recipe, folder, f"attribution.score={SPEC}")
    small.carry_on(config, until="attribute")
    whole = arrays(folder / "attribute" / "safety.npz")
    shutil.rmtree(folder / "attribute")
    module_now = sys.modules["run_own_score"]
    shift, calls = module_now.shift, []

    def killed_at_utility(lm, examples):
        calls.append(examples[0].set)
        if examples[0].set == "utility" and calls.count("utility") == 1:
            raise KeyboardInterrupt
        return shift(lm, examples)

    with mock.patch.object(module_now, "shift", killed_at_utility):
        with pytest.raises(KeyboardInterrupt):
            small.carry_on(config, until="attribute")
        assert (folder / ".attribute.tmp" / "safety.npz").exists()
        small.carry_on(config, until="attribute")
    assert calls == ["safety", "utility", "utility"]
    again = arrays(folder / "attribute" / "safety.npz")
    assert all((again[name] == whole[name]).all() for name in whole)


def test_another_text_of_the_file_is_another_attribution(finished, module, tmp_path):
    config = small.settings(finished.recipe, tmp_path / "run", f"attribution.score={SPEC}")
    hashes = [pipeline.read_inputs(config).hashes]
    module.write_text(SOURCE + "# changed\n")
    hashes.append(pipeline.read_inputs(config).hashes)
    assert hashes[0]["score"] != hashes[1]["score"]
    assert hashes[0] | {"score": ""} == hashes[1] | {"score": ""}
    table = pipeline.stage_table(config, mock.Mock(), *[mock.Mock()] * 4)
    one, other = (pipeline.stage_keys(config, table, found) for found in hashes)
    kept = {name for name in one if one[name] == other[name]}
    assert kept == {"answers", "base"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [("no_such_own_score:f", "cannot be imported"), ("run_own_score:f", "has no function 'f'")],
)
def test_what_cannot_be_imported_is_refused_before_any_work(
    finished, module, tmp_path, capsys, spec, message
):
    folder = tmp_path / "run"
    config = small.settings(finished.recipe, folder, f"attribution.score={spec}")
    for start in (lambda config: list(describe(config)), small.carry_on):
        with pytest.raises(ConfigError, match=message):
            start(config)
    settings = [*small.SETTINGS, f"attribution.score={spec}", "--dry-run"]
    words = ["--config", str(finished.recipe), *settings]
    assert cli.main("train", words) == 2
    said = capsys.readouterr().err
    assert said.startswith("nt_jax: attribution.score=") and said.count("\n") == 1
    assert not folder.exists()
