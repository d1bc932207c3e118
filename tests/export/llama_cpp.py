"""llama.cpp's own server, from a prebuilt wheel, on a port of this machine."""

import json
import urllib.request
from pathlib import Path

import pytest


class Server:
    """A model, with an adapter where given, served in float32 by one thread."""

    def __init__(self, model: Path, lora: Path | None = None, context: int = 128):
        llama = pytest.importorskip("xllamacpp", reason="llama.cpp is in the extra `test`")
        params = llama.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = str(model), context, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup, params.verbosity, params.n_gpu_layers = False, -1, 0
        wide = llama.ggml_type.GGML_TYPE_F32
        params.cache_type_k = params.cache_type_v = wide
        off = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = off
        if lora is not None:
            params.lora_adapters = [llama.CommonAdapterLoraInfo(str(lora), 1.0)]
        self._server = llama.Server(params)
        self.url = self._server.listening_address
        assert self.url.startswith("http://127.0.0.1:")

    def post(self, path: str, **body):
        """The reply to a JSON request."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read())

    def get(self, path: str):
        """The reply to a GET."""
        with urllib.request.urlopen(self.url + path, timeout=120) as reply:
            return json.loads(reply.read())

    def greedy(self, ids, tokens: int, ignore_eos: bool = True) -> tuple[list[int], float]:
        """(the tokens after a prompt, the log-probability of the first one)."""
        reply = self.post(
            "/completion", prompt=[*map(int, ids)], n_predict=tokens, temperature=0, n_probs=1,
            return_tokens=True, ignore_eos=ignore_eos, cache_prompt=False,
        )  # fmt: skip
        return reply["tokens"], reply["completion_probabilities"][0]["logprob"]

    def tokens(self, text: str) -> list[int]:
        """How it cuts a text, in which special tokens are theirs."""
        return self.post("/tokenize", content=text, parse_special=True)["tokens"]
