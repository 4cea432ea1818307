"""Whole or not there: files and folders that are written aside."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from truepair.errors import CheckpointError, DataError
from truepair.files import move_folder, remove_folder, write_json, write_text, writing_file, writing_folder


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
