"""Published data sets that some machines have; tests that read them skip where they are absent."""

from pathlib import Path

import pytest

FOLDER = Path("/work/shared/data")
needs_shared_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not here")
FILES = {
    "advbench": "advbench/harmful_behaviors.csv",
    "alpaca": "alpaca/alpaca_first1805.jsonl",
    "alpaca_eval": "alpaca_eval/alpaca_eval.jsonl",
    "truthfulqa": "truthfulqa/generation.jsonl",
    "mmlu": "mmlu/test.jsonl",
    "mmlu_dev": "mmlu/dev.jsonl",
    "or_bench_hard": "or_bench/or-bench-hard-1k.csv",
    "oktest": "oktest/OKTest.csv",
    "strongreject": "strongreject/strongreject_dataset.csv",
    "maliciousinstruct": "malicious_instruct/malicious_instruct.csv",
}
SOURCES = {name: str(FOLDER / file) for name, file in FILES.items()}
