"""The `datasets` library, quiet, and what it raises as one line."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nt_jax.errors import DataError, NtError, brief
from nt_jax.limits import parse_json


@contextmanager
def library(source: str) -> Iterator[tuple[Any, str]]:
    """The `datasets` module and a throw-away cache; what it raises inside is one DataError."""
    import datasets  # here, because it costs most of a second

    with _quiet(datasets), tempfile.TemporaryDirectory() as scratch:
        try:
            yield datasets, scratch
        except NtError:
            raise
        except Exception as error:  # it reads formats (HDF5, Lance, tar) by libraries of their own
            raise DataError(_explain(source, error)) from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no log lines: what goes wrong is said once, by the DataError."""
    import huggingface_hub.utils as hub

    loggers = [(log, log.get_verbosity()) for log in (datasets.logging, hub.logging)]
    dataset_bars = datasets.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    for log, _ in loggers:
        log.set_verbosity(log.CRITICAL)
    try:
        yield
    finally:
        for log, level in loggers:
            log.set_verbosity(level)
        if dataset_bars:
            datasets.enable_progress_bars()
        if hub_bars:
            hub.enable_progress_bars()


def _explain(source: str, error: Exception) -> str:
    """One line: the broken line of a JSONL file if there is one, else what the library said."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".jsonl" and path.is_file():
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                wrong = _wrong_line(line)
                if wrong:
                    return f"{source}:{number}: {wrong}. Write one JSON object a line."
    reason = brief(error.__cause__ or error)
    if "corresponds to no data" in reason:  # a CSV of a head alone
        reason = "it has no rows. Give it at least one."
    if "BatchSize must be greater than 0" in reason:  # a parquet file of a head alone
        reason = "it has no rows. Give it at least one."
    if "codec can't decode" in reason:
        reason += ". Save it as UTF-8."
    if "Error tokenizing data" in reason:  # a row of a CSV with more cells than the first
        reason += ". Put texts that hold commas in quotes."
    if path.exists():
        return f"{source}: cannot be read as data: {reason}"
    return (
        f"{source}: the hub gives no such data set: {reason} Check the name at "
        "https://huggingface.co/datasets; for a gated one accept its terms there and log in."
    )


def _wrong_line(line: bytes) -> str:
    if not line.strip():
        return "blank line"  # the library bears these, but not beside columns of mixed types
    try:
        return "" if isinstance(parse_json(line), dict) else "not a JSON object"
    except ValueError as broken:
        return f"not valid JSON ({brief(broken)})"
