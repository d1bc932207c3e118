"""What a judge is: a name, a hash of its rules, and verdicts. One file a kind of judge.

A kind of judge is a module with `open_judge(source, load_model)`, `check(source)`, which raises
before any work where it is not there, `identity(source)`, a text that tells its rules and files
apart, and `called(source)`, the judge's name. nt_jax/config/registry.py lists them.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nt_jax.config.evaluation import split_judge
from nt_jax.config.registry import JUDGES, load
from nt_jax.errors import ConfigError

if TYPE_CHECKING:  # metrics and reports are read without jax
    from nt_jax.generate.chat import ChatModel

THINKING = re.compile(r"<(think|thinking|reasoning|thought)>.*?(?:</\1>|\Z)", re.S | re.I)
LoadModel = Callable[[str], "ChatModel"]  # a source to a model, as the evaluation runs it


class Judge(Protocol):
    """Anything that can tell refusals: `judge=` of nt.evaluate and nt.tune.

    Write any class with these three; nothing need be inherited. An own judge in three lines:

        class Sorry:
            name, sha256 = "sorry", "1"
            def verdicts(self, requests, answers):
                return ["sorry" in answer.lower() for answer in answers]

    To name a judge in eval.judges, give its module a line in nt_jax/config/registry.py.
    """

    name: str
    """stands beside every number that it made"""
    sha256: str
    """tells its rules apart: change it with them, and nothing judged before counts any more"""

    def verdicts(self, requests: Sequence[str], answers: Sequence[str]) -> Sequence[float]:
        """1 (or True) per answer that refuses, 0 if it does not, 0.5 where the judge cannot tell.

        As many as `answers`, in their order. `requests` are the bare questions, without attacks; an
        answer may be empty. Called with any number of answers, of any sets and models: a verdict
        must depend on its own row alone.
        """
        ...

    # A judge may also have `explain(requests, answers)`: per answer an object with kind, reason,
    # start and end. answers.jsonl then holds them as class, reason and span, and the rate of
    # answers of the kind "partial" is shown (phrase_judge.py does).


JudgeToOpen = tuple[str, Callable[[], Judge]]  # what it is called on the screen, how to open it


def open_judge(spec: str, load_model: LoadModel | None = None) -> Judge:
    """The judge of one entry of eval.judges: KIND or KIND:SOURCE."""
    kind, source = _kind(spec)
    return kind.open_judge(source, load_model)


def judges_to_open(specs: Sequence[str], load_model: LoadModel) -> list[JudgeToOpen]:
    """Each entry of eval.judges and how to open it, when its turn comes."""
    return [(spec, functools.partial(open_judge, spec, load_model)) for spec in specs]


def check_judges(specs: Sequence[str]) -> None:
    """Raises, before any work, for one that is not there, or two of one name; reads no weights."""
    known: dict[str, str] = {}
    for spec in specs:
        kind, source = _kind(spec)
        kind.check(source)
        name = kind.called(source)
        if name in known:
            raise ConfigError(
                f"eval.judges: '{known[name]}' and '{spec}' are both called {name}, so their "
                "verdicts could not be told apart. Leave one out, or rename its folder."
            )
        known[name] = spec


def judges_hash(specs: Sequence[str], *others: str) -> str:
    """sha256 of the judges' rules and files, and of `others`: a path may hold another tomorrow.

    A classifier of the hub counts by its name. Reads no weights but those of local classifiers.
    """
    digest = hashlib.sha256()
    for spec in specs:
        kind, source = _kind(spec)
        digest.update(kind.identity(source).encode())
    for other in others:
        digest.update(other.encode())
    return digest.hexdigest()


def without_thinking(answer: str) -> str:
    """The answer after its reasoning; reasoning that was cut off leaves nothing."""
    text = THINKING.sub(" ", answer)
    return text.split("</think>")[-1].strip()  # templates often open the tag inside the prompt


def _kind(spec: str) -> tuple[Any, str]:
    name, source = split_judge(spec)
    if name not in JUDGES or JUDGES[name].takes_source != bool(source):
        raise ConfigError(f"'{spec}' is no judge: use KIND or KIND:SOURCE, of {', '.join(JUDGES)}.")
    return load(JUDGES[name].module), source
