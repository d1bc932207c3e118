"""What every section of the settings is made of, and where a set of records comes from."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """A section: unknown keys are errors, values cannot change, defaults are checked too."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # the text below a key is its description in the help
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, raw: Any) -> Any:
        return {} if raw is None else raw  # YAML reads `tune:` with nothing below it as null

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """The value itself; pydantic would quietly take `true` (or YAML's `yes`) for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        several = value if isinstance(value, list | tuple) else ()
        if any(isinstance(each, bool) for each in (value, *several)) and kind is not bool:
            raise ValueError("must not be true or false (YAML also reads yes, no, on, off so)")
        return value


class DatasetConfig(Frozen):
    """Where one set of records comes from."""

    source: str = Field(default="demo", min_length=1)
    """demo, a JSON / JSONL / CSV / parquet / TXT file, a folder of them, or a hub id"""
    split: str | None = None
    """split to read; null = the source's own splits"""
    limit: int | None = Field(default=None, ge=1)
    """read at most this many of each split; null = all"""
    columns: dict[str, str] = Field(default={})
    """field: column, where the layout is none of the known ones, e.g. {request: my_column}"""


def conflict(key: str, value: Any, rule: str) -> PydanticCustomError:
    """An error about two keys that do not fit; `key` tells the loader which line to point at."""
    return PydanticCustomError("conflict", "{rule}", {"rule": rule, "key": key, "value": value})
