"""vLLM's side of the pipe with a made-up `vllm` in its place: no GPU, no vLLM here.

The real one was never run by these tests. What they hold: the job reaches it as token ids with our
EOS, what it prints gets lost, its answers come back as ours do, and its failures are told.
"""

import importlib.util
import sys

import pytest

from nt_jax.errors import CheckpointError, ConfigError, DataError, RunError
from nt_jax.mesh import make_mesh
from nt_jax.models.checkpoint import load_model
from nt_jax.models.decode import Sampling
from nt_jax.models.engines import JaxEngine, VllmEngine
from tests import tiny

PROMPTS = [[5, 9, 3, 4], [7], [21, 4, 4], [30, 1, 6, 6, 6, 6, 6]]
NEW = 12
# Speaks vLLM's API; its greedy tokens are those of transformers, one prompt at a time.
FAKE = """
import types, torch, transformers
print("INFO vllm talks on stdout")
class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids, detokenize):
        assert detokenize is False
        self.__dict__.update(dict(t=temperature, new=max_tokens, eos=stop_token_ids))
class LLM:
    def __init__(self, model, *, dtype, skip_tokenizer_init, enable_prefix_caching, seed):
        assert skip_tokenizer_init and dtype == "float32"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model)
    def generate(self, prompts, params, *, use_tqdm):
        print("more talk")
        found = []
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            if ids == [13]:
                raise ValueError("CUDA out of memory, says the fake")
            made = self.model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=params.new, do_sample=False, eos_token_id=params.eos,
            )[0, len(ids):].tolist()
            if params.t:
                made = [int(100 * params.t)]
            output = types.SimpleNamespace(token_ids=made)
            found.append(types.SimpleNamespace(outputs=[output]))
        return found
"""


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "vllm.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_both_engines_give_the_greedy_tokens_of_transformers(fake_vllm):
    folder = tiny.checkpoint("llama3")
    lm = load_model(str(folder), "float32", make_mesh())
    heard = {}
    found = VllmEngine(folder, "float32").answer(
        PROMPTS, NEW, lambda rows, done: heard.update(zip(rows, done, strict=True))
    )
    assert found == JaxEngine(lm, lm.ones_LF, 2).answer(PROMPTS, NEW)
    assert [heard[row] for row in range(len(PROMPTS))] == found
    assert len({tuple(row) for row in found}) == len(PROMPTS)
    assert not any(token in lm.config.eos_ids for row in found for token in row)
    assert "vllm" not in sys.modules


def test_the_temperature_reaches_it(fake_vllm):
    engine = VllmEngine(tiny.checkpoint("llama3"), "float32")
    assert engine.answer([[5]], NEW, sampling=Sampling(0.25)) == [[25]]
    assert engine.answer([], NEW) == []


def test_its_failure_is_told_in_one_line(fake_vllm):
    with pytest.raises(RunError, match=r"after 0 of 2 answers: .*out of memory") as error:
        VllmEngine(tiny.checkpoint("llama3"), "float32").answer([[13], [4]], NEW)
    assert "\n" not in str(error.value)


def test_too_long_prompts_are_refused_before_it_starts(fake_vllm):
    with pytest.raises(DataError, match="prompt 1 of 1 has 120 tokens"):
        VllmEngine(tiny.checkpoint("llama3"), "float32").answer([[5] * 120], NEW)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is here")
def test_without_vllm_one_line_says_what_to_do():
    with pytest.raises(ConfigError, match=r"vLLM is not installed: pip install 'nt_jax\[vllm\]'"):
        VllmEngine(tiny.checkpoint("llama3"))


def test_only_folders_will_do(fake_vllm, tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.gguf is none"):
        VllmEngine(tmp_path / "model.gguf")
