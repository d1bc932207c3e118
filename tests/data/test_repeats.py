"""Records on two sides of a cut are counted and said, each text once."""

from nt_jax.config.base import DatasetConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.prompts import Conversation
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.repeats import repeat_lines
from nt_jax.data.training import Records, read_records


def records(harmful=(), harmless=(), templates=()) -> Records:
    return Records(
        [HarmfulRequest(f"h-{text}", text) for text in harmful],
        [HarmlessRequest(f"g-{text}", text) for text in harmless],
        [AttackTemplate(f"t-{n}", text) for n, text in enumerate(templates)],
    )


def test_nothing_is_said_where_all_is_apart():
    apart = {"train": records(["a"], ["b"], ["x {request}"]), "validation": records(["c"], ["d"])}
    assert repeat_lines(apart) == []


def test_each_kind_of_repeat_is_one_line_with_its_count_and_first_rows():
    train = records(["Do it", "do  IT", "kill"], ["bake", "kill", "sing"], ["Now: {request}"])
    validation = records(["other", "KILL"], ["Sing "], ["later {request}", "now:  {request}"])
    assert repeat_lines({"train": train, "validation": validation}) == [
        "1 requests are both harmful and harmless (first: row h-kill and row g-kill): tuning pulls "
        "both ways",
        "1 harmful requests are for both train and validation (first: row h-kill and row h-KILL): "
        "validation is too good",
        "1 harmless requests are for both train and validation (first: row g-sing and row g-Sing ):"
        " validation is too good",
        "1 attack templates are for both train and validation (first: row t-0 and row t-1): "
        "validation is too good",
    ]


def test_the_first_of_several_is_named_and_conversations_are_compared_whole():
    train, validation = records(["a", "b", "b"]), records(["b", "a"])
    (line,) = repeat_lines({"train": train, "validation": validation})
    assert line.startswith("2 harmful requests are for both") and "row h-a and row h-a" in line
    asked = [HarmfulRequest("1", "ok", before=(("user", before),)) for before in ("x", "y")]
    sides = {"train": Records(asked[:1], [], []), "validation": Records(asked[1:], [], [])}
    assert isinstance(asked[0].prompt, Conversation) and repeat_lines(sides) == []


def test_duplicates_across_given_splits_are_found_in_files(tmp_path):
    rows = tmp_path / "h.csv"
    lines = [f"Do harm {n},No.,{part}" for n in range(4) for part in ("train", "validation")]
    rows.write_text("\n".join(["request,refusal,split", *lines]) + "\n")
    parts = read_records(DataConfig(harmful=DatasetConfig(source=str(rows))))
    (line,) = repeat_lines(parts)
    assert line.startswith("4 harmful requests are for both train and validation")
