"""Loading: records from the demo set, a file, a directory or a hub id, whatever its layout."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nt_jax.data import records
from nt_jax.data.folders import as_usual
from nt_jax.data.prompts import split_turns, text_of, with_text
from nt_jax.data.schemas import (
    CHOICE,
    HARMFUL,
    HARMLESS,
    Schema,
    first_of,
    match,
    own_schema,
    plain_name,
)
from nt_jax.data.tables import Row, read_table
from nt_jax.data.values import READ, SLOT_SPELLINGS, read_text
from nt_jax.errors import DataError

DEMO = Path(__file__).parent / "demo"
SHOWN_PROBLEMS = 10
LaidOut = tuple[Row, Schema]


def load_harmful(
    source: str = "demo", split: str | None = None, limit: int | None = None, **reading: Any
) -> list[records.HarmfulRequest]:
    """The harmful requests of a source in their order, at least one, at most `limit` a split.

    `reading` may hold `columns` (field -> column, in place of a known layout), `undivided` (a
    source without splits is read whole even if a split was named), and a list `notes`, to which a
    line is added on each layout that leaves columns aside.
    """
    return _load(source, split, limit, "harmful", HARMFUL, records.HarmfulRequest, **reading)


def load_harmless(
    source: str = "demo", split: str | None = None, limit: int | None = None, **reading: Any
) -> list[records.HarmlessRequest]:
    """The harmless requests of a source, as `load_harmful` loads harmful ones."""
    return _load(source, split, limit, "harmless", HARMLESS, records.HarmlessRequest, **reading)


def load_choices(
    source: str, split: str | None = None, limit: int | None = None, **reading: Any
) -> list[records.ChoiceQuestion]:
    """The questions with lettered choices of a source, as `load_harmful` loads requests."""
    if source == "demo":
        raise DataError("the demo set has no choice questions: name a file or a hub id.")
    return _load(source, split, limit, "choice", CHOICE, records.ChoiceQuestion, **reading)


def load_templates(
    source: str = "demo",
    split: str | None = None,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[records.AttackTemplate]:
    """The attack templates of a source in their order, at least one; at most `limit` of each split.

    The text is the column that holds "{request}" or "[INSERT PROMPT HERE]"; a .txt file has one
    template a line. A column "types" (a list or comma-joined names) is optional.
    """
    name, rows = _rows(source, "templates")
    if columns:
        schema = own_schema(name, columns, records.AttackTemplate, "text")
        _check_columns(name, rows, schema)
    else:
        column = _slot_column(name, rows)
        fields = {"id": "id?", "text": column, "types": "types?"}
        schema = Schema("templates", (column,), fields)
    laid_out = [(row, schema) for row in _of_split(name, rows, split)]
    return _records(name, _first_of_each_split(name, laid_out, limit), records.AttackTemplate)


def _load(
    source,
    split,
    limit,
    demo_file: str,
    schemas,
    record,
    columns: Mapping[str, str] | None = None,
    undivided: bool = False,
    notes: list[str] | None = None,
) -> list:
    name, rows = _rows(source, demo_file)
    if undivided and not any(row.split for row in rows):
        split = None
    chosen = _of_split(name, rows, split)
    if columns:
        schema = own_schema(name, columns, record, "request")
        _check_columns(name, rows, schema)
        laid_out = [(row, schema) for row in chosen]
    else:
        laid_out = _laid_out(name, chosen, schemas, f"{demo_file} requests")
    if notes is not None and source != "demo" and not columns:
        notes += _left_aside(name, laid_out)
    return _records(name, _first_of_each_split(name, laid_out, limit), record)


def _laid_out(name: str, rows: list[Row], schemas, wanted: str) -> list[LaidOut]:
    """Each row with its layout, which the files of a source need not share."""
    known: dict[tuple[str, ...], Schema] = {}
    found = []
    for row in rows:
        columns = tuple(row.values)
        if columns not in known:
            known[columns] = match(name, columns, schemas, wanted)
        schema = known[columns]
        if _get(row, schema.column("request")) is None:  # a file gives each row the columns of all
            schema = first_of([name for name, x in row.values.items() if x], schemas) or schema
        found.append((row, schema))
    kept = [(row, schema) for row, schema in found if _wanted(row, schema)]
    if not kept:
        column, value = found[0][1].only
        raise DataError(f"{name}: no row has {column} = '{value}', so there is nothing to load.")
    return kept


def _check_columns(name: str, rows: list[Row], schema: Schema) -> None:
    """Raises a DataError where a column that the user named holds nothing in any row."""
    for column in schema.columns:
        if not any(_get(row, column) not in (None, "") for row in rows):
            there = ", ".join(dict.fromkeys(str(name) for row in rows for name in row.values))
            said = f"columns: no row has anything in '{column}'"
            raise DataError(f"{name}: {said}. Name one of: {there}.")


def _left_aside(name: str, rows: list[LaidOut]) -> list[str]:
    """What is not read, in words, layout by layout."""
    found: dict[str, dict[str, None]] = {}
    sounding = dict.fromkeys(schema.name for _, schema in rows if schema.constants)
    for row, schema in rows:
        unread = (c for c, x in row.values.items() if x and plain_name(c) not in schema.known)
        found.setdefault(schema.name, {}).update(dict.fromkeys(unread))
    return [f"{name}: read as '{layout}': all of it only sounds harmful" for layout in sounding] + [
        f"{name}: read as '{layout}', not read: {', '.join(columns)}"
        for layout, columns in found.items()
        if columns
    ]


def _wanted(row: Row, schema: Schema) -> bool:
    if schema.only is None:
        return True
    column, value = schema.only
    return str(_get(row, column)).strip().lower() == value


def _rows(source: str, demo_file: str) -> tuple[str, list[Row]]:
    name = str(DEMO / f"{demo_file}.jsonl") if source == "demo" else source
    return name, read_table(name)


def _of_split(name: str, rows: list[Row], split: str | None) -> list[Row]:
    """The rows of one split, or all of them."""
    if split is None:
        return rows
    present = sorted({row.split for row in rows if row.split})
    if not present:
        raise DataError(
            f"{name}: split '{split}' was asked for, but the rows are not divided. Leave the split "
            "out, or add a column 'split' with train, validation or test."
        )
    wanted, there = _spelt(split), {_spelt(name) for name in present}
    same = [name for name in there if as_usual(name) == as_usual(wanted)]
    if wanted not in there and len(same) == 1:  # a folder's dev.jsonl is its validation
        (wanted,) = same
    if wanted not in there:
        raise DataError(f"{name}: no split '{split}'; it has {', '.join(present)}.")
    return [row for row in rows if row.split and _spelt(row.split) == wanted]


def _spelt(split: str) -> str:
    """Rows that say "Train" and "train " are of one split."""
    return split.strip().lower()


def _first_of_each_split(name: str, rows: list[LaidOut], limit: int | None) -> list[LaidOut]:
    """At most `limit` rows of each split: a cut over all rows would lose the later splits."""
    if limit is not None and limit < 1:
        raise DataError(f"{name}: limit is {limit}; it must be 1 or more, or left out for all.")
    seen: Counter[str | None] = Counter()
    kept = []
    for row, schema in rows:
        seen[row.split] += 1
        if limit is None or seen[row.split] <= limit:
            kept.append((row, schema))
    return kept


def _records(name: str, rows: list[LaidOut], record) -> list:
    """One record a row, or one error that lists the bad rows.

    An id that another file or split has, too, gets the name of its own before it.
    """
    made, problems, seen, taken = [], [], dict[tuple, Row](), set[str]()
    for row, schema in rows:
        values, wrong = _fields(row, schema)
        if "before" in values and record is records.ChoiceQuestion:
            wrong.append(f"{row.where}: a choice question is one text, no list of messages")
        values["id"] = values.get("id") or f"{Path(name).stem}-{row.number:04d}"
        own = (row.file, row.split, values["id"])
        if (first := seen.setdefault(own, row)) is not row:
            wrong.append(f"{row.where}: id '{values['id']}' is also that of {first.where}")
        values["id"] = _its_own(values["id"], row, taken)
        taken.add(values["id"])
        problems += wrong
        if not wrong:
            made.append(record(**values, split=row.split))
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        layouts = ", ".join(dict.fromkeys(schema.name for _, schema in rows))
        raise DataError(
            "\n".join(shown) + f"\nCorrect these rows or leave them out (layout: {layouts})."
        )
    return made


def _its_own(name: str, row: Row, taken: Collection[str]) -> str:
    """An id that no other row has: files and splits count from one each."""
    file = Path(row.file).stem
    marks = [row.split, file, f"{row.split}-{file}", f"{row.split}-{file}-{row.number}"]
    ids = [name, *(f"{mark}-{name}" for mark in marks if mark)]
    return next((each for each in ids if each not in taken), ids[-1])


def _fields(row: Row, schema: Schema) -> tuple[dict[str, Any], list[str]]:
    """The record's fields from one row, and what is wrong with it."""
    values: dict[str, Any] = dict(schema.constants)
    wrong = []
    for field in schema.fields:
        column, optional = schema.column(field), schema.optional(field)
        value = _get(row, column)
        try:
            value = READ.get(field, read_text)(value)
        except ValueError as error:
            wrong.append(f"{row.where}: '{column}' {error}")
            continue
        if value in (None, "", ()) and not optional:
            wrong.append(f"{row.where}: '{column}' is missing or empty")
        elif value is not None:
            values[field] = value
    below = _get(row, schema.below) if schema.below else None
    if below and "request" in values:
        request = values["request"]
        values["request"] = with_text(request, text_of(request) + f"\n\n{below}".rstrip())
    return split_turns(values), wrong


def _get(row: Row, column: str) -> Any:
    """The value under a plain column name; "a.b" reaches into a nested row, or is a name itself."""
    value: Any = row.values
    whole = any(plain_name(name) == column for name in value)
    for part in [column] if whole else column.split("."):
        if not isinstance(value, dict):
            return None
        value = next((cell for name, cell in value.items() if plain_name(name) == part), None)
    return value


def _slot_column(name: str, rows: list[Row]) -> str:
    """The plain name of the column that holds templates."""
    for row in rows:
        for column, value in row.values.items():
            if isinstance(value, str) and any(slot in value for slot in SLOT_SPELLINGS):
                return plain_name(column)
    raise DataError(
        f"{name}: no column holds {' or '.join(SLOT_SPELLINGS)} "
        f"(columns: {', '.join(rows[0].values)}). Write the slot where the request belongs."
    )
