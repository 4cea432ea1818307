"""A run folder is held by one run at a time, and the lock of a dead one is told from that of a living one."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from truepair.engine.state import lock
from truepair.engine.state.lock import LOCK, holding, require_held
from truepair.errors import CheckpointError, ConfigError


def place(folder: Path, **other: Any) -> None:
    """Write the lock of this process, with other values."""
    with holding(folder, print):
        said = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps(said | {"token": "another"} | other))


def taken(folder: Path) -> list[str]:
    """Hold a folder for a moment; what was said."""
    said: list[str] = []
    with holding(folder, said.append):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert sorted(path.name for path in folder.iterdir()) == []
    return said


def test_a_folder_is_held_and_given_back(tmp_path: Path) -> None:
    assert taken(tmp_path / "new") == []
    with holding(tmp_path / "new", print), holding(tmp_path / "new", print):
        assert (tmp_path / "new" / LOCK).exists()
    assert not (tmp_path / "new" / LOCK).exists()


def test_another_process_is_refused(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from truepair.engine.state.lock import holding\n"
    code += "with holding(Path(sys.argv[1]), print): print('held', flush=True); sys.stdin.readline()"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=rf"{tmp_path} is in use by process {other.pid} on .*; wait until that has"):
        taken(tmp_path)
    assert (tmp_path / LOCK).exists()
    other.kill()  # and nobody has waited for it: its remains are there
    while (lock._start_of(other.pid)) is not None:
        pass
    [line] = taken(tmp_path)
    assert line.startswith(f"{tmp_path} was in use by process {other.pid} on ")
    assert line.endswith(", which has ended without a word; going on")
    other.wait()
    other.stdin.close()
    other.stdout.close()


def test_a_number_that_another_process_has_now_is_not_its_holder(tmp_path: Path) -> None:
    place(tmp_path, started="1")
    assert "has ended without a word" in taken(tmp_path)[0]
    place(tmp_path)  # this very process, which lives
    with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()}"):
        taken(tmp_path)


def test_a_holder_on_another_machine_is_dead_when_its_lock_has_not_been_renewed(tmp_path: Path) -> None:
    place(tmp_path, place="elsewhere", host="elsewhere", pid=1)
    os.utime(tmp_path / LOCK, (0, 0))
    [line] = taken(tmp_path)
    assert "was in use by process 1 on elsewhere (since 2" in line
    assert line.endswith("which has ended without a word; going on")


def test_a_holder_on_another_machine_lives_when_it_renews_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LOOK", 0.01)
    place(tmp_path, place="elsewhere", host="elsewhere")
    said: list[str] = []

    def renew(line: str) -> None:
        said.append(line)
        os.utime(tmp_path / LOCK, (2e9, 2e9))

    with pytest.raises(ConfigError, match=r"is in use by process .* on elsewhere"), holding(tmp_path, renew):
        pass
    assert "waiting up to 60 s for a sign of its life" in said[0]


@pytest.mark.parametrize("text", ["", "[1]", '{"pid": "x"}', "\x00\x00"])
def test_a_damaged_lock_is_watched_like_that_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(lock, "_LOOK", 0.01)
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    (tmp_path / LOCK).write_text(text)
    assert f"a run whose {LOCK} cannot be read, which has ended" in taken(tmp_path)[-1]


def test_the_lock_is_renewed_and_one_that_was_lost_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    require_held(tmp_path)  # nobody holds it
    with holding(tmp_path, print):
        os.utime(tmp_path / LOCK, (0, 0))
        wait_until(lambda: (tmp_path / LOCK).stat().st_mtime > 1)
        (tmp_path / LOCK).unlink()  # by hand
        wait_until(lambda: (tmp_path / LOCK).exists() and (tmp_path / LOCK).stat().st_size > 0)
        require_held(tmp_path)
        said = json.loads((tmp_path / LOCK).read_text())
        (tmp_path / LOCK).write_text(json.dumps(said | {"token": "another", "pid": 77}))
        with pytest.raises(CheckpointError, match=r"was taken over by process 77 on .*this run ends"):
            require_held(tmp_path)
    assert (tmp_path / LOCK).exists()  # the other's


def wait_until(true: Any) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if true():
            return
        pause.wait(0.01)
    raise TimeoutError


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the run folder .*file cannot be used .*give another one"):
        taken(tmp_path / "file")


def test_a_lock_is_never_seen_half_written(tmp_path: Path) -> None:
    seen, over = list[str](), threading.Event()

    def look() -> None:
        """Read it as often as it is there."""
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.append((tmp_path / LOCK).read_text())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(300):
            taken(tmp_path)
    finally:
        over.set()
        reader.join()
    assert all("token" in json.loads(text) for text in seen)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_lock_is_whole_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, linked = os.link, list[dict[str, Any]]()

    def linking(source: Path, target: Path) -> None:
        """Look at the file first."""
        linked.append(json.loads(Path(source).read_text()))
        link(source, target)

    monkeypatch.setattr("os.link", linking)
    with holding(tmp_path, print):
        assert linked == [json.loads((tmp_path / LOCK).read_text())]
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(source: Path, target: Path) -> None:
        """As FAT has it."""
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_link)
    with holding(tmp_path, print):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    place(tmp_path)
    with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()}"):
        taken(tmp_path)
