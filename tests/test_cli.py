"""The command line: quick help, one line per mistake, a quiet screen, exit codes."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from nt_jax import cli
from nt_jax.compare.names import METHODS
from nt_jax.config.help import setting_table
from nt_jax.errors import RunError

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "flax", "transformers", "datasets", "torch", "numpy", "rich")


def python(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environ}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)


@pytest.fixture
def calls(monkeypatch) -> list:
    """What the commands hand over to train.loop and train.plan, without running them."""
    made: list = []
    loop, plan = types.ModuleType("nt_jax.run.pipeline"), types.ModuleType("nt_jax.run.dry_run")
    loop.__dict__["run"] = lambda config, console, **more: made.append((config, more))
    loop.__dict__["export_run"] = lambda *words: made.append(words)
    plan.__dict__["describe"] = lambda config: f"the plan of {config.name}"
    monkeypatch.setitem(sys.modules, "nt_jax.run.pipeline", loop)
    monkeypatch.setitem(sys.modules, "nt_jax.run.dry_run", plan)
    alone = types.ModuleType("nt_jax.run.evaluate")
    alone.__dict__["evaluate"] = lambda config, model, console, beside: made.append(
        (config, model, beside)
    )
    monkeypatch.setitem(sys.modules, "nt_jax.run.evaluate", alone)
    compared = types.ModuleType("nt_jax.compare.pipeline")

    def compare(config, console, methods, tables):
        made.append((config, methods, tables))
        return {"run": config.name}

    compared.__dict__["compare"] = compare
    monkeypatch.setitem(sys.modules, "nt_jax.compare.pipeline", compared)
    monkeypatch.setattr(
        cli, "_enter", lambda **_: None
    )  # it changes the whole process: tested apart
    return made


@pytest.mark.parametrize(
    "entry",
    [
        "nt_jax.train",
        "nt_jax.attribute",
        "nt_jax.eval",
        "nt_jax.compare",
        "nt_jax.export",
        "nt_jax",
    ],
)
def test_help_takes_less_than_a_second_of_a_core(entry):
    before = os.times()
    done = python("-m", entry, "--help")
    after = os.times()
    assert done.returncode == 0 and not done.stderr
    assert "usage: " + ("nt-jax" if entry == "nt_jax" else f"python -m {entry}") in done.stdout
    # The children's own time: a busy machine lets them wait, but does not give them more to do.
    assert after.children_user + after.children_system < 1 + (
        before.children_user + before.children_system
    )


def test_help_lists_every_setting():
    text = python("-m", "nt_jax.train", "--help").stdout
    assert [key for key in setting_table() if f"{key}=" not in text] == []


@pytest.mark.parametrize("words", [["--help"], ["--config", "smolm2-135m"], ["--config"]])
def test_help_and_typos_import_nothing_heavy(words):
    code = (
        "import sys\nfrom nt_jax.cli import main\n"
        f"try:\n    main('train', {words})\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian' (command line): did you mean 'train'?"),
        (["dance"], "choose one of train, attribute, eval, compare, export"),
        ([], "no command (command line)"),
        (["train"], "--config is missing (command line): give a recipe (llama2-7b-chat, "),
        (["train", "--config"], "argument --config: expected one argument"),
        (["train", "--confg", "x"], "unknown option '--confg' (command line): did you mean '--con"),
        (["train", "--zz"], "unknown option '--zz' (command line); see nt-jax train --help"),
        (["train", "--config", "x.yaml"], "config file 'x.yaml' does not exist"),
        (["train", "--neurons.safety=3"], "settings have no dashes: neurons.safety=VALUE"),
        (
            ["train", "--config", "llama3.1-8b-instruct", "neurons.saftey=2000"],
            "unknown key 'neurons.saftey' (command line): did you mean 'neurons.safety'?",
        ),
        (["export"], "the following arguments are required: --run, --out"),
        (["export", "--run", "a", "--out", "b", "--dtype", "f8"], "invalid choice: 'f8'"),
        (["export", "--run", "a", "--out", "b", "--strength", "0"], "above 0, not '0'"),
        (["export", "--run", "a", "--out", "b", "--strength", "x"], "--strength: must be a number"),
        (["export", "--run", "a", "--out", "b", "--strength", "inf"], "not 'inf'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert cli.main(argv=words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("nt_jax: ") and message in shown.err


def test_each_problem_has_its_own_line(capsys):
    assert cli.main("train", ["--config", "smollm2-135m", "a.b=1", "seed=-1"]) == 2
    assert [line[:8] for line in capsys.readouterr().err.splitlines()] == ["nt_jax: "] * 2


def test_commands_hand_over_the_resolved_config(calls, tmp_path):
    words = ["seed=3", "--config", "smollm2-135m", "tune.epochs=2", "--run-dir", "a: b#c"]
    assert cli.main("train", words) == 0
    assert cli.main(argv=["attribute", *words]) == 0
    assert cli.main("eval", words) == 0
    (config, more), attribute, evaluate = calls
    assert (config.seed, config.tune.epochs, config.run_dir, more) == (3, 2, "a: b#c", {})
    assert attribute == (config, {"until": "select"}) and evaluate == (config, {})


def test_the_engine_is_a_flag_of_eval_and_a_setting(calls):
    words = ["--config", "smollm2-135m"]
    assert cli.main("eval", words) == 0
    assert cli.main("eval", [*words, "--engine", "vllm"]) == 0
    assert cli.main("train", [*words, "eval.engine=vllm"]) == 0
    assert [config.eval.engine for config, _ in calls] == ["jax", "vllm", "vllm"]
    assert cli.main("eval", [*words, "--engine", "tgi"]) == 2


def test_vllm_finds_memory_left_unless_the_user_has_his_own_mind():
    ours, theirs = {}, {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    cli.prepare_environment(ours, vllm=True)
    cli.prepare_environment(theirs, vllm=True)
    assert ours["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert theirs["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


def test_eval_with_a_model_measures_it_and_trains_nothing(calls):
    words = ["--config", "smollm2-135m", "--model", "out/x", "eval.limit=2"]
    assert cli.main("eval", words) == 0 and cli.main("eval", [*words, "--beside-base"]) == 0
    assert [call[1:] for call in calls] == [("out/x", False), ("out/x", True)]
    assert calls[0][0].eval.limit == 2


def test_compare_hands_over_methods_and_tables_and_prints_json_last(calls, capsys):
    words = ["--config", "smollm2-135m", "compare.search=2"]
    assert cli.main("compare", words) == 0
    assert capsys.readouterr().out == ""
    assert (
        cli.main("compare", [*words, "--methods", "scans,dinm", "--tables", "5,1", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"run": "smollm2-135m"}
    assert [call[1:] for call in calls] == [
        (tuple(METHODS), ("2",)),
        (("scans", "dinm"), ("1", "5")),
    ]
    assert calls[0][0].compare.search == 2


def test_a_dry_run_prints_the_plan_and_changes_nothing(calls, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main("train", ["--config", "smollm2-135m", "--dry-run"]) == 0
    assert capsys.readouterr().out == "the plan of smollm2-135m\n"
    assert calls == [] and list(tmp_path.iterdir()) == []


def test_export_hands_over_its_folders(calls):
    assert cli.main("export", ["--run", "runs/x", "--out", "out", "--dtype", "float32"]) == 0
    assert cli.main("export", ["--run", "runs/x", "--out", "out"]) == 0
    assert cli.main("export", ["--run", "runs/x", "--out", "out", "--strength", "0.8"]) == 0
    assert calls[0] == (Path("runs/x"), Path("out"), "float32", None)
    assert [words[2:] for words in calls[1:]] == [("source", None), ("source", 0.8)]


def test_an_error_of_the_run_has_no_traceback(calls, monkeypatch, capsys):
    def fail(config, console):
        raise RunError("first line\nsecond line")

    monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", fail)
    assert cli.main("train", ["--config", "smollm2-135m"]) == 2
    assert capsys.readouterr().err == "nt_jax: first line\nnt_jax: second line\n"


def test_an_interrupt_says_how_to_continue(calls, monkeypatch, capsys):
    def interrupt(config, console):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", interrupt)
    assert cli.main("train", ["--config", "smollm2-135m", "run_dir=my runs"]) == 130
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "continue: python -m nt_jax.train --config smollm2-135m 'run_dir=my runs'" in shown


def test_a_bug_keeps_its_traceback(calls, monkeypatch):
    monkeypatch.setattr(sys.modules["nt_jax.run.pipeline"], "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main("train", ["--config", "smollm2-135m"])


def test_the_environment_of_the_user_wins():
    environ = {"XDG_CACHE_HOME": "/caches", "TOKENIZERS_PARALLELISM": "true"}
    cli.prepare_environment(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"] == "/caches/nt_jax/xla"
    assert environ["TOKENIZERS_PARALLELISM"] == "true"
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    environ = {"HOME": "/home/me", "JAX_COMPILATION_CACHE_DIR": "/mine"}
    cli.prepare_environment(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"


def test_only_our_own_warnings_reach_the_screen():
    code = (
        "import logging, warnings\nfrom nt_jax import cli\ncli.silence_libraries()\n"
        "warnings.warn('from a library')\n"
        "logging.getLogger('absl').warning('from absl')\n"
        "logging.getLogger('jax.x').error('a real error')\n"
        "logging.getLogger('nt_jax.train').warning('from us')"
    )
    assert python("-c", code).stderr == "nt_jax: a real error\nnt_jax: from us\n"
    assert "from a library" in python("-W", "default", "-c", code).stderr


def test_version():
    assert python("-m", "nt_jax", "--version").stdout == f"nt_jax {cli.__version__}\n"
    assert python("-m", "nt_jax.train", "--version").stdout == f"nt_jax {cli.__version__}\n"
