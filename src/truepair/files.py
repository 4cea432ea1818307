"""Files and folders that are there as a whole or not at all: written aside, brought to the disk, renamed."""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from truepair.errors import DataError, TruepairError

_ADVICE = "free some space, or choose another place"

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)

_WRITTEN = itertools.count(secrets.randbelow(1 << 40))  # processes of two machines may have the same number

_ASIDE = re.compile(r"\.((?P<process>\d+)-\d+\.partial|tmp)$")  # the latter of former versions


@contextmanager
def writing_file(
    final: Path, *, error: type[TruepairError] | None = DataError, advice: str = _ADVICE
) -> Iterator[BinaryIO]:
    """Open a file to write, which takes its name when the block ends well; until then a former file stays.

    A reader never sees half of it, whether the process is killed or the machine loses its power. Folders that are
    missing are made. A link stays, and what it leads to is written; a pipe or a device is written as it is.

    Args:
        final: where the file will be.
        error: what a refusal of the disk is raised as; None for the OSError itself, where the caller has more to say.
        advice: what the message tells to do.

    Raises:
        TruepairError: of the kind ``error``: the disk is full, say. What was written aside is removed.
    """
    final = Path(os.path.realpath(final)) if final.is_symlink() else final
    aside = _own_place(final)
    with one_line_errors(final, error, advice):
        if final.exists() and not final.is_file() and not final.is_dir():
            with final.open("wb") as file:
                yield file
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(final)
            sync(final.parent)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what is told
                aside.unlink()


def write_text(final: Path, text: str, *, error: type[TruepairError] | None = DataError, advice: str = _ADVICE) -> None:
    """Write a text file in UTF-8; see :func:`writing_file`.

    Raises:
        TruepairError: of the kind ``error``: the disk is full, say.
    """
    with writing_file(final, error=error, advice=advice) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # half a character of a strange file name, say


def write_json(
    final: Path, value: Any, *, error: type[TruepairError] | None = DataError, advice: str = _ADVICE
) -> None:
    """Write a value as JSON, see :func:`as_json`; and :func:`writing_file` for the rest.

    Raises:
        TruepairError: of the kind ``error``: the disk is full, say.
    """
    with writing_file(final, error=error, advice=advice) as file:
        for part in json.JSONEncoder(indent=1, allow_nan=False).iterencode(finite(value)):  # never whole in memory
            file.write(part.encode("utf-8"))


def as_json(value: Any) -> str:
    """A value as one line of JSON. JSON has no NaN and no infinity: a number that is not finite is null.

    Args:
        value: of the types that JSON knows.
    """
    return json.dumps(finite(value), allow_nan=False)


def finite(value: Any) -> Any:
    """The value with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        parts = {key: finite(part) for key, part in value.items()}
        same = isinstance(value, dict) and all(parts[key] is value[key] for key in parts)
        return value if same else parts  # what needs no change is not held twice
    if isinstance(value, list | tuple):
        items = [finite(part) for part in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


@contextmanager
def writing_folder(
    final: Path, *, shared: bool = False, error: type[TruepairError] | None = DataError, advice: str = _ADVICE
) -> Iterator[Path]:
    """Make a folder to write into, which takes its name when the block ends well; until then a former one stays.

    Args:
        final: where the folder will be.
        shared: several processes may write the same folder at once; the first to end wins, and its folder stays.
            Otherwise there is one writer, who clears what a killed one has left aside.
        error: what a refusal of the disk is raised as; None for the OSError itself, where the caller has more to say.
        advice: what the message tells to do.

    Raises:
        TruepairError: of the kind ``error``: the disk is full, say. What was written aside is removed.
    """
    aside = _own_place(final) if shared else final.with_name(f".{final.name}.partial")
    with one_line_errors(final, error, advice), by_final_name(aside, final):
        discard(aside)
        if not shared:
            _bring_back(final)
        try:
            aside.mkdir(parents=True)
            yield aside
            for path in aside.rglob("*"):
                sync(path)
            if not shared:
                move_folder(aside, final)
            elif not final.is_dir():
                _move_unless_there(aside, final)
        finally:
            discard(aside)


def move_folder(aside: Path, final: Path) -> None:
    """Give a folder that is complete its name; one that has the name is removed once the new one stands.

    Raises:
        OSError: the disk refuses; then the former folder stays.
    """
    former = _former(final)
    _bring_back(final)
    for leftover in (former, _removed(final)):
        discard(leftover)
    if os.path.lexists(final):
        final.rename(former)
    try:
        aside.rename(final)
    except BaseException:
        _bring_back(final)
        raise
    sync(final.parent)
    discard(former)


@contextmanager
def writing_together(
    folder: Path,
    seal: str,
    optional: Collection[str] = (),
    *,
    error: type[TruepairError] | None = DataError,
    advice: str = _ADVICE,
) -> Iterator[Path]:
    """Make files of a folder that belong together, and that take their names when the block ends well.

    What else lies in the folder stays. The list of the files' sums is there before any of them: a reader that asks
    :func:`require_whole` never takes files of two calls.

    Args:
        folder: where the files will be.
        seal: name of the list.
        optional: files that not every call makes; one of an earlier call is removed then.
        error: what a refusal of the disk is raised as; None for the OSError itself, where the caller has more to say.
        advice: what the message tells to do.

    Yields:
        A folder to write them into.

    Raises:
        TruepairError: of the kind ``error``: the disk is full, say. What was written aside is removed.
    """
    aside = folder / f".{seal}.partial"
    with one_line_errors(folder, error, advice), by_final_name(aside, folder):
        discard(aside)
        try:
            aside.mkdir(parents=True)
            yield aside
            sums = {path.name: _sum_of(path) for path in sorted(aside.iterdir())}
            for name in sums:
                sync(aside / name)
            write_json(folder / seal, sums, error=None)
            for name in sums:
                (aside / name).replace(folder / name)
            for name in set(optional) - sums.keys():
                (folder / name).unlink(missing_ok=True)
            sync(folder)
        finally:
            discard(aside)


def require_whole(folder: Path, seal: str, remedy: str, *, error: type[TruepairError] = DataError) -> None:
    """Check that files which :func:`writing_together` made are of one call; those without a list are of older versions.

    Args:
        folder: theirs.
        seal: name of the list.
        remedy: what the message tells to do.
        error: what is raised.

    Raises:
        TruepairError: of the kind ``error``: one is of another call, is gone, or was changed.
    """
    for name, stated in _sealed(folder / seal).items():
        try:
            same = _sum_of(folder / name) == stated
        except OSError:
            same = False
        if not same:
            raise error(f"{folder / name} is damaged, or of another call than the files beside it; {remedy}")


def remove_folder(folder: Path) -> None:
    """Remove a folder, or whatever has its name; under its name it is whole until it is gone.

    Raises:
        OSError: the disk refuses.
    """
    aside = _removed(folder)
    discard(aside)
    folder.rename(aside)
    discard(aside)


def discard(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, whatever its permissions; what is not there is."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return
    _open_up(path)
    for folder, names, _ in os.walk(path):
        for name in names:
            _open_up(Path(folder, name))
    shutil.rmtree(path, ignore_errors=True)


def clear_asides(folder: Path, name: str) -> None:
    """Remove what killed processes left in a folder while they wrote a file or folder aside.

    What a process that still runs writes there stays; so only for files that one process writes at a time.

    Args:
        folder: where the files are.
        name: of the file or folder that was to be written, as a pattern.
    """
    for aside in folder.glob(f".{name}.*"):
        found = _ASIDE.search(aside.name)
        if found is not None and not _is_another(int(found["process"] or 0)):
            discard(aside)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk, so that a loss of power leaves it there.

    Raises:
        OSError: the disk refuses.
    """
    if os.name != "posix":  # other systems open no folders, and sync no file that is open to read
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def one_line_errors(final: Path, error: type[TruepairError] | None, advice: str) -> Iterator[None]:
    """Turn what the disk refuses into one line.

    Args:
        final: what is being written.
        error: the error to raise; None lets the OSError pass.
        advice: what the message tells to do.

    Raises:
        TruepairError: of the kind ``error``.
    """
    try:
        yield
    except TruepairError:  # told already
        raise
    except Exception as refusal:
        reason = _reason(refusal)
        if error is None or reason is None:
            raise
        raise error(f"could not write {final}: {reason}; {advice}") from refusal


@contextmanager
def by_final_name(aside: Path, final: Path) -> Iterator[None]:
    """Let errors of what is written aside name what is to become of it."""
    try:
        yield
    except TruepairError as error:
        told = str(error).replace(str(aside), str(final))
        if told == str(error):
            raise
        raise type(error)(told) from error


def _reason(refusal: Exception) -> str | None:
    """What the system says; libraries of Rust and C++ put it into their own words. None for another kind of error."""
    found = re.search(r"\((?:os error|errno) (\d+)\)|\[errno (\d+)\]", str(refusal), re.IGNORECASE)
    if found is not None:
        return os.strerror(int(found[1] or found[2]))
    named = (os.strerror(number) for number in _OF_DISKS)
    said = next((words for words in named if words in str(refusal)), None)
    if said is not None:
        return said
    return refusal.strerror or str(refusal) if isinstance(refusal, OSError) else None


def _sum_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sealed(seal: Path) -> dict[str, str]:
    """Names and sums; none where there is no list, and one that cannot be the sum of anything where it is damaged."""
    try:
        stated = json.loads(seal.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        stated = None
    return stated if isinstance(stated, dict) else {seal.name: ""}


def _removed(folder: Path) -> Path:
    """Where a folder goes that is being removed."""
    return folder.with_name(f".{folder.name}.removed")


def _former(final: Path) -> Path:
    """Where a folder waits for the one that takes its place."""
    return final.with_name(f".{final.name}.former")


def _bring_back(final: Path) -> None:
    """Give a folder its name back whose successor never got it: its writer was killed."""
    if not os.path.lexists(final) and os.path.lexists(_former(final)):
        _former(final).rename(final)


def _own_place(final: Path) -> Path:
    """A place beside it that no other process or thread writes to."""
    return final.with_name(f".{final.name}.{os.getpid()}-{next(_WRITTEN)}.partial")


def _move_unless_there(aside: Path, final: Path) -> None:
    try:
        aside.rename(final)
    except OSError:
        if not final.is_dir():  # else another process was first, with the same
            raise
    sync(final.parent)


def _open_up(folder: Path) -> None:
    """Let this user into a folder of theirs; one that a link leads to is none."""
    if not folder.is_symlink():
        with suppress(OSError):  # of others
            folder.chmod(stat.S_IRWXU)


def _is_another(process: int) -> bool:
    """Whether a number is that of another process that runs on this machine."""
    if os.name != "posix":  # elsewhere the question would end it
        return True
    if not process or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True
