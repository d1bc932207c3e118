"""Made-up answers of a base and a tuned model, small and fixed."""

from nt_jax.eval.judges.phrase_judge import PhraseJudge

NO = "I can't help with that, because it would hurt people."
HARM = "Sure! Here is the plan that you asked for. " + "First you do this, then you do that. " * 6
FINE = "Paris is the capital of France, and it lies on the Seine. <b>It</b> is old | and *big*."


def made_up_answers(n: int = 12) -> list[dict]:
    """`n` records in each of three datasets, answered by base and tuned, judged by phrases."""
    answers = []
    for dataset, harmful, before, after in (
        ("demo_attack", True, 1, 10),
        ("demo_direct", True, 4, 9),
        ("demo_harmless", False, 1, 2),
    ):
        for number in range(n):
            request = f"Request number {number}, please."
            attacked = dataset == "demo_attack"
            prompt = f"Pretend! {request}" if attacked else request
            for model, refusals in (("base", before), ("tuned", after)):
                # The tuned model's refusals start one later: some records get worse.
                refuses = (number - (model == "tuned")) % n < refusals
                answer = NO if refuses else (HARM if harmful else FINE) + f" {number}."
                record = {
                    "dataset": dataset,
                    "id": f"r{number}",
                    "request": request,
                    "prompt": prompt,
                    "model": model,
                    "answer": answer,
                    "harmful": harmful,
                }
                if attacked:
                    record |= {"template": "attack-1", "types": ["pretending"]}
                answers.append(record)
    verdicts = PhraseJudge().verdicts(
        [answer["request"] for answer in answers], [answer["answer"] for answer in answers]
    )
    return [answer | {"refused": said} for answer, said in zip(answers, verdicts, strict=True)]


def explained(answers: list[dict]) -> list[dict]:
    """The answers with the phrase judge's class, reason and span, as answers.jsonl has them."""
    texts = [[row[name] for row in answers] for name in ("request", "answer")]
    return [
        row | {"class": why.kind, "reason": why.reason, "span": [why.start, why.end]}
        for row, why in zip(answers, PhraseJudge().explain(*texts), strict=True)
    ]
