"""Measuring and exporting: what each message advises is done, and the same command works."""

import importlib.util
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from nt_jax.config.load import load_config
from nt_jax.config.schema import EvalConfig
from nt_jax.eval.answering import check_tests
from nt_jax.eval.judges.judge import check_judges, open_judge
from nt_jax.eval.prompts import Tests
from nt_jax.eval.prompts import test_prompts as prompts_of
from nt_jax.export import folder as export_folder
from nt_jax.export import gguf, lora
from nt_jax.export.folder import Wanted
from nt_jax.export.hf import export_hf
from nt_jax.generate.chat import open_model
from nt_jax.generate.served import Server
from nt_jax.run.log import check_log
from tests import tiny
from tests.advice import followed
from tests.export.test_adapters import factors_of
from tests.generate.openai_twin import Twin

SHAPE = (tiny.LAYERS, 48)
FACTORS = np.full(SHAPE, 1.5, np.float32)


def tiny_model(name: str = "smollm2"):
    return open_model(str(tiny.checkpoint(name)))


def write_model(to: Path) -> None:
    export_hf(tiny_model().checkpoint, FACTORS, to)


# --- prompts and judges --------------------------------------------------------------------------


def prompts_without_room_for_an_answer(folder: Path):
    model = tiny.copy("smollm2", folder / "model")
    tiny.edit_json(model / "config.json", max_position_embeddings=1024)

    def check(new: int) -> None:
        config = EvalConfig(limit=2, datasets=("demo_direct",), max_new_tokens=new)
        check_tests(open_model(str(model)), Tests(prompts_of(config), []), config)

    yield lambda: check(1020), r"Shorten or drop it, or lower eval\.max_new_tokens"
    yield lambda: check(6)


def a_judge_of_no_kind(folder: Path):
    del folder

    def asked(judge: str) -> object:
        return load_config("smollm2-135m", [f"eval.judges=['{judge}']"])

    yield lambda: asked("phrase"), "did you mean 'phrases'|use KIND or KIND:SOURCE, of .*phrases"
    yield lambda: asked("phrases")


def a_judge_that_opens_as_no_kind(folder: Path):
    del folder
    said = "'phrase' is no judge: use KIND or KIND:SOURCE, of phrases, "
    yield lambda: open_judge("phrase"), said
    yield lambda: open_judge("phrases")


# --- packages: where they are missing, and where they have been installed -------------------------


def hidden(name: str):
    """`find_spec` of an environment without a package."""
    found = importlib.util.find_spec
    return lambda asked, *rest: None if asked == name else found(asked, *rest)


def a_classifier_without_torch(folder: Path):
    kind = {"architectures": ["BertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", hidden("torch"))
        said = r"needs torch, which is not installed: pip install 'nt_jax\[judge\]'"
        yield lambda: check_judges([f"classifier:{folder}"]), said
    pytest.importorskip("torch")


def a_log_without_its_package(folder: Path):
    del folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", hidden("tensorboardX"))
        said = r"needs the package tensorboardX: pip install 'nt_jax\[log\]'"
        yield lambda: check_log(["tensorboard"]), said
    pytest.importorskip("tensorboardX")


def completion_without_its_package(folder: Path):
    from nt_jax.completion import completion

    del folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "shtab", None)
        yield lambda: completion("bash"), r"needs the package shtab: pip install 'nt_jax\[shell\]'"
    pytest.importorskip("shtab")


# --- servers -------------------------------------------------------------------------------------


def a_model_that_is_not_served(folder: Path):
    del folder
    twin = Twin()
    said = "serves tuned, plain, and not 'other'. Set eval.served to what it serves"
    yield lambda: Server(twin.url, "other").check(), said
    yield lambda: Server(twin.url, "tuned").check()
    twin.close()


def a_server_that_is_not_there(folder: Path):
    del folder
    twin = Twin()
    url = twin.url
    twin.close()
    said = r"no answer from .*: start the server, then repeat this command"
    yield lambda: Server(url, "tuned").check(), said
    again = Twin(port=int(url.split(":")[2].partition("/")[0]))
    yield lambda: Server(url, "tuned").check()
    again.close()


# --- exports -------------------------------------------------------------------------------------


def a_folder_that_is_there_already(folder: Path):
    write_model(folder / "out")
    said = r"out exists already\. Choose another name"
    yield lambda: write_model(folder / "out"), said
    write_model(folder / "other")
    shutil.rmtree(folder / "out")


def a_disk_that_is_too_small(folder: Path):
    usage = namedtuple("usage", "total used free")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_folder.shutil, "disk_usage", lambda _: usage(10, 5, 5))
        yield lambda: write_model(folder / "out"), "Free some space or choose another disk"


def factors_that_change_nothing(folder: Path):
    model, factors = tiny_model(), factors_of()
    alike = type(factors)(factors.neurons, np.ones_like(factors.theta_P))
    said = "every factor is 1, .*; the untuned model itself is --format hf"
    yield lambda: lora.write(model, alike, folder / "out", Wanted()), said
    yield lambda: export_hf(model.checkpoint, np.ones(SHAPE, np.float32), folder / "out")


def a_tokenizer_that_llama_cpp_does_not_know(folder: Path):
    model = tiny.copy("llama2", folder / "model")
    text = (model / "tokenizer.json").read_text()
    text = text.replace('"normalizer":null', '"normalizer":{"type":"Lowercase"}')
    (model / "tokenizer.json").write_text(
        text.replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}')
    )
    said = r"Export --format hf and make the GGUF file of it with llama\.cpp's convert_hf_to_gguf"
    read = open_model(str(model))
    yield lambda: gguf.write(read, factors_of(), folder / "out", Wanted()), said
    yield lambda: export_hf(read.checkpoint, FACTORS, folder / "out")


@pytest.mark.parametrize(
    "case",
    [
        prompts_without_room_for_an_answer, a_judge_of_no_kind, a_judge_that_opens_as_no_kind,
        a_classifier_without_torch, a_log_without_its_package, completion_without_its_package,
        a_model_that_is_not_served, a_server_that_is_not_there, a_folder_that_is_there_already,
        a_disk_that_is_too_small, factors_that_change_nothing,
        a_tokenizer_that_llama_cpp_does_not_know,
    ],
    ids=lambda case: case.__name__,
)  # fmt: skip
def test_what_the_message_advises_works(case, tmp_path):
    followed(case(tmp_path))
