"""A made-up `vllm`, for machines without one: its greedy tokens are those of transformers.

It speaks as much of vLLM's API as our worker uses, in the worker's own process.
"""

import importlib
from pathlib import Path

import pytest

SOURCE = """
import types, torch, transformers
print("INFO vllm talks on stdout")
class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids, detokenize):
        assert detokenize is False
        self.__dict__.update(dict(t=temperature, new=max_tokens, eos=stop_token_ids))
class LLM:
    def __init__(
        self, model, *, dtype, max_model_len, skip_tokenizer_init, enable_prefix_caching, seed
    ):
        assert skip_tokenizer_init and dtype == "float32"
        self.room = max_model_len
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model)
    def generate(self, prompts, params, *, use_tqdm):
        print("more talk")
        found = []
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            assert len(ids) + params.new <= self.room
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


def install(folder, monkeypatch) -> None:
    """Let this process and those it starts find it, in `folder`."""
    pytest.importorskip("torch")
    (folder / "vllm.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[1]}")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
