"""Whole or not there: files and folders that are written aside."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from truepair.errors import CheckpointError, DataError
from truepair.files import (
    move_folder,
    remove_folder,
    require_whole,
    write_json,
    write_text,
    writing_file,
    writing_folder,
    writing_together,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "new" / "a.bin"
    with writing_file(final) as file:
        file.write(b"one")
        assert not final.exists()
    with writing_file(final) as file:
        file.write(b"two")
        assert final.read_bytes() == b"one"
    assert final.read_bytes() == b"two"
    assert names(final.parent) == ["a.bin"]


def test_texts_and_json(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä\n")
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.txt").read_bytes() == "ä\n".encode()
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1\n ]\n}'


def test_what_fails_leaves_the_former_file_and_nothing_beside_it(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    write_text(final, "former")
    with pytest.raises(ZeroDivisionError), writing_file(final) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert final.read_text() == "former"
    assert names(tmp_path) == ["a.txt"]


def test_a_refusal_of_the_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"could not write .*a\.txt: .*; free some space"):
        write_text(tmp_path / "file" / "a.txt", "")
    with (
        pytest.raises(CheckpointError, match="give another folder"),
        writing_folder(tmp_path / "file" / "folder", error=CheckpointError, advice="give another folder"),
    ):
        raise AssertionError("there is no folder to write into")
    with pytest.raises(OSError, match="No space left"), writing_folder(tmp_path / "folder", error=None):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["file"]


KILLED = """
import os, pathlib, signal, sys
from truepair.files import writing_folder
with writing_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "model"
    for text in ("one", "two"):
        with writing_folder(final) as folder:
            (folder / text).write_text(text)
    assert names(final) == ["two"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(final)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(final) == ["two"]
    assert names(tmp_path) == [".model.partial", "model"]
    with writing_folder(final) as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["model"]


def test_the_first_of_several_writers_wins(tmp_path: Path) -> None:
    final = tmp_path / "cache"
    with writing_folder(final, shared=True) as mine:
        (mine / "mine").write_text("")
        final.mkdir()
        (final / "theirs").write_text("")
    assert names(final) == ["theirs"]
    assert names(tmp_path) == ["cache"]


def test_a_folder_is_replaced_and_removed_as_a_whole(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new, tmp_path / ".old.removed"):
        folder.mkdir()
        (folder / folder.name).write_text("")
    move_folder(new, old)
    assert names(tmp_path) == ["old"]
    assert names(old) == ["new"]
    remove_folder(old)
    assert names(tmp_path) == []


KILLED_BETWEEN = """
import os, sys
from pathlib import Path
from truepair import files
from truepair.files import writing_folder
final, call = Path(sys.argv[1]), int(sys.argv[2])
calls, rename = 0, Path.rename
def killed(self, target):
    global calls
    calls += 1
    if calls == call:
        os.kill(os.getpid(), 9)
    return rename(self, target)
Path.rename = killed
with writing_folder(final) as aside:
    (aside / "new").write_text("new")
"""


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_leaves_the_former_folder_or_the_next_writer_brings_it_back(call: int, tmp_path: Path) -> None:
    final = tmp_path / "ledger"
    final.mkdir()
    (final / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(final), str(call)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert final.is_dir() == (call == 1)
    with pytest.raises(ZeroDivisionError), writing_folder(final):
        raise ZeroDivisionError
    assert [path.read_text() for path in final.iterdir()] == ["old"]
    assert names(tmp_path) == ["ledger"]


def test_a_folder_that_cannot_be_named_leaves_the_former_one(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError):
        move_folder(tmp_path / "gone", tmp_path / "old")
    assert names(tmp_path) == ["old"]


def together(folder: Path, word: str, *more: str) -> None:
    with writing_together(folder, "seal.json", ["c"]) as aside:
        for name in ("a", "b", *more):
            (aside / name).write_text(word)


def test_files_that_belong_together(tmp_path: Path) -> None:
    together(tmp_path, "one", "c")
    (tmp_path / "own").write_text("of a user")
    require_whole(tmp_path, "seal.json", "make them again")
    assert names(tmp_path) == ["a", "b", "c", "own", "seal.json"]
    together(tmp_path, "two")
    require_whole(tmp_path, "seal.json", "make them again")
    assert names(tmp_path) == ["a", "b", "own", "seal.json"]
    (tmp_path / "a").write_text("one")
    with pytest.raises(CheckpointError, match=r"/a is damaged, or of another call than .* it; make them again"):
        require_whole(tmp_path, "seal.json", "make them again", error=CheckpointError)
    (tmp_path / "seal.json").write_text("[")
    with pytest.raises(DataError, match=r"/seal.json is damaged"):
        require_whole(tmp_path, "seal.json", "make them again")
    (tmp_path / "seal.json").unlink()
    require_whole(tmp_path, "seal.json", "made by an older version")


def test_a_kill_between_files_that_belong_together_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for call in range(1, 8):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        together(tmp_path / "a", "one")
        calls, replace = 0, Path.replace

        def struck(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == call:  # noqa: B023
                raise KeyboardInterrupt
            return replace(self, target)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", struck)
            try:
                together(tmp_path / "a", "two")
            except KeyboardInterrupt:
                seen.add(call)
        words = {(tmp_path / "a" / name).read_text() for name in ("a", "b")}
        try:
            require_whole(tmp_path / "a", "seal.json", "again")
        except DataError:
            assert call in seen
        else:
            assert len(words) == 1
    assert len(seen) >= 3


def test_what_libraries_make_of_a_refusal(tmp_path: Path) -> None:
    class RustError(Exception):
        pass

    for words in (
        "Error while serializing: I/O error: No space (os error 28)",
        "Detail: [errno 28] whatever",
        "write error: 3 != 9 (No space left on device)",
    ):
        with (
            pytest.raises(DataError, match=r"could not write .*/a: No space left on device; free"),
            writing_file(tmp_path / "a"),
        ):
            raise RustError(words)
    with pytest.raises(RustError, match="another"), writing_file(tmp_path / "a"):
        raise RustError("another")


def test_an_error_aside_names_what_it_was_to_be(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised, writing_folder(tmp_path / "ledger") as aside:
        raise DataError(f"could not write {aside / 'part'}: full")
    assert str(raised.value) == f"could not write {tmp_path / 'ledger' / 'part'}: full"


def test_links_and_devices_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.txt")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "text"
    write_text(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file() and Path("/dev/null").exists()
    with pytest.raises(DataError, match="could not write /dev/full: No space left on device"):
        write_text(Path("/dev/full"), "text")
