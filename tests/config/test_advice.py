"""Settings that are refused: the call that the message advises is read."""

import pytest

from nt_jax.config.grid import cells_of, read_axes
from nt_jax.config.load import load_config
from nt_jax.errors import ConfigError

M = "model.source=m"
ADVISED = [  # (a call that is refused, words of its message, the call as they advise it)
    ([], "model.source is missing", [M]),
    ([M, "neurons.saftey=2"], "did you mean 'neurons.safety'?", [M, "neurons.safety=2"]),
    ([M, "neurons.safety"], "write section.key=value", [M, "neurons.safety=2"]),
    ([M, "name=2024-13-45"], "a text goes in quotes", [M, "name='2024-13-45'"]),
    ([M, "seed=!!timestamp x"], "Correct it", [M, "seed=3"]),
    ([M, f"seed={'9' * 5000}"], "Correct it", [M, "seed=999"]),
    ([M, f"seed=0x{'f' * 5000}"], "less than 4294967296", [M, "seed=4294967295"]),
    ([M, "model.revision=12345"], "put it in quotes", [M, "model.revision='12345'"]),
    ([M, "neurons={safety: 1, safety: 2}"], "duplicate key", [M, "neurons={safety: 1}"]),
    ([M, "neurons=5"], "must be a section of 'key: value' lines", [M, "neurons={safety: 5}"]),
    ([M, "tune.order=3"], "choose 2 or 1", [M, "tune.order=2"]),
    ([M, "tune.factor_min=4"], "below tune.factor_max = 4", [M, "tune.factor_min=0.5"]),
    ([M, "tune.init_safety=4.5"], "between tune.factor_min = 0.0 and", [M, "tune.init_safety=4"]),
    (
        [M, "tune.outer=regression", "tune.metric_requests=0"],
        "give it some, or choose sgd",
        [M, "tune.outer=regression", "tune.metric_requests=8"],
    ),
    (
        [M, "tune.outer=regression", "tune.metric_requests=0"],
        "give it some, or choose sgd",
        [M, "tune.outer=sgd", "tune.metric_requests=0"],
    ),
    (
        [M, "tune.metric_requests=1"],
        "two of each kind of prompt: give it more, or 0",
        [M, "tune.metric_requests=0", "tune.outer=sgd"],
    ),
    (
        [M, "tune.metric_requests=16", "tune.step_prompts=[1, 0.2]"],
        "makes an epoch of 3 prompts; 8 are the fewest",
        [M, "tune.metric_requests=16", "tune.step_prompts=[1, 0.5]"],
    ),
    ([M, "tune.step_prompts=[]"], "must not be empty", [M, "tune.step_prompts=[1]"]),
    (
        [M, "eval.engine=openai"],
        "needs eval.url and eval.served",
        [M, "eval.engine=openai", "eval.url=http://127.0.0.1:1/v1", "eval.served=m"],
    ),
    (
        [M, "eval.url=http://127.0.0.1:1/v1", "eval.served=m"],
        "needs eval.engine=openai",
        [M, "eval.url=http://127.0.0.1:1/v1", "eval.served=m", "eval.engine=openai"],
    ),
    (
        [M, "eval.url=http://me:secret@127.0.0.1/v1", "eval.served=m", "eval.engine=openai"],
        "holds a name or a password, which would be written down: leave it out",
        [M, "eval.url=http://127.0.0.1/v1", "eval.served=m", "eval.engine=openai"],
    ),
    (
        [M, "eval.harness=x", "eval.engine=openai", "eval.url=http://a/v1", "eval.served=m"],
        "needs eval.engine=jax",
        [M, "eval.harness=x", "eval.engine=jax"],
    ),
    (
        [M, "eval.draws=3"],
        "set eval.temperature above 0",
        [M, "eval.draws=3", "eval.temperature=1"],
    ),
]


@pytest.mark.parametrize(("words", "message", "advised"), ADVISED)
def test_a_setting_is_read_once_its_message_is_followed(words, message, advised):
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert message in str(caught.value)
    load_config(None, advised)


MANY = [f"neurons.{name}={','.join(map(str, range(1, 32)))}" for name in ("safety", "utility")]
GRIDS = [
    (["neurons.safety=5"], "give a setting of neurons or tune several val", ["neurons.safety=5,6"]),
    (
        ["neurons.safety=1,2", "neurons.safety=3,4"],
        "write all values in one list",
        ["neurons.safety=1,2,3,4"],
    ),
    (
        ["neurons.safety=1,2", "tune.validation_answers=0"],
        "cells are compared on validation answers. Ask for some",
        ["neurons.safety=1,2", "tune.validation_answers=1"],
    ),
    (["tune.max_over_refusal=1,2"], "a setting of neurons or tune", ["tune.safety_weight=0.2,0.4"]),
    (MANY, "Give fewer values", ["neurons.safety=1,2", "neurons.utility=1,2"]),
]


@pytest.mark.parametrize(("words", "message", "advised"), GRIDS)
def test_a_grid_is_read_once_its_message_is_followed(words, message, advised):
    def cells(words):
        return cells_of("smollm2-135m", *read_axes(words))

    with pytest.raises(ConfigError) as caught:
        cells(words)
    assert message in str(caught.value)
    assert len(cells(advised)) >= 2
