"""vLLM's side of the pipe with a made-up `vllm` in its place: no GPU, no vLLM here.

The real one was never run by these tests. What they hold: the job reaches it as token ids with our
EOS, what it prints gets lost, its answers come back as ours do, and its failures are told.
"""

import importlib.util
import sys

import pytest

from nt_jax.checkpoints.checkpoint import load_model, open_checkpoint
from nt_jax.errors import CheckpointError, ConfigError, DataError, RunError
from nt_jax.generate.decode import Sampling
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.vllm_engine import check_vllm, vllm_answers
from nt_jax.mesh import make_mesh
from tests import fake_vllm, tiny

PROMPTS = [[5, 9, 3, 4], [7], [21, 4, 4], [30, 1, 6, 6, 6, 6, 6]]
NEW = 12


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake_vllm.install(tmp_path, monkeypatch)


def test_both_engines_give_the_greedy_tokens_of_transformers(fake):
    folder = tiny.checkpoint("llama3")
    lm = load_model(str(folder), "float32", make_mesh())
    heard = {}
    found = vllm_answers(
        folder, "float32", PROMPTS, max_new=NEW,
        on_batch=lambda rows, done: heard.update(zip(rows, done, strict=True)),
    )  # fmt: skip
    assert found == answer_prompts(lm, lm.ones_LF, PROMPTS, max_new=NEW, batch_size=2)
    assert [heard[row] for row in range(len(PROMPTS))] == found
    assert len({tuple(row) for row in found}) == len(PROMPTS)
    assert not any(token in lm.config.eos_ids for row in found for token in row)
    assert "vllm" not in sys.modules


def test_the_temperature_reaches_it(fake):
    def ask(prompts):
        folder, cool = tiny.checkpoint("llama3"), Sampling(0.25)
        return vllm_answers(folder, "float32", prompts, max_new=NEW, sampling=cool)

    assert ask([[5]]) == [[25]]
    assert ask([]) == []


def test_its_failure_is_told_in_one_line(fake):
    with pytest.raises(RunError, match=r"after 0 of 2 answers: .*out of memory") as error:
        vllm_answers(tiny.checkpoint("llama3"), "float32", [[13], [4]], max_new=NEW)
    assert "\n" not in str(error.value)


def test_too_long_prompts_are_refused_before_it_starts(fake):
    with pytest.raises(DataError, match="prompt 1 of 1 has 120 tokens"):
        vllm_answers(tiny.checkpoint("llama3"), "float32", [[5] * 120], max_new=NEW)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is here")
def test_without_vllm_one_line_says_what_to_do():
    with pytest.raises(ConfigError, match=r"vLLM is not installed: pip install 'nt_jax\[vllm\]'"):
        check_vllm(open_checkpoint(str(tiny.checkpoint("llama3"))))


def test_only_folders_will_do(fake, tmp_path):
    path = tiny.write_gguf(tiny.checkpoint("llama3"), tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"model\.gguf is none"):
        check_vllm(open_checkpoint(str(path)))
