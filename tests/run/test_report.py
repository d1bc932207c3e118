"""A finished run's report once more: the same numbers, nothing measured, nothing loaded."""

import json
import shutil
from unittest import mock

import pytest

from nt_jax.errors import RunError
from nt_jax.report import run as report_module
from nt_jax.run.report import report_again
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "run")


def test_a_later_version_writes_its_own_report_of_the_same_numbers(copy, finished):
    before = small.contents(copy / "report")
    own = report_module._render
    with mock.patch.object(report_module, "_render", lambda *of: own(*of) + "<!-- later -->"):
        path = report_again(copy)
    after = small.contents(copy / "report")
    assert path.read_text().endswith("<!-- later -->") and path == copy / "report" / "report.html"
    same = {"results.json", "settings.yaml"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert set(after) == set(before)
    screen = small.carry_on(small.settings(finished.recipe, copy))
    assert "report" in small.kept(screen)  # it counts as the run's own


def test_neither_model_nor_data_need_be_there(copy, monkeypatch):
    known = json.loads((copy / "run.json").read_text())
    known["config"]["model"]["source"] = "/nowhere"
    (copy / "run.json").write_text(json.dumps(known))
    assert report_again(copy).exists()


@pytest.mark.parametrize("gone", ["report", "train"])
def test_an_unfinished_run_has_none(copy, gone, finished):
    shutil.rmtree(copy / gone)
    with pytest.raises(RunError, match=r"holds no finished report .* repeat the command that made"):
        report_again(copy)
    small.carry_on(small.settings(finished.recipe, copy))
    assert report_again(copy).exists()


def test_a_report_of_other_settings_is_not_written_anew(copy):
    known = json.loads((copy / "run.json").read_text())
    known["keys"]["train"] = "of other settings"
    (copy / "run.json").write_text(json.dumps(known))
    with pytest.raises(RunError, match="present settings"):
        report_again(copy)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        report_again(tmp_path)
    assert not list(tmp_path.iterdir())
