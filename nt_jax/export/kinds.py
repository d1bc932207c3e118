"""How a card speaks of each format, and the lines that use what was exported.

The lines run as they stand in the folder of the export, and those of hf, ia3 and lora from anywhere
once it is pushed; where the base has no hub id, once its place on the reader's disk is put in.
"""

import json
from typing import NamedTuple

from nt_jax.checkpoints.chat_template import THINKING


class Kind(NamedTuple):
    """How a format is spoken of."""

    what: str
    library: str
    use: str
    undo: str
    relation: str = "adapter"  # to the base, as the hub calls it

    @property
    def language(self) -> str:
        """What the lines are in."""
        return "bash" if "llama-server" in self.use else "python"


_ASK = """\
chat = [{{"role": "user", "content": "What can you do for me?"}}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"{thinking}
)
answer = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
_HF = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

place = "{{place}}"
tokenizer = AutoTokenizer.from_pretrained(place)
model = AutoModelForCausalLM.from_pretrained(place)
{_ASK}"""
_PEFT = f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{{base}}"{{where}}
tokenizer = AutoTokenizer.from_pretrained(base{{at}})
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base{{at}}), "{{place}}")
{_ASK}"""
_FACTORS = """\
import nt_jax as nt

model = nt.load_model("{base}"{at}){where}
factors = nt.load_factors(".", model.checkpoint)  # this folder, or where it was downloaded to
nt.save_model(model, factors, "tuned")"""
_GGUF_LORA = "llama-server -m {base} --lora lora.gguf{thinking}{where}"

_BASE_AGAIN = "The base model itself is the way back: dividing by a factor is not exact."
_TAKE_OFF = "Loading the base without it undoes everything."
KINDS = {
    "hf": Kind("A copy", "transformers", _HF, _BASE_AGAIN, "finetune"),
    "ia3": Kind("An (IA)^3 adapter", "peft", _PEFT, _TAKE_OFF),
    "lora": Kind("A LoRA adapter", "peft", _PEFT, _TAKE_OFF),
    "gguf-lora": Kind("A LoRA adapter for llama.cpp", "gguf", _GGUF_LORA, _TAKE_OFF),
    "gguf": Kind(
        "A GGUF copy", "gguf", "llama-server -m model.gguf{thinking}", _BASE_AGAIN, "finetune"
    ),
    "factors": Kind("The factors", "nt_jax", _FACTORS, _TAKE_OFF),
}


def use_of(
    kind: str,
    base: str,
    base_id: str | None,
    repo: str | None = None,
    revision: str | None = None,
    thinking: bool | None = None,
) -> str:
    """The lines that use a format; `repo` is where it was pushed to, `revision` the base's.

    `thinking` is what the chat template is told, where it asks.
    """
    at = f", revision={json.dumps(revision)}" if revision else ""
    where = "" if base_id else "  # put in the path of the base model"
    called = base_id or base
    if kind == "gguf-lora" and not base.endswith(".gguf"):
        called, where = "BASE.gguf", "  # the base as GGUF: export --strength 0 --format gguf"
    elif KINDS[kind].library == "peft" and base.endswith(".gguf"):
        called = "BASE"  # PEFT cannot open a GGUF file
        where = "  # the base as a folder: nt_jax.export --run RUN --strength 0 --out BASE"
    known = {"base": called, "at": at, "where": where, "place": repo or "."}
    return KINDS[kind].use.format(**known, thinking=_told(KINDS[kind], thinking))


def _told(kind: Kind, thinking: bool | None) -> str:
    """What the chat template is told, as an argument or an option."""
    if thinking is None:
        return ""
    if kind.language == "python":
        return f", {THINKING}={thinking}"
    return f" --chat-template-kwargs '{json.dumps({THINKING: thinking})}'"
