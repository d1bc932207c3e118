"""What every method is fitted on: one run's data, splits, own answers and finished stages."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from nt_jax.attribution.store import load_neurons
from nt_jax.baselines.examples import Examples
from nt_jax.config.method import TuneConfig
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.data.prompts import Prompt, text_of
from nt_jax.data.shipped import shipped_refusal
from nt_jax.errors import DataError
from nt_jax.eval.judges.judge import open_judge
from nt_jax.models.neurons import NeuronSet
from nt_jax.run.contrast import chosen_slopes
from nt_jax.run.preflight import Inputs
from nt_jax.rundir import RunDirectory
from nt_jax.seal import reading
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.own_answers import own_pools
from nt_jax.train.pools import Pair, Pools, attacked_once, safety_rows, with_refusals
from nt_jax.train.validate import (
    ANSWERS,
    ATTACK,
    DIRECT,
    HARMLESS,
    IN_ATTACK,
    NESTED,
    NEW_TOKENS,
    SOUNDS_HARMFUL,
    Look,
    Validation,
    look_at,
)

WHOLE = 128  # tokens of the answers that DINM reads; its release generates up to 600
ASKED = 16  # attacked requests at a time, in search of one that the base model does not refuse


class FittingData:
    """The run that methods are compared within; everything is read when first needed."""

    def __init__(self, config: RunConfig, inputs: Inputs, run: RunDirectory) -> None:
        self.config, self.inputs, self.run = config, inputs, run
        self.model, self.records = inputs.model, inputs.records

    @functools.cached_property
    def whole_validation(self) -> Validation:
        """The validation prompts that tuning looks at."""
        most = self.config.tune.validation_answers or ANSWERS
        return Validation.of(self.records["validation"], most)

    @functools.cached_property
    def validation(self) -> Validation:
        """The validation prompts that every setting of every method is tried on."""
        return self.whole_validation.cut(self.config.compare.validation)

    @functools.cached_property
    def untuned(self) -> Look:
        """Validation of the untuned model: what rises is counted from there."""
        judge, every = open_judge(self.config.eval.judge), self.validation.every
        return look_at(
            self.model, judge, self.validation, self.model.own_answers(every, NEW_TOKENS)
        )

    @functools.cached_property
    def pools(self) -> Pools:
        """The training data as tuning sees them, the base model's own answers included."""
        return self.pools_for(self.config.tune)

    def pools_for(self, tune: TuneConfig) -> Pools:
        """`pools` shared out as other settings of tuning say."""
        folder, train = self.run.read("answers"), self.records["train"]
        return own_pools(self.model, train, folder, self.config.data, tune)

    @functools.cached_property
    def whole_pools(self) -> Pools:
        """`pools` with whole refusals, which methods that read or learn answers need."""
        if self.config.tune.target == "answer":
            return self.pools
        return self.with_whole_refusals(self.pools)

    def with_whole_refusals(self, pools: Pools) -> Pools:
        """The pools with the data's refusals, ours where there is none, in place of openings."""
        rows, ids = self.records["train"].harmful, self.model.answer_ids
        shipped = [row.refusal or shipped_refusal(row.request, row.kind) for row in rows]
        whole = {row.prompt: ids(text) for row, text in zip(rows, shipped, strict=True)}
        return with_refusals(pools, whole)

    @functools.cached_property
    def neurons(self) -> NeuronSet:
        """The run's chosen neurons."""
        return load_neurons(self.run.read("select") / "neurons.csv")[0]

    def slopes(self, neurons: NeuronSet) -> CellSlopes | None:
        """Those of these neurons, where the run has measured them: tuning need not do it again."""
        if self.config.attribution.score != CONTRASTIVE:
            return None
        first, width = self.config.neurons.first_layer, self.model.checkpoint.config.neurons
        return chosen_slopes(self.run.read("attribute"), neurons, first, width)

    @functools.cached_property
    def harmful(self) -> list[tuple[Prompt, list[int]]]:
        """(message, safe answer) of every harmful training request, bare in the share tuned on."""
        return safety_rows(self.whole_pools, 1 << 30, self.config.tune.direct_fraction)

    @functools.cached_property
    def examples(self) -> Examples:
        """The training data as token ids, for methods that read states."""
        encode = self.model.encode
        return Examples(
            harmful=[encode(prompt) for prompt, _ in self.harmful],
            refusals=[answer for _, answer in self.harmful],
            harmless=[encode(prompt) for prompt, _ in self.harmless],
            answers=[answer for _, answer in self.harmless],
        )

    @functools.cached_property
    def validation_examples(self) -> Examples:
        """Validation prompts for thresholds that need no generation; their answers are not read."""
        held, encode, none = self.validation, self.model.encode, [self.model.eos_id]
        harmful = [encode(prompt) for kind in (ATTACK, DIRECT) for prompt in held.prompts[kind]]
        kinds = (HARMLESS, SOUNDS_HARMFUL, IN_ATTACK, NESTED)  # as every setting is judged by
        harmless = [encode(prompt) for kind in kinds for prompt in held.prompts.get(kind, ())]
        return Examples(harmful, [none] * len(harmful), harmless, [none] * len(harmless))

    @property
    def unsafe_answer(self) -> tuple[Prompt, list[int], list[int]]:
        """(attacked message, safe answer, the base model's unsafe answer): the first there is."""
        if self._unsafe_answer is None:
            raise DataError(
                "DINM needs one unsafe answer to unlearn, but the model refuses every attacked "
                f"training request that leaves room for {WHOLE} tokens"
            )
        return self._unsafe_answer

    @functools.cached_property
    def _unsafe_answer(self) -> tuple[Prompt, list[int], list[int]] | None:
        model, judge = self.model, open_judge(self.config.eval.judge)
        room = model.checkpoint.config.max_positions - WHOLE
        pools = (self.whole_pools.local_safety, self.whole_pools.global_safety)
        every = [pair for pool in pools for pair in attacked_once(pool)]
        attacked = [pair for pair in every if len(model.encode(pair.request)) <= room]
        for start in range(0, len(attacked), ASKED):
            pairs = attacked[start : start + ASKED]
            answers = model.answer([pair.request for pair in pairs], WHOLE)
            bare = [text_of(pair.about or pair.request) for pair in pairs]
            refused = judge.verdicts(bare, [model.answer_text(ids) for ids in answers])
            for pair, unsafe, no in zip(pairs, answers, refused, strict=True):
                if unsafe and not no:
                    return pair.request, pair.answer, unsafe
        return None

    @functools.cached_property
    def kept_answer(self) -> tuple[Prompt, list[int]]:
        """(message, the base model's answer) of the first harmless training request."""
        prompt, _ = self.harmless[0]
        (ids,) = self.model.answer([prompt], WHOLE)
        return prompt, ids + ([self.model.eos_id] if len(ids) < WHOLE else [])

    @functools.cached_property
    def harmless(self) -> list[tuple[Prompt, list[int]]]:
        """(message, good answer) of every harmless training request once, attacked ones included.

        Attacked ones are spread among the bare ones, so that a few of the first hold both.
        """
        sides = (self.pools.local_utility, self.pools.global_utility)
        direct = _once(pair for pool in sides for pair in pool.direct)
        attacked = _once(pair for pool in sides for pair in pool.attacked)
        both = (direct, attacked)
        places = [((n + 0.5) / len(rows), row) for rows in both for n, row in enumerate(rows)]
        return [row for _, row in sorted(places, key=lambda place: place[0])]


def _once(pairs: Iterable[Pair]) -> list[tuple[Prompt, list[int]]]:
    """(request, answer) of the pairs, each request once: pools repeat some on purpose."""
    return list({pair.request: (pair.request, pair.answer) for pair in pairs}.values())


def validations_in(folder: Path) -> int:
    """How many validations the tuning in `folder` chose from: of epochs, lifts and strengths."""
    paths = [folder / f"{name}.jsonl" for name in ("metrics", "lifts", "strengths")]
    with reading(folder):
        texts = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
        rows = [json.loads(line) for text in texts for line in text.splitlines()]
    # A strength that was looked at as a lift stands in both files.
    return sum("score" in row and not {"lift", "strength"} <= row.keys() for row in rows)
