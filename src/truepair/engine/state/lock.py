"""A run folder is held by one run at a time: a file in it says by which process, and stays fresh as long as that lives.

Whether the holder of a lock lives is asked of the system where it runs here: a process of that number which started at
that time. Elsewhere (another machine, another container) nobody can be asked, so its lock is watched: a holder that
lives renews it every few seconds.
"""

import contextlib
import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from truepair.errors import CheckpointError, ConfigError

LOCK = "lock.json"

BEAT = 10.0
"""Seconds after which a holder renews its lock."""

PATIENCE = 60.0
"""Seconds without a sign of life after which a holder that cannot be asked counts as dead."""

_LOOK = 1.0  # seconds between two looks at the lock of such a holder

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems without hard links say

_HELD: dict[Path, "_Lock"] = {}  # of this process

Say = Callable[[str], None]


@contextlib.contextmanager
def holding(folder: Path, say: Say) -> Iterator[None]:
    """Hold a folder, which is made if it is not there; a process that holds it already goes on holding it.

    Args:
        folder: the run folder.
        say: prints a line, where the lock of a run that has ended is taken over.

    Raises:
        ConfigError: another run holds it, or it cannot be written.
    """
    place = folder.absolute()
    if place in _HELD:
        yield
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = _Lock(place / LOCK, folder)
        lock.take(say)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be used ({error.strerror}); give another one") from error
    _HELD[place] = lock
    try:
        yield
    finally:
        _HELD.pop(place).release()


def require_held(folder: Path) -> None:
    """Refuse to write into a folder that this process has held, and that another one took over.

    Raises:
        CheckpointError: it did: this process gave no sign of life for a while, since it was suspended, say.
    """
    lock = _HELD.get(folder.absolute())
    if lock is not None and lock.is_lost():
        raise CheckpointError(
            f"{folder} was taken over by {_described(_read(lock.file))}, since this process gave no sign of life for "
            f"{PATIENCE:.0f} s; this run ends, and leaves the folder to that one"
        )


class _Lock:
    """The lock of one folder.

    Args:
        file: where it lies.
        folder: the folder, as the user wrote it.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self.file = file
        self.folder = folder
        self.token = uuid.uuid4().hex
        self.pid = os.getpid()
        self._released = threading.Event()

    def take(self, say: Say) -> None:
        """Take it, or take it over from a holder that is dead.

        Raises:
            ConfigError: its holder lives.
            OSError: the folder cannot be written.
        """
        while not self._write():
            holder = _read(self.file)
            if _lives(self.file, holder, say):
                raise ConfigError(
                    f"{self.folder} is in use by {_described(_read(self.file) or holder)}; wait until that has "
                    "ended, stop it, or give another folder (--run-folder; of a study --folder)"
                )
            if self._remove(holder):
                say(f"{self.folder} was in use by {_described(holder)}, which has ended without a word; going on")
        threading.Thread(target=self._renew, daemon=True).start()

    def release(self) -> None:
        """Give it back, unless somebody has taken it over, or this is a child of the process that took it."""
        self._released.set()
        if os.getpid() == self.pid and _read(self.file).get("token") == self.token:
            with contextlib.suppress(OSError):
                self.file.unlink()

    def is_lost(self) -> bool:
        """Whether another process has it."""
        token = _read(self.file).get("token")
        return token is not None and token != self.token

    def _write(self) -> bool:
        """Write it, unless there is one; it stands there whole at once, wherever the file system has links."""
        said = {
            "pid": self.pid,
            "started": _start_of(self.pid),
            "host": platform.node(),
            "place": _place(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "token": self.token,
        }
        text = json.dumps(said, indent=1)
        aside = self.file.with_name(f".{LOCK}.{self.token}.new")
        try:
            aside.write_text(text, encoding="utf-8")
            os.link(aside, self.file)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._write_in_place(text)
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _write_in_place(self, text: str) -> bool:
        """Write it where a file cannot be linked: until it is whole, others take it for one that is being written."""
        try:
            handle = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - of a handle
                file.write(text)
        except OSError:
            self.file.unlink(missing_ok=True)
            raise
        return True

    def _remove(self, holder: dict[str, Any]) -> bool:
        """Remove the lock of a dead holder; if another process was faster, and it is that one's now, put it back."""
        aside = self.file.with_name(f".{LOCK}.{self.token}")
        try:
            self.file.rename(aside)
        except FileNotFoundError:
            return False
        ours = _read(aside).get("token") == holder.get("token")
        if not ours and not self.file.exists():
            aside.rename(self.file)
            return False
        aside.unlink()
        return ours

    def _renew(self) -> None:
        """Show that this process lives, until it gives the lock back; a lock that somebody removed is written again."""
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that does not answer is asked again
                if self.is_lost():
                    return
                try:
                    os.utime(self.file)
                except FileNotFoundError:
                    self._write()


def _lives(file: Path, holder: dict[str, Any], say: Say) -> bool:
    """Whether the holder of a lock lives."""
    if holder.get("place") == _place():
        started = _start_of(int(holder["pid"]))
        return started is not None and started == holder["started"]
    try:
        renewed = file.stat().st_mtime_ns
        if _now_there(file.parent) - renewed > PATIENCE * 1e9:
            return False
        say(f"{file.parent} was in use by {_described(holder)}; waiting up to {PATIENCE:.0f} s for a sign of its life")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(_LOOK)
            if file.stat().st_mtime_ns != renewed:
                return True
    except FileNotFoundError:  # it has given the lock back
        return False
    return False


def _read(file: Path) -> dict[str, Any]:
    """What a lock says; nothing where there is none, and where it is damaged or just being written."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(said, dict) and isinstance(said.get("pid"), int) and {"started", "place", "token"} <= said.keys()
    return said if known else {}


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return f"a run whose {LOCK} cannot be read"
    return f"process {holder['pid']} on {holder.get('host')} (since {holder.get('since')})"


def _now_there(folder: Path) -> int:
    """The time in ns by the clock of the file system, which may be another machine's."""
    probe = folder / f".{LOCK}.{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink()


def _place() -> str:
    """Where process numbers mean the same: a host since its last start, and in it a container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # other systems than Linux
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)


def _start_of(pid: int) -> str | None:
    """When a process started, as it is told by that process alone; None if there is none, or only its remains."""
    if Path("/proc/self/stat").exists():  # in ticks since the start of the machine, which no change of the clock moves
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
        except OSError:
            return None
        return None if state in "ZX" else rest[18]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None
