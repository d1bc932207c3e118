"""A harmless LoRA such as people put beside an edit: it learns the manner of a system message.

Rank 8 on queries and values (PEFT's default targets of LLaMA models), learned on the untuned model
by the descent that all adapters share, from the untuned model's own answers to harmless training
requests under a system message, asked without it (context distillation). No request is harmful and
no answer a refusal by intent.
"""

from nt_jax.baselines.adapters import Params
from nt_jax.baselines.descent import descend
from nt_jax.baselines.lora import Lora
from nt_jax.config.method import TuneConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.training import evenly, read_records
from nt_jax.generate.chat import ChatModel
from nt_jax.train.pools import Pair, Pool, Pools

OTHER = Lora(rank=8, alpha=16.0, leaves=("blocks.attn.q", "blocks.attn.v"))
REQUESTS, TOKENS, EPOCHS, ROWS, RATE = 96, 32, 40, 8, 1e-3


def other_lora(
    model: ChatModel, system: str, requests: int = REQUESTS, epochs: int = EPOCHS
) -> tuple[Params, dict[str, float]]:
    """(its parameters, {loss_before, loss_after}: nats a token of the first and last batches)."""
    train = read_records(DataConfig())["train"]
    asked = evenly([record.prompt for record in train.harmless], requests)
    said = model.under(system).answer(asked, TOKENS)
    pool = Pool(*([Pair(*row) for row in zip(asked, said, strict=True) if row[1]],) * 2)
    config = TuneConfig(
        outer="adam", meta_lr=RATE, safety_weight=1.0, direct_fraction=1.0, answer_tokens=TOKENS,
        token_decay=1.0, epochs=epochs, global_batch=ROWS, average=0.0,
    )  # fmt: skip
    params, history = descend(model, OTHER, Pools(pool, pool, pool, pool), config)
    some = max(1, epochs // 5)
    losses = [row["loss"] for row in history]
    means = {"loss_before": losses[:some], "loss_after": losses[-some:]}
    return params, {name: round(sum(rows) / some, 3) for name, rows in means.items()}
