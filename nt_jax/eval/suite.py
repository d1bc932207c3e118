"""The test sets: their prompts, and answers to all of them on disk, the verdict beside each."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nt_jax.data.records import HarmfulRequest, HarmlessRequest
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.errors import RunError
from nt_jax.eval.refusal import Judge

HARMLESS_IN_ATTACKS = 60  # three per template


@dataclasses.dataclass(frozen=True)
class TestPrompt:
    """One test prompt: the bare request, what the model is shown, and what set it belongs to."""

    __test__ = False  # pytest would take the name for a test class

    dataset: str
    id: str
    request: str
    prompt: str
    harmful: bool
    template: str = ""
    types: tuple[str, ...] = ()


def demo_attack() -> list[TestPrompt]:
    """Each test request inside one test template; neither occurs in tuning."""
    return _inside_attacks("demo_attack", load_harmful("demo", "test"), True)


def demo_direct() -> list[TestPrompt]:
    """The same test requests without any attack."""
    rows = load_harmful("demo", "test")
    return [TestPrompt("demo_direct", row.id, row.request, row.request, True) for row in rows]


def demo_harmless() -> list[TestPrompt]:
    """Harmless test requests, a third of which only sound harmful."""
    rows = load_harmless("demo", "test")
    return [TestPrompt("demo_harmless", row.id, row.request, row.request, False) for row in rows]


def demo_harmless_attack() -> list[TestPrompt]:
    """Harmless test requests inside the test templates: does a model read past the attack?"""
    rows = load_harmless("demo", "test")[:HARMLESS_IN_ATTACKS]
    return _inside_attacks("demo_harmless_attack", rows, False)


def _inside_attacks(
    dataset: str, rows: Sequence[HarmfulRequest | HarmlessRequest], harmful: bool
) -> list[TestPrompt]:
    """Each request inside one test template, all templates used equally often."""
    templates = load_templates("demo", "test")
    prompts = []
    for place, row in enumerate(rows):
        template = templates[place % len(templates)]
        prompts.append(
            TestPrompt(
                dataset, row.id, row.request, template.apply(row.request), harmful,
                template.id, template.types,
            )
        )  # fmt: skip
    return prompts


DATASETS: dict[str, Callable[[], list[TestPrompt]]] = {
    "demo_attack": demo_attack,
    "demo_direct": demo_direct,
    "demo_harmless": demo_harmless,
    "demo_harmless_attack": demo_harmless_attack,
}


def test_prompts(names: Iterable[str], limit: int | None) -> list[TestPrompt]:
    """The prompts of the named test sets, at most `limit` of each."""
    return [prompt for name in names for prompt in DATASETS[name]()[:limit]]


test_prompts.__test__ = False  # type: ignore[attr-defined]


class AnswerFile:
    """answers.jsonl of one model: appended batch by batch, so that a killed run loses one batch."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[tuple[str, str], dict] = {}
        if path.exists():
            # A kill may cut the last line within a letter. Not splitlines: answers hold U+2028.
            with path.open(encoding="utf-8", errors="replace") as file:
                whole = list(file)
            kept = [line for line in whole if line.endswith("}\n")]  # a cut last line goes
            self.rows = {self._key(row): row for row in map(json.loads, kept)}
            if kept != whole:
                path.write_text("".join(kept), encoding="utf-8")

    @staticmethod
    def _key(row: dict) -> tuple[str, str]:
        return row["dataset"], row["id"]

    def missing(self, prompts: Sequence[TestPrompt]) -> list[TestPrompt]:
        """The prompts that have no answer yet."""
        return [prompt for prompt in prompts if (prompt.dataset, prompt.id) not in self.rows]

    def add(self, model: str, prompts: Sequence[TestPrompt], answers: Sequence[str]) -> None:
        """Append answers, flushed to disk before the next batch starts."""
        rows = [
            {**dataclasses.asdict(prompt), "model": model, "answer": answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.rows |= {self._key(row): row for row in rows}

    def judged(self, prompts: Sequence[TestPrompt], judge: Judge) -> list[dict]:
        """The answers in the order of `prompts`, each with its verdict under "refused"."""
        try:
            rows = [self.rows[prompt.dataset, prompt.id] for prompt in prompts]
        except KeyError as error:
            raise RunError(f"{self.path} lacks the answer to {error}. Delete it; repeat.") from None
        verdicts = judge.verdicts([p.request for p in prompts], [row["answer"] for row in rows])
        return [row | {"refused": no} for row, no in zip(rows, verdicts, strict=True)]
