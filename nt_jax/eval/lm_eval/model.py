"""Our models as lm-evaluation-harness sees them (extra `lm-eval`, which brings no torch).

In Python: `lm_eval.simple_evaluate(model=JaxLM("runs/NAME"), tasks=[...])`. Contexts are cut at
the left where they do not fit the model, as the harness's own models do it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval.utils as harness  # pyright: ignore[reportMissingImports]
from jax import Array
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]

from nt_jax.checkpoints.chat_template import TEMPLATE_DATE, dated
from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.checkpoints.tokenizer import decode, load_tokenizer
from nt_jax.checkpoints.vocabulary import known_ids
from nt_jax.data.batching import bucket
from nt_jax.errors import ConfigError, DataError
from nt_jax.finished import model_source
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.decode import Sampling
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.likelihood import answer_scores
from nt_jax.mesh import make_mesh, row_ways

LOGITS = 1 << 27  # entries of one batch's logits at most: 512 MiB


class JaxLM(TemplateLM):
    """A model of ours as the harness sees it: texts in, log-likelihoods and texts out."""

    def __init__(
        self,
        model: str | ChatModel,
        dtype: str = "float32",
        batch_size: int = 32,
        data: int = 1,
        ways: int = 1,
        thinking: bool = False,
        scale_LF: Array | None = None,
    ):
        """`model`: run directory, HF folder, GGUF file or hub id; the mesh is data x ways.

        Or a model that is open already, whose type and mesh are its own. `scale_LF`: factors.
        """
        super().__init__()
        self.thinking = thinking
        if isinstance(model, str):
            checkpoint = open_checkpoint(model_source(model))
            self.tokenizer: Any = load_tokenizer(checkpoint)
            self.lm = load_weights(checkpoint, dtype, make_mesh(data, ways))
        else:
            checkpoint, self.tokenizer, self.lm = model.checkpoint, model.tokenizer, model.lm
        self.scale_LF = self.lm.ones_LF if scale_LF is None else scale_LF
        self.batch_size, self.max_length = batch_size, checkpoint.config.max_positions
        self._name = str(checkpoint.path)

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        ids = self.lm.config.eos_ids
        return ids[0] if ids else self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by: BOS where there is one, else EOS."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """A name that tells caches of different tokenizers apart."""
        return self._name.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a BOS that the text (a chat template's) already starts with is not doubled."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))
        ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return known_ids(self.tokenizer, ids, string, self.lm.config.vocab_size)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The chat as the text that the model reads.

        Where its template takes no system message, that stands above the first question. Raises a
        DataError where it does not take the chat either.
        """
        try:
            return self._templated(chat_history, add_generation_prompt)
        except TemplateError as error:
            first, *rest = chat_history
            if first["role"] != "system" or not rest:
                said = " ".join(str(error).split())[:200]
                raise DataError(f"the chat template takes no such chat ({said}).") from error
            asked = rest[0] | {"content": f"{first['content']}\n\n{rest[0]['content']}"}
            return self.apply_chat_template([asked, *rest[1:]], add_generation_prompt)

    def _templated(self, chat_history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            enable_thinking=self.thinking,
            date_string=TEMPLATE_DATE,
            chat_template=dated(self.tokenizer.get_chat_template()),
        )
        return str(text)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the greedy continuation) of token ids."""
        answers = [answer[-self.max_length :] for _, _, answer in requests]
        # The last answer token is never read, so context and answer may be one longer than that.
        contexts = [
            context[-(self.max_length + 1 - len(answer)) :]
            for (_, context, _), answer in zip(requests, answers, strict=True)
        ]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        groups: dict[int, list[int]] = {}
        for row, answer in enumerate(answers):
            groups.setdefault(bucket(len(answer)), []).append(row)
        ways = row_ways(self.lm.mesh)
        for width, rows in groups.items():
            fitting = max(ways, LOGITS // (width * self.lm.config.vocab_size) // ways * ways)
            size, mine = min(self.batch_size, fitting), [contexts[row] for row in rows]
            said = [answers[row] for row in rows]
            nll, greedy = answer_scores(self.lm, self.scale_LF, mine, said, batch_size=size)
            for row, one, same in zip(rows, nll, greedy, strict=True):
                found[row] = (-float(one), bool(same))
                if requests[row][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[row][0], found[row])
        return found

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, in windows of the model's context."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            cut = harness.get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            for window in cut:
                windows.append((None, *harness.make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Continuations, cut before the first stop text; requests of like settings run together."""
        texts, groups = [""] * len(requests), {}
        for row, request in enumerate(requests):
            options = normalize_gen_kwargs(request.args[1])
            key = (options["max_gen_toks"], temperature_of(options))
            groups.setdefault(key, []).append((row, options["until"]))
        for (new, temperature), members in groups.items():
            new = min(new, self.max_length - 1)
            room = self.max_length - new
            encoded = (self.tok_encode(requests[row].args[0])[-room:] for row, _ in members)
            prompts = [ids or [self.prefix_token_id] for ids in encoded]
            answers = answer_prompts(
                self.lm, self.scale_LF, prompts, max_new=new, batch_size=self.batch_size,
                sampling=Sampling(temperature),
            )  # fmt: skip
            for (row, until), answer in zip(members, answers, strict=True):
                texts[row] = before(decode(self.tokenizer, answer), until)
                self.cache_hook.add_partial("generate_until", requests[row].args, texts[row])
        return texts


def temperature_of(options: Mapping[str, Any]) -> float:
    """The temperature to draw at, 0 for greedy; a ConfigError for another way of drawing."""
    temperature = float(options.get("temperature") or 0.0) if options["do_sample"] else 0.0
    others = {"top_p": (None, 1), "top_k": (None, 0, -1), "min_p": (None, 0)}
    for name, nothing in others.items():
        if temperature and options.get(name) not in nothing:
            raise ConfigError(
                f"the task draws with {name}={options[name]}, which our engine does not do: it "
                f"draws from the whole softmax. Take {name} out of its generation_kwargs."
            )
    return temperature


def before(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first place where any of `stops` begins."""
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=None)]
