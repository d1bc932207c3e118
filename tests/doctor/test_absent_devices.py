"""What doctor plans for devices that are not here."""

import io

import pytest
from rich.console import Console

from nt_jax.console import shown_on
from nt_jax.doctor.devices import KINDS, devices_of
from nt_jax.doctor.meshes import fastest, layouts, smallest
from nt_jax.doctor.planned import show_stages
from nt_jax.doctor.shapes import SHAPES
from nt_jax.doctor.subject import find_subject
from nt_jax.errors import ConfigError
from nt_jax.run.data import read_data
from nt_jax.run.memory import Held
from tests import tiny
from tests.doctor.asking import asked


def test_a_plan_says_what_fits_on_devices_that_are_not_here(capsys, monkeypatch):
    code, found = asked(capsys, monkeypatch, "llama3.1-70b", "--devices", "8xH100")
    assert (code, found["fits"], found["device"]) == (0, True, "H100 SXM 80 GB")
    assert found["device_bytes"] == 60_000_000_000  # three quarters of its memory
    assert found["mesh"] == found["recommended_mesh"] and found["seconds"]["train"] > 0
    for stage, parts in found["parts_per_device"].items():
        assert sum(parts.values()) == found["bytes_per_device"][stage] <= 60_000_000_000
    code, found = asked(capsys, monkeypatch, "llama3.1-405b", "--devices", "8xH100")
    assert (code, found["fits"], found["recommended_mesh"]) == (3, False, None)
    assert found["mesh"] == [1, 8] and max(found["bytes_per_device"].values()) > 2 * 101e9
    code, found = asked(capsys, monkeypatch, "llama3.1-70b", "--devices", "8xh100", "--mesh", "1x2")
    assert (code, found["mesh"], found["recommended_mesh"] is None) == (3, [1, 2], False)
    code, found = asked(capsys, monkeypatch, "qwen2.5-0.5b", "--devices", "l40s")
    assert (code, found["recommended_mesh"], found["fastest_mesh"]) == (0, [1, 1], [1, 1])


def test_a_plan_needs_no_data(capsys, monkeypatch, tmp_path):
    """As of the paper's recipes, whose data are gated."""
    words = ("llama3.1-8b", "--devices", "h100", "eval.datasets=[demo_direct]")
    _, found = asked(capsys, monkeypatch, *words)
    source = f"data.harmful.source={tmp_path / 'absent.csv'}"
    code, other = asked(capsys, monkeypatch, *words, source)
    assert (code, other["fits"]) == (0, True)
    assert other["bytes_per_device"] == found["bytes_per_device"] and other["seconds"]["train"] > 0
    assert (found["times_for"], other["times_for"]) == ("the recipe's data", "the demo's data")


def test_settings_of_the_recipe_may_be_others(capsys, monkeypatch):
    """14B with int8 matrices on a card of 24 GB, of which 22 GiB are to be had."""
    words = ("qwen2.5-14b", "eval.batch_size=8", "--memory", "23.62")
    code, found = asked(capsys, monkeypatch, *words, "model.frozen=int8")
    assert (code, found["frozen"], found["fits"]) == (0, "int8", True)
    parts = found["parts_per_device"]
    layer = 5120 * (3 * 13824 + 40 * 128 + 2 * 8 * 128) + 40 * 128 * 5120  # one byte a weight
    channels = (40 + 2 * 8) * 128 + 2 * 5120 + 2 * 13824
    norms_biases = 2 * (2 * 5120 + (40 + 2 * 8) * 128)
    ends, scale = 2 * (2 * 152064 * 5120 + 5120), 4 * 48 * 13824
    assert parts["base"]["weights"] == 48 * (layer + 4 * channels + norms_biases) + ends + scale
    two_pairs = 4 * (2 * layer + norms_biases + 4 * 13824)  # of layers, as wide as in the source
    assert (parts["base"]["copies"], parts["export"]["copies"]) == (0, ends + two_pairs)
    assert asked(capsys, monkeypatch, *words)[0] == 3


def test_long_prompts_are_planned_and_grow_by_their_length(capsys, monkeypatch):
    words, sizes = ("llama3.1-8b", "--devices", "1xh100", "--mesh", "1x1"), (8192, 16384, 32768)
    plans = [
        asked(capsys, monkeypatch, *words, "--prompt-tokens", str(n))[1]["parts_per_device"]
        for n in sizes
    ]
    for stage in ("answers", "attribute", "train", "eval"):
        held = [plan[stage]["temporaries"] + plan[stage]["cache"] for plan in plans]
        assert held[0] < held[1] < held[2] < 2.1 * held[1] < 2.1**2 * held[0], stage
    usual = asked(capsys, monkeypatch, *words)[1]
    assert asked(capsys, monkeypatch, *words, "--prompt-tokens", "256")[1] == usual
    eight = ("llama3.1-8b", "--devices", "8xh100", "--mesh", "8x1", "--prompt-tokens", "32768")
    spread = asked(capsys, monkeypatch, *eight)[1]["parts_per_device"]["answers"]
    assert spread["temporaries"] >= plans[2]["answers"]["temporaries"]  # each has a whole prompt


def test_settings_that_train_would_refuse_are_refused():
    here = str(tiny.checkpoint("qwen2"))
    with pytest.raises(ConfigError, match="are two models"):
        find_subject(here, None, ["model.source=elsewhere"])
    with pytest.raises(ConfigError, match=r"more than the .* neurons of this model"):
        find_subject(here, None, ["neurons.safety=100000"])
    with pytest.raises(ConfigError, match=r"more than the .* neurons of this model"):
        find_subject("qwen2.5-14b", None, ["neurons.safety=1000000"])


def test_the_best_mesh_is_the_smallest_that_fits_and_the_fastest_of_its_size():
    config = find_subject("qwen2.5-14b", None).config
    data, model = read_data(config), SHAPES["qwen2.5-14b"].config
    found = layouts(config, model, data.records, data.tests, 8, KINDS["a100-40gb"])
    meshes = {str(each): each for each in found}
    # 8 heads of keys divide by 1, 2, 4 and 8.
    assert {*meshes} == {f"{d}x{m}" for d in (1, 2, 4, 8) for m in (1, 2, 4, 8) if d * m <= 8}
    fitting = [each for each in found if max(h.total for h in each.stages.values()) <= 30e9]
    best, quick = smallest(found), fastest(found)
    assert best is not None and best.devices == min(each.devices for each in fitting)
    assert not any(e.devices == best.devices and e.time < best.time for e in fitting)
    assert quick is not None and quick.time == min(each.time for each in fitting)
    assert not meshes["8x1"].fits and meshes["8x1"].stages["export"].total > 2 * 29.5e9


def test_stages_that_hardly_fit_are_marked():
    screen = io.StringIO()
    with shown_on(Console(file=screen, width=200)):
        show_stages({name: Held(size) for name, size in (("a", 94), ("b", 96), ("c", 101))}, 100)
    said = [line.partition(")")[2].strip() for line in screen.getvalue().splitlines() if line]
    assert said == ["", "close to all there is", "more than there is"]


def test_devices_are_a_number_and_a_kind():
    assert devices_of("8xH100") == (8, KINDS["h100"]) and devices_of("A100-40GB")[0] == 1
    assert KINDS["h100"].room == 60_000_000_000
    for kind in KINDS.values():  # the figures of the line that names their source
        assert f"{kind.memory / 1e9:.0f} GB" in kind.source
        assert f"{2 * kind.link / 1e9:.0f} GB/s" in kind.source


def test_a_mesh_among_the_settings_is_planned_as_that_of_the_option(capsys, monkeypatch):
    words = ("llama3.1-8b", "--devices", "8xh100")
    found, same = (
        asked(capsys, monkeypatch, *words, *more)[1]
        for more in (("--mesh", "2x4"), ("mesh.data=2", "mesh.model=4"))
    )
    assert found["mesh"] == [2, 4] and found == same


def test_settings_of_a_mesh_are_kept_to(monkeypatch):
    subject = find_subject("llama3.1-8b", (2, 4))
    assert (subject.config.mesh.data, subject.config.mesh.model) == (2, 4)
    assert str(subject.config.mesh) == "2x4"
    subject = find_subject("llama3.1-8b", (1, 2, 4))
    assert str(subject.config.mesh) == "1x2x4" and subject.config.mesh.devices == 8
    with pytest.raises(ConfigError, match=r"mesh.fsdp = 3 does not divide width = 4096"):
        find_subject("llama3.1-8b", (1, 1, 3))
    with pytest.raises(ConfigError, match=r"mesh.model = 3 does not divide"):
        find_subject("llama3.1-8b", (1, 3))
