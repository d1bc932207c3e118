"""vLLM behind a pipe: one job as JSON on stdin, a JSON line per finished batch on stdout.

Runs in its own process, so that its memory is free again afterwards and nothing that it prints or
sets meets ours. Started by vllm_engine.py; imports nothing of ours.
"""

import json
import os
import sys

BATCH = 256  # prompts between two reports; vLLM itself decides how many it decodes side by side


def main() -> None:
    """Answer the job on stdin."""
    job = json.load(sys.stdin)
    # vLLM and its children print where they like; the answers alone go to what was stdout.
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Only here: it takes seconds, and most of us do without it.
    import vllm  # pyright: ignore[reportMissingImports]

    model = vllm.LLM(
        model=job["folder"],
        dtype=job["dtype"],
        max_model_len=job["max_length"],  # no more cache than these prompts need
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
        seed=job["seed"],
    )
    settings = vllm.SamplingParams(
        temperature=job["temperature"],
        max_tokens=job["max_new"],
        stop_token_ids=job["eos_ids"],
        detokenize=False,
    )
    prompts = job["prompts"]
    for start in range(0, len(prompts), BATCH):
        rows = list(range(start, min(start + BATCH, len(prompts))))
        asked = [{"prompt_token_ids": prompts[row]} for row in rows]
        made = model.generate(asked, settings, use_tqdm=False)
        tokens = [list(map(int, one.outputs[0].token_ids)) for one in made]
        print(json.dumps({"rows": rows, "tokens": tokens}), file=reports, flush=True)


if __name__ == "__main__":
    main()
