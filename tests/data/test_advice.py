"""Data that cannot be read as they are: what each message advises is done, and they are read."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from nt_jax.attribution.attack_selection import choose_templates
from nt_jax.attribution.select import check_counts
from nt_jax.config.method import AttributionConfig
from nt_jax.config.schema import DataConfig, EvalConfig
from nt_jax.data.records import AttackTemplate, ChoiceQuestion, HarmfulRequest, HarmlessRequest
from nt_jax.data.sources import load_choices, load_harmful, load_harmless, load_templates
from nt_jax.data.splits import divide
from nt_jax.data.training import Records, check_prompts, read_records
from nt_jax.eval.prompts import test_prompts as prompts_of
from tests.advice import followed

ROWS = [{"request": f"What is {n}?"} for n in range(3)]


def write(path: Path, rows: Iterable[object] = ROWS) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# --- rows ----------------------------------------------------------------------------------------


def columns_that_no_layout_has(folder: Path):
    file = write(folder / "x.jsonl", [{"gaol": "Do harm.", "target": "Sure"}])
    yield lambda: load_harmful(file), r"Nearest is AdvBench \(goal, target\)\. Rename the columns"
    write(folder / "x.jsonl", [{"goal": "Do harm.", "target": "Sure"}])


def columns_that_are_named_by_no_field(folder: Path):
    file = write(folder / "x.jsonl", [{"wish": "What is 1?"}])
    said = "'wish' is no field. Fields: id, request"
    yield lambda: load_harmless(file, columns={"wish": "request"}), said
    yield lambda: load_harmless(file, columns={"request": "wish"})


def a_row_that_is_wrong(folder: Path):
    file = write(folder / "x.jsonl", [*ROWS, {"request": ""}])
    yield lambda: load_harmless(file), r"x.jsonl:4: .*\nCorrect these rows or leave them out"
    write(folder / "x.jsonl")


def a_line_that_is_no_row(folder: Path):
    file = Path(write(folder / "x.jsonl"))
    file.write_text('{"request": "What is 1?"}\n["What is 2?"]\n')
    yield lambda: load_harmless(str(file)), "x.jsonl:2: .*Write one JSON object a line"
    write(file)


def a_row_that_is_null(folder: Path):
    (folder / "x.json").write_text(json.dumps([ROWS[0], None]))
    yield lambda: load_harmless(str(folder / "x.json")), "row 2 is null. Leave it out"
    (folder / "x.json").write_text(json.dumps(ROWS))


def a_file_without_rows(folder: Path):
    file = write(folder / "x.jsonl", [])
    yield lambda: load_harmless(file), "the file is empty. Give it at least one row"
    write(folder / "x.jsonl")


def a_table_without_rows(folder: Path):
    (folder / "x.csv").write_text("request\n")
    yield lambda: load_harmless(str(folder / "x.csv")), "it has no rows. Give it at least one"
    (folder / "x.csv").write_text("request\nWhat is 1?\n")


def a_limit_of_nothing(folder: Path):
    file = write(folder / "x.jsonl")
    said = "limit is 0; it must be 1 or more, or left out for all"
    yield lambda: load_harmless(file, limit=0), said
    yield lambda: [load_harmless(file, limit=1), load_harmless(file)]


def a_split_of_undivided_rows(folder: Path):
    file = write(folder / "x.jsonl")
    said = "the rows are not divided. Leave the split out, or add a column 'split'"
    yield lambda: load_harmless(file, split="test"), said
    load_harmless(file)
    write(folder / "x.jsonl", [row | {"split": "test"} for row in ROWS])


def templates_without_a_slot(folder: Path):
    file = write(folder / "x.jsonl", [{"text": "Say it."}])
    yield lambda: load_templates(file), "Write the slot where the request belongs"
    write(folder / "x.jsonl", [{"text": "Say {request}."}])


def a_template_without_a_slot(folder: Path):
    file = write(folder / "x.jsonl", [{"text": "Say {request}."}, {"text": "Say it."}])
    yield lambda: load_templates(file), r"has no slot: write \{request\} or .* into it"
    write(folder / "x.jsonl", [{"text": "Say {request}."}, {"text": "{request} Say it."}])


def a_template_of_an_unknown_type(folder: Path):
    file = write(folder / "x.jsonl", [{"text": "{request}", "types": ["emotoin"]}])
    yield lambda: load_templates(file), "names 'emotoin'; the types are pretending, .*emotion"
    write(folder / "x.jsonl", [{"text": "{request}", "types": ["emotion"]}])


def the_demo_without_questions(folder: Path):
    row = {"question": "1?", "choices": ["1", "2"], "answer": 0}
    yield lambda: load_choices("demo"), "no choice questions: name a file or a hub id"
    yield lambda: load_choices(write(folder / "x.jsonl", [row]))


def records_without_a_text(folder: Path):
    for make in (HarmfulRequest, HarmlessRequest):
        with pytest.raises(Exception, match=r"is empty\. Give it a text or leave the row out"):
            make("x", " ")
        make("x", "What is 1?")
    said = r"the text has no slot\. Write \{request\} where the request belongs"
    yield lambda: AttackTemplate("t", "Say it."), said
    yield lambda: AttackTemplate("t", "Say {request}.")


def a_question_with_one_choice(folder: Path):
    yield lambda: ChoiceQuestion("q", "1?", ("1",), 0), "1 choices. Give 2 to"
    yield lambda: ChoiceQuestion("q", "1?", ("1", "2"), 0)


# --- files and folders ---------------------------------------------------------------------------


def a_name_that_tells_no_format(folder: Path):
    write(folder / "x.dat")
    said = r"cannot tell the format of '\.dat'\. Name the file \*\.jsonl"
    yield lambda: load_harmless(str(folder / "x.dat")), said
    (folder / "x.dat").rename(folder / "x.jsonl")
    yield lambda: load_harmless(str(folder / "x.jsonl"))


def a_folder_without_data(folder: Path):
    (folder / "README.md").touch()
    yield lambda: load_harmless(str(folder)), r"it holds no \*\.jsonl, .* Name a file"
    yield lambda: load_harmless(write(folder.parent / "x.jsonl"))


def a_folder_of_several_formats(folder: Path):
    file = write(folder / "x.jsonl")
    (folder / "x.csv").write_text("request\nWhat is 1?\n")
    yield lambda: load_harmless(str(folder)), r"several formats \(x.csv, x.jsonl\)\. Name one of t"
    yield lambda: load_harmless(file)


def a_folder_of_several_files(folder: Path):
    write(folder / "x.jsonl")
    file = write(folder / "y.jsonl")
    yield lambda: load_harmless(str(folder)), r"several files .*y.jsonl\)\. Name one of them"
    yield lambda: load_harmless(file)


def a_name_of_two_splits(folder: Path):
    write(folder / "train_test.jsonl")
    yield lambda: load_harmless(str(folder)), "names two splits, train and test. Rename it"
    (folder / "train_test.jsonl").rename(folder / "train.jsonl")


def a_link_out_of_the_folder(folder: Path):
    file = Path(write(folder / "elsewhere" / "x.jsonl"))
    link = folder / "data" / "x.jsonl"
    link.parent.mkdir()
    link.symlink_to(file)
    said = "leads out of the folder, to .* Copy it in, or name the file by its own path"
    yield lambda: load_harmless(str(link.parent)), said
    load_harmless(str(file))
    link.unlink()
    write(link)


def a_test_set_that_is_not_there(folder: Path):
    extra = {"mine": {"source": str(folder / "none.jsonl"), "kind": "harmless"}}
    asked = {"datasets": ["mine"], "extra": extra}
    said = r"A copy of yours is read with eval\.sources\.mine=FILE"
    yield lambda: prompts_of(EvalConfig.model_validate(asked)), said
    own = {"sources": {"mine": write(folder / "x.jsonl")}}
    yield lambda: prompts_of(EvalConfig.model_validate(asked | own))


# --- how much there is ---------------------------------------------------------------------------


def too_few_rows_to_divide(folder: Path):
    rows = [HarmlessRequest(f"u{n}", f"What is {n}?") for n in range(2)]

    def both(rows: list[HarmlessRequest]) -> None:
        for part in ("train", "validation"):
            divide(rows, part, "harmless")

    yield lambda: both(rows[:1]), "Give more rows, or rows with a 'split' column"
    split = [
        HarmlessRequest(f"s{n}", f"Why {n}?", split=part)
        for n, part in enumerate(("train", "validation"))
    ]
    both(split)
    yield lambda: both(rows)


def splits_without_one_to_train_on(folder: Path):
    rows = [
        {"request": f"What is {n}, {name}?", "split": name}
        for n in range(9)
        for name in ("old", "new")
    ]
    file = write(folder / "x.jsonl", rows)

    def parts(**more: str) -> object:
        return read_records(DataConfig.model_validate({"harmless": {"source": file, **more}}))

    yield parts, "no split is called train. Name the one .* of new, old: data.harmless.split=NAME"
    yield lambda: parts(split="old")


def attacks_that_the_records_do_not_hold(folder: Path):
    said = "Give more rows, or set data.attacks=templates"
    yield lambda: read_records(DataConfig(attacks="records")), said
    yield lambda: read_records(DataConfig(attacks="templates"))


def prompts_longer_than_the_context(folder: Path):
    harmful, template = HarmfulRequest("h", "Do harm."), AttackTemplate("t", "{request} Now!")
    harmless = HarmlessRequest("u", "What is the capital of France?")
    parts = {"train": Records([harmful], [harmless], [template])}

    def check(answer: int) -> None:
        check_prompts(
            lambda prompt: [*str(prompt).encode()], parts, 40, answer, "tune.answer_tokens"
        )

    yield lambda: check(20), "does not fit .* Shorten or drop it, or lower tune.answer_tokens"
    check(4)
    parts["train"].harmless[0] = HarmlessRequest("u", "What is 1?")
    yield lambda: check(15)


def too_few_templates_of_a_type(folder: Path):
    mixed = [AttackTemplate(f"t{n}", f"{n} {{request}}", ("emotion",)) for n in range(3)]
    config = AttributionConfig(attack_types=("emotion",), examples_per_type=4)
    said = "Add some, drop the type .*, or set attribution.attack_selection=false"
    yield lambda: choose_templates(mixed, config), said
    more = [*mixed, AttackTemplate("t9", "9 {request}", ("emotion",))]
    choose_templates(more, config)
    other = AttributionConfig(attack_types=("emotion", "pretending"), examples_per_type=3)
    with pytest.raises(Exception, match="of the type 'pretending'"):
        choose_templates(mixed, other)
    choose_templates(mixed, other.model_copy(update={"attack_types": ("emotion",)}))
    both = [*mixed, AttackTemplate("t8", "8 {request}", ("emotion", "pretending"))]
    yield lambda: choose_templates(both, config.model_copy(update={"attack_selection": False}))


def too_few_templates(folder: Path):
    plain = [AttackTemplate(f"t{n}", f"{n} {{request}}", ()) for n in range(3)]
    config = AttributionConfig(attack_types=("emotion", "pretending"), examples_per_type=2)
    said = "Add some, or lower attribution.examples_per_type or the number of attribution.attack_ty"
    yield lambda: choose_templates(plain, config), said
    choose_templates([*plain, AttackTemplate("t9", "9 {request}", ())], config)
    choose_templates(plain, config.model_copy(update={"attack_types": ("emotion",)}))
    yield lambda: choose_templates(plain, config.model_copy(update={"examples_per_type": 1}))


def more_neurons_than_there_are(folder: Path):
    yield lambda: check_counts(90, 7, (2, 48)), "more than the 96 neurons .* Lower one of the two"
    yield lambda: check_counts(89, 7, (2, 48))


def layers_that_leave_no_neuron(folder: Path):
    yield lambda: check_counts(1, 1, (2, 48), 2), "leaves none of .* Take a number below 2"
    yield lambda: check_counts(1, 1, (2, 48), 1)


@pytest.mark.parametrize(
    "case",
    [
        columns_that_no_layout_has, columns_that_are_named_by_no_field, a_row_that_is_wrong,
        a_line_that_is_no_row, a_row_that_is_null, a_file_without_rows, a_table_without_rows,
        a_limit_of_nothing, a_split_of_undivided_rows, templates_without_a_slot,
        a_template_without_a_slot, a_template_of_an_unknown_type, the_demo_without_questions,
        records_without_a_text, a_question_with_one_choice, a_name_that_tells_no_format,
        a_folder_without_data, a_folder_of_several_formats, a_folder_of_several_files,
        a_name_of_two_splits, a_link_out_of_the_folder, a_test_set_that_is_not_there,
        too_few_rows_to_divide, splits_without_one_to_train_on,
        attacks_that_the_records_do_not_hold, prompts_longer_than_the_context,
        too_few_templates_of_a_type, too_few_templates, more_neurons_than_there_are,
        layers_that_leave_no_neuron,
    ],
    ids=lambda case: case.__name__,
)  # fmt: skip
def test_what_the_message_advises_works(case, tmp_path):
    followed(case(tmp_path))
