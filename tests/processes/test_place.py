"""Which place the flags and the launchers give a process; every mistake is one line."""

import argparse

import pytest

from nt_jax import cli, exits, peers
from nt_jax.cluster import Place, place_of
from nt_jax.errors import ConfigError
from nt_jax.options import TOGETHER, parser_of


def read(*words: str, **environ: str) -> Place | None:
    return place_of(parser_of("train", "nt-jax train").read(words), environ)


def test_flags_name_a_place():
    words = ("--coordinator", "node-1.local:1234", "--processes", "4", "--process", "3")
    assert read(*words) == Place("node-1.local:1234", 4, 3)
    assert read("--coordinator=[::1]:1", "--processes=2", "--process=0") == Place("[::1]:1", 2, 0)


def test_one_process_is_alone():
    assert read() is None
    assert read("--coordinator", "a:1", "--processes", "1", "--process", "0") is None


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, Place()),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),  # a shell of salloc: no step
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, Place()),
        (
            {
                "SLURM_STEP_NUM_TASKS": "1",
                "SLURM_PROCID": "0",  # mpirun within srun --pty bash
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "1",
            },
            Place(),
        ),
        ({"OMPI_COMM_WORLD_SIZE": "x", "OMPI_COMM_WORLD_RANK": "0"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_a_launcher_that_has_started_several_is_noticed(environ, wanted):
    assert read(**environ) == wanted


def test_a_launcher_and_an_address_are_enough():
    told = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}
    assert read("--coordinator", "a:1", **told) == Place("a:1", 4, 2)
    told = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert read("--coordinator", "a:1", **told) == Place("a:1", 2, 1)
    flags = ("--coordinator", "a:1", "--processes", "3", "--process", "0")
    assert read(*flags, **told) == Place("a:1", 3, 0)  # flags come first


def test_kubernetes_is_asked_by_whoever_has_its_package(monkeypatch):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    for spec in (None, object()):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, spec=spec: spec)
        assert read(**pod) == (Place() if spec else None)


def test_other_commands_know_no_places():
    several = {"SLURM_STEP_NUM_TASKS": "2"}
    assert place_of(argparse.Namespace(), several) is None
    with pytest.raises(ConfigError, match="unknown option '--coordinator'"):
        parser_of("sweep", "nt-jax sweep").read(["--coordinator", "a:1"])
    for command in TOGETHER:
        told = ["--run", "r", "--out", "o"] if command == "export" else []
        words = [*told, "--coordinator", "a:1", "--processes", "2", "--process", "1"]
        assert place_of(parser_of(command, command).read(words), {}) == Place("a:1", 2, 1)


BAD = [
    (["--coordinator", "a:1"], "belong together"),
    (["--processes", "2", "--process", "0"], "belong together"),
    (["--coordinator", "a", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
    (["--coordinator", "a:0", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
    (["--coordinator", "a:70000", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
    (["--coordinator", "a:b:1", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
    (["--coordinator", "x\n:1", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
    (["--coordinator", "", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
    (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "counted from 0"),
    (["--coordinator", "a:1", "--processes", "65537", "--process", "0"], "65,536 at most"),
    (["--coordinator", "a:1", "--processes", "0", "--process", "0"], "from 1, not '0'"),
    (["--coordinator", "a:1", "--processes", "2", "--process", "-1"], "--process"),
    (["--coordinator", "a:1", "--processes", "2", "--process", "9" * 5000], "from 0"),
    (["--coordinator", "a:1", "--processes", "9" * 5000, "--process", "1"], "--processes"),
    (["--coordinator", "a:1", "--processes", "2", "--process", "½"], "from 0"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_bad_place_is_one_line_and_nothing_begins(monkeypatch, command, words, said, capsys):
    monkeypatch.setattr(peers, "parent", lambda: pytest.fail("a process was started"))
    assert cli.main(command, ["--config", "smollm2-135m", *words]) == exits.MISTAKE
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1 and shown.startswith("nt_jax: ")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("export", ["--factors", "f", "--model", "m", "--out", "o"], "--factors"),
        ("eval", ["--config", "smollm2-135m", "--model", "m", "eval.engine=openai",
                  "eval.url=http://127.0.0.1:1/v1", "eval.served=[x]"], "eval.engine=openai"),
        ("eval", ["--model", "m", "eval.harness=[arc_easy]"], "eval.harness"),
    ],
)  # fmt: skip
def test_what_one_process_must_do_is_said(monkeypatch, command, words, said, capsys):
    monkeypatch.setattr(peers, "parent", lambda: pytest.fail("a process was started"))
    place = ["--coordinator", "a:1", "--processes", "2", "--process", "1"]
    assert cli.main(command, [*words, *place]) == exits.MISTAKE
    shown = capsys.readouterr().err
    assert said in shown and "one process" in shown and shown.count("\n") == 1
