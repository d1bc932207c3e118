"""Data sets of the hub, split by split."""

import os
import re
import socket
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from nt_jax.data.folders import of_one_split
from nt_jax.data.library import library
from nt_jax.errors import DataError

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?::[\w.-]+)?")
_HUB_SECONDS = 5.0


def read_hub(source: str, readers: dict[str, str], options: dict[str, Any]) -> dict[str, list]:
    """Split -> rows of `owner/name` or `owner/name:config`.

    The library gives all splits one set of columns. Where the files of a data set differ in theirs
    (SafeEdit) it cannot, and each file is read by itself with `readers` (suffix -> method of
    datasets.Dataset) under `options`; of several files of a split those count whose name ends in
    it, as in a folder. No hub is asked in the tests: they put local folders in the hub's place.
    """
    if not _HUB_ID.fullmatch(source):
        raise DataError(
            f"'{source}' is neither 'demo', nor a file that exists, nor a hub id such as "
            "owner/name or owner/name:config."
        )
    name, _, config = source.partition(":")
    _require_hub(source)
    with library(source) as (datasets, _):
        from datasets.exceptions import DatasetGenerationError

        try:
            tables = datasets.load_dataset(name, config or None)
            return {str(split): table.to_list() for split, table in tables.items()}
        except DatasetGenerationError:
            files = datasets.load_dataset_builder(name, config or None).config.data_files or {}
            known = all(_suffix(file) in readers for every in files.values() for file in every)
            if not files or not known:
                raise
        rows: dict[str, list] = {}
        for split, every in files.items():
            for file in of_one_split(list(map(str, every))):
                reader = readers[_suffix(file)]
                table = getattr(datasets.Dataset, reader)(file, **options.get(reader, {}))
                rows.setdefault(str(split), []).extend(table.to_list())
        return rows


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _require_hub(source: str) -> None:
    """Fail within seconds when the hub is out of reach; the library would retry for half a minute.

    Not asked behind a proxy, nor under HF_HUB_OFFLINE, where the library answers from its cache.
    """
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline or endpoint.scheme in getproxies() or not endpoint.hostname:
        return
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout=_HUB_SECONDS).close()
    except OSError as error:
        raise DataError(
            f"{source}: cannot reach the hub at {endpoint.hostname} ({error}), and no file of that "
            "name exists here. Name a local file, write 'demo' for the built-in set, or set "
            "HF_HUB_OFFLINE=1 to use the copy of an earlier download."
        ) from error
