"""What the forward pass depends on beside the weights: sizes, rotary positions, biases, tokens."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position settings; `kind` is default, linear or llama3."""

    kind: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_max: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """Everything the forward pass depends on besides the weights; hashable, so it can be static."""

    family: str
    vocab_size: int
    width: int
    neurons: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    rope: RopeConfig
    qkv_bias: bool
    qk_norm: bool
    tied: bool
    max_positions: int
    eos_ids: tuple[int, ...]
    bos_id: int | None
    pad_id: int | None
    int8: bool = field(default=False, repr=False)  # matrices are kept so (nt_jax/models/int8.py)

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each dimension letter that occurs in a weight."""
        return {
            "L": self.layers, "D": self.width, "F": self.neurons, "N": self.heads,
            "K": self.kv_heads, "H": self.head_dim, "V": self.vocab_size,
        }  # fmt: skip
