"""The sizes of published models, as their config.json has them: enough to plan without weights."""

from typing import NamedTuple

from nt_jax.models.config import ModelConfig, RopeConfig


class Shape(NamedTuple):
    """Where a model is published, and its sizes."""

    source: str
    family: str
    vocab_size: int
    width: int
    neurons: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    max_positions: int

    @property
    def config(self) -> ModelConfig:
        """What memory and time depend on; positions and token ids are not said."""
        return ModelConfig(
            self.family, self.vocab_size, self.width, self.neurons, self.layers, self.heads,
            self.kv_heads, self.head_dim, 1e-5, RopeConfig(), self.family == "qwen2", False,
            self.tied, self.max_positions, (), None, None,
        )  # fmt: skip


SHAPES = {
    "smollm2-135m": Shape("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 49152, 576, 1536, 30, 9,
                          3, 64, True, 8192),
    "smollm2-360m": Shape("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 49152, 960, 2560, 32, 15,
                          5, 64, True, 8192),
    "smollm2-1.7b": Shape("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 49152, 2048, 8192, 24,
                          32, 32, 64, True, 8192),
    "llama2-7b": Shape("meta-llama/Llama-2-7b-chat-hf", "llama", 32000, 4096, 11008, 32, 32, 32,
                       128, False, 4096),
    "llama3.1-8b": Shape("meta-llama/Llama-3.1-8B-Instruct", "llama", 128256, 4096, 14336, 32, 32,
                         8, 128, False, 131072),
    "llama3.2-1b": Shape("meta-llama/Llama-3.2-1B-Instruct", "llama", 128256, 2048, 8192, 16, 32, 8,
                         64, True, 131072),
    "qwen2.5-0.5b": Shape("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 151936, 896, 4864, 24, 14, 2, 64,
                          True, 32768),
    "qwen2.5-1.5b": Shape("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 151936, 1536, 8960, 28, 12, 2, 128,
                          True, 32768),
    "qwen2.5-7b": Shape("Qwen/Qwen2.5-7B-Instruct", "qwen2", 152064, 3584, 18944, 28, 28, 4, 128,
                        False, 32768),
    "qwen2.5-14b": Shape("Qwen/Qwen2.5-14B-Instruct", "qwen2", 152064, 5120, 13824, 48, 40, 8, 128,
                         False, 32768),
    "qwen2.5-32b": Shape("Qwen/Qwen2.5-32B-Instruct", "qwen2", 152064, 5120, 27648, 64, 40, 8, 128,
                         False, 32768),
    "llama3.1-70b": Shape("meta-llama/Llama-3.1-70B-Instruct", "llama", 128256, 8192, 28672, 80, 64,
                          8, 128, False, 131072),
    "llama3.1-405b": Shape("meta-llama/Llama-3.1-405B-Instruct", "llama", 128256, 16384, 53248, 126,
                           128, 8, 128, False, 131072),
}  # fmt: skip


def published(source: str) -> Shape | None:
    """The shape of what is published at a hub id; None for one that is not in the table."""
    return next((shape for shape in SHAPES.values() if shape.source == source), None)
