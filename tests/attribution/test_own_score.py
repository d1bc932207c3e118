"""A score of the user's own: found, hashed, checked; one line for whatever is wrong with it."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.attribution import own_score
from nt_jax.attribution.own_score import load_score, own_scores, score_hash
from nt_jax.attribution.score import EncodedExample
from nt_jax.config.load import load_config
from nt_jax.errors import ConfigError, DataError
from tests import plain

LM = plain.random_model()
SHAPE = (LM.config.layers, LM.config.neurons)
EXAMPLES = [EncodedExample([1, 2], [3, 1, 2], [4], "utility")]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module of this name that can be imported; its path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(name: str, text: str):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return path

    return written


def test_the_function_is_found_by_module_and_name(write):
    write("found_score", "def last(lm, examples):\n    return 7\n")
    assert load_score("found_score:last")(None, None) == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_score:f", "no_such_score cannot be imported .ModuleNotFoundError: No module"),
        ("broken_score:f", "broken_score cannot be imported .SyntaxError: "),
        ("raising_score:f", r"cannot be imported .ValueError: two lines.*PYTHONPATH"),
        ("named_score:g", "named_score has no function 'g'. It has f, h."),
        ("named_score:NUMBER", "has no function 'NUMBER'"),
        ("integral", "known are integrated, gradient, or MODULE:FUNCTION"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(write, spec, message):
    write("broken_score", "def f(:\n")
    write("raising_score", "raise ValueError('two\\nlines')\n")
    write("named_score", "NUMBER = 3\ndef f(): ...\ndef h(): ...\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_score(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["def f(lm, e): ...\n", "f = functools.partial(int)\n"])
def test_the_hash_is_of_the_spec_and_of_the_functions_file(write, text):
    name = "hashed_" + ("partial" if "partial" in text else "plain")
    path = write(name, f"import functools\n{text}def g(): ...\n")
    before = score_hash(f"{name}:f")
    assert before == score_hash(f"{name}:f") != score_hash(f"{name}:g")
    path.write_text(path.read_text() + "# another line\n")
    assert score_hash(f"{name}:f") != before


def test_a_wrapped_function_is_hashed_where_it_was_written(write):
    path = write("inner_score", "def f(lm, examples): ...\n")
    text = "@functools.wraps(inner_score.f)\ndef f(*args): return inner_score.f(*args)\n"
    write("outer_score", f"import functools, inner_score\n{text}")
    before = score_hash("outer_score:f")
    path.write_text("def f(lm, examples): return 1\n")
    assert score_hash("outer_score:f") != before


def test_our_own_names_need_no_file(monkeypatch):
    monkeypatch.setattr(own_score, "load_score", lambda _: pytest.fail("imported"))
    assert score_hash("integrated") != score_hash("gradient")


def test_scores_of_the_right_kind_come_back_as_they_are():
    wanted_LF = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    seen = []
    found_LF = own_scores(lambda *args: seen.append(args) or wanted_LF, LM, EXAMPLES)
    np.testing.assert_array_equal(found_LF, wanted_LF)
    assert seen == [(LM, EXAMPLES)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(SHAPE), r"gave float64 \[.*\] for the utility examples. Return float32"),
        (np.zeros(SHAPE[::-1], np.float32), "Return float32"),
        (np.zeros(SHAPE, np.int32), "gave int32"),
        (None, r"gave object \[\]"),
        (np.full(SHAPE, np.nan, np.float32), "is not finite for .* neurons on the utility"),
    ],
)
def test_scores_of_another_kind_are_refused(given, message):
    with pytest.raises(DataError, match=message) as caught:
        own_scores(functools.partial(lambda *_: given), LM, EXAMPLES)
    assert "\n" not in str(caught.value)


def test_the_setting_names_one_of_ours_or_a_function():
    for spec in ("integrated", "gradient", "my_score:f", "a.b_c:_f"):
        assert load_config("smollm2-135m", [f"attribution.score={spec}"]).attribution.score == spec
    for spec, hint in (("gradeint", "did you mean 'gradient'"), ("my_score:", "known are"),
                       ("a b:c", "known are contrastive, integrated, grad")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"attribution.score = .*{hint}"):
            load_config("smollm2-135m", [f"attribution.score={spec!r}"])


def test_a_function_that_fails_is_the_users_and_its_line_is_named():
    def badly_shaped(lm, examples):
        return jnp.zeros(2) @ jnp.zeros(3)

    line = badly_shaped.__code__.co_firstlineno + 1
    said = rf"badly_shaped failed on .*: TypeError.*test_own_score.py, line {line}\)"
    with pytest.raises(DataError, match=said):
        own_scores(badly_shaped, LM, EXAMPLES)


def test_what_is_no_array_is_the_users_fault_too():
    with pytest.raises(DataError, match="failed on the utility examples: ValueError"):
        own_scores(lambda *_: [[1.0, 2.0], [3.0]], LM, EXAMPLES)
