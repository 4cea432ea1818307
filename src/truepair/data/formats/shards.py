"""Several files named by one path: a folder, a glob pattern, or a range of shard numbers."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from truepair.data.images import what_else
from truepair.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

_PATTERN = re.compile(r"[*?\[]")

_MOST_FILES = 1_000_000

LEADS_NOWHERE = "it is a link that leads nowhere"


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several files by pattern."""
    return bool(_RANGE.search(str(path)) or _PATTERN.search(str(path)))


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, sorted; and the links among them that lead nowhere.

    Raises:
        DataError: a folder cannot be looked into.
    """
    files, dead = list[Path](), list[Path]()
    for file in walk(folder):
        (dead if file.is_symlink() and not file.exists() else files).append(file)
    return sorted(files), sorted(dead)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. Links are followed, wherever they lead, but not round in a circle.

    Raises:
        DataError: a folder cannot be looked into.
    """
    above = {str(folder): {os.path.realpath(folder)}}  # real names of each folder and of those that it was reached by
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        way = above.pop(place)
        reached = {name: os.path.realpath(Path(place, name)) for name in folders}
        folders[:] = [name for name in folders if reached[name] not in way]
        above |= {str(Path(place, name)): way | {reached[name]} for name in folders}
        yield from (Path(place, name) for name in names)


def _refuse(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be looked into ({error.strerror}); correct its permissions")


def expand(path: Path, suffix: str) -> list[Path]:
    """Files that a path stands for, sorted by name (ranges in their own order).

    Args:
        path: a file; a folder, for all files below it that end in ``suffix``; a glob pattern; or a range such as
            ``shard-{000..331}.tar``.
        suffix: ending of the files of a folder.

    Raises:
        DataError: there is no such file, or a shard of a range is missing.
    """
    if _RANGE.search(str(path)):
        return _range(path)
    if path.is_dir():
        files, dead = files_below(path)
        found = [file for file in files if file.name.lower().endswith(suffix) and not file.name.startswith(".")]
        lost = [link for link in dead if link.name.lower().endswith(suffix)]
        if lost:
            raise DataError(f"{lost[0]} is a link that leads nowhere; correct or remove it")
    elif not path.is_file() and _PATTERN.search(str(path)):
        pattern = path.relative_to(path.anchor) if path.anchor else path
        found = sorted(Path(path.anchor or ".").glob(str(pattern)))
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise DataError(f"no {suffix} file at {path}; check the path")
    other = next((file for file in found if file.exists() and not file.is_file()), None)
    if other is not None:  # to open a pipe would wait for its writer
        raise DataError(f"{other} is {what_else(other)}, not a file; take it out of {path}")
    return found


def names_of(files: Sequence[Path]) -> list[str]:
    """What files are called in ids and messages: by name, or by their places below a shared folder if names repeat."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    shared = os.path.commonpath([file.absolute().parent for file in files])
    return [file.absolute().relative_to(shared).as_posix() for file in files]


def _range(path: Path) -> list[Path]:
    found = [str(path)]
    while match := _RANGE.search(found[0]):
        first, last = int(match[1]), int(match[2])
        if not first <= last or (last - first + 1) * len(found) > _MOST_FILES:
            raise DataError(
                f"the range {match[0]} of {path} does not count upwards, or names too many files; correct it"
            )
        width = len(match[1])
        start, end = match.span()
        found = [f"{name[:start]}{number:0{width}}{name[end:]}" for name in found for number in range(first, last + 1)]
    files = [Path(name) for name in found]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} shards of {path} are missing, the first {missing[0]}; correct the range"
        )
    return files
