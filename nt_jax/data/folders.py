"""Which files of a folder are data, and of which split: told from their names alone.

Nothing that a README says about the folder is obeyed, and no file outside it is read.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from nt_jax.errors import DataError

SPLIT_WORDS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
_ORDER = ("train", "validation", "dev", "test", None)
_NO_DATA = {"readme", "license", "licence", "citation", "dataset_infos", "dataset_info",
            "dataset_dict", "state"}  # fmt: skip
# The hub numbers the parts of a split: train-00000-of-00002, at times with a hash behind it.
_PART = re.compile(r"[-_]\d+-of-\d+(?:-[0-9a-f]{8,})?$|(?:^|[-_.])\d+$")

Named = TypeVar("Named", Path, str)


def data_files(folder: Path, formats: dict[str, str]) -> list[tuple[Path, str | None]]:
    """(file, its split) of a folder, split by split; None where no name says a split.

    `formats`: suffix -> format. Files lie in the folder, in `data/` below it, or in a folder that
    has a split's name; elsewhere the files of a split have one name and a number each. Where a name
    ends in the split's name (`SafeEdit_test.json`), longer names of that split
    (`SafeEdit_test_ALL.json`) are other data, read by their own path only. Raises a DataError where
    there are none, where names or formats are mixed, or where one leads out.
    """
    root = folder.resolve()
    found = [path for place in _places(folder, root) for path in _files(place, root, formats)]
    if not found:
        known = ", ".join(f"*{suffix}" for suffix in formats)
        raise DataError(f"{folder}: cannot be read as data: it holds no {known}. Name a file.")
    if len({formats[path.suffix.lower()] for path in found}) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(f"{folder}: holds files of several formats ({listed}). Name one of them.")
    by_split: dict[str | None, list[Path]] = {}
    for path in found:
        by_split.setdefault(split_of(path.relative_to(folder), folder), []).append(path)
    held = by_split.get("validation", [])
    dev = [path for path in held if "dev" in _words(path.stem) or path.parent.name.lower() == "dev"]
    if len(dev) < len(held):  # MMLU has both
        by_split |= {"validation": [path for path in held if path not in dev], "dev": dev}
    if len(by_split) > 1:
        by_split.pop(None, None)  # beside a split, what names none is something else
    chosen = {split: of_one_split(by_split.get(split, []), folder) for split in _ORDER}
    for split, paths in chosen.items():
        _refuse_several(folder, split, paths)
    return [(path, split) for split, paths in chosen.items() for path in paths]


def _refuse_several(folder: Path, split: str | None, paths: Sequence[Path]) -> None:
    """Raises a DataError where a split has files of several names: nobody can tell what to read."""
    loose = [path for path in paths if path.parent.name.lower() not in SPLIT_WORDS]
    if len({(path.parent, _PART.sub("", path.stem)) for path in loose}) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in loose)
        what = f"of the split {split}" if split else "that name no split"
        raise DataError(f"{folder}: holds several files {what} ({listed}). Name one of them.")


def split_of(path: Path, folder: Path | str = "") -> str | None:
    """The split that the words of a path's names say, if any."""
    words = [word for part in path.with_suffix("").parts for word in _words(part)]
    splits = list(dict.fromkeys(SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS))
    if len(splits) > 1:
        raise DataError(f"{folder}: {path} names two splits, {' and '.join(splits)}. Rename it.")
    return splits[0] if splits else None


def as_usual(split: str) -> str:
    """A split's name; train, validation or test for their other names (Train, val, dev)."""
    name = split.strip()
    return SPLIT_WORDS.get(name.lower(), name)


def of_one_split(paths: Sequence[Named], folder: Path | str = "") -> list[Named]:
    """Of files that name one split, those whose name ends in it; all of them where none does."""
    plain = [path for path in paths if _ends_in_split(str(path).removeprefix(str(folder)))]
    return plain or list(paths)


def _ends_in_split(path: str) -> bool:
    place = Path(path)
    words = _words(_PART.sub("", place.stem))
    return bool(words and words[-1] in SPLIT_WORDS) or place.parent.name.lower() in SPLIT_WORDS


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def _places(folder: Path, root: Path) -> list[Path]:
    """The folder, `data/` in it, and the folders of splits in either."""
    found = [folder]
    for place in (folder, folder / "data"):
        below = (
            sorted(entry for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []
        )
        names = {"data", *SPLIT_WORDS} if place == folder else set(SPLIT_WORDS)
        found += [_inside(entry, folder, root) for entry in below if entry.name.lower() in names]
    return found


def _files(place: Path, root: Path, formats: Collection[str]) -> list[Path]:
    return [
        _inside(path, place, root)
        for path in sorted(place.iterdir())
        if path.suffix.lower() in formats
        and not path.name.startswith(".")
        and path.stem.lower() not in _NO_DATA
        and not path.is_dir()
    ]


def own_places(folder: Path) -> list[Path]:
    """Where the files of a resolved folder may really lie: in it, or among the blobs of its cache.

    The hub's cache keeps files apart; what it calls a snapshot is a folder of links to them.
    """
    blobs = [place.parent / "blobs" for place in folder.parents if place.name == "snapshots"]
    return [folder, *blobs]


def _inside(path: Path, folder: Path, root: Path) -> Path:
    """The path itself, once it is known not to lead out of the folder."""
    target = path.resolve()
    if not any(target.is_relative_to(place) for place in own_places(root)):
        raise DataError(
            f"{folder}: {path.name} leads out of the folder, to {target}. Copy it in, or name the "
            "file by its own path."
        )
    return path
