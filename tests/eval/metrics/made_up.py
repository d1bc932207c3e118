"""Made-up answers to choice questions, small and fixed."""


def made_up_choices() -> list[dict]:
    """40 questions: base has 30 right by letter and writes 20 right, tuned 25 and 10."""
    rows = []
    for model, letters, written in (("base", 30, 20), ("tuned", 25, 10)):
        for n in range(40):
            parsed = 1 if n < written else (None if n % 2 else 0)
            rows.append({
                "dataset": "mmlu", "id": str(n), "model": model, "key": 1,
                "letter": 1 if n < letters else 3, "answer": "...", "parsed": parsed,
            })  # fmt: skip
    return rows


def kept(rows: list[dict], kind: str) -> list[dict]:
    """The rows without what was not measured: only letters, or only written answers."""
    other = {"letter": ("answer", "parsed"), "parsed": ("letter",)}[kind]
    return [{key: value for key, value in row.items() if key not in other} for row in rows]
