"""Rows that come one after the other are handed on some at once, and none is lost to an error behind it."""

import pytest

from tests.data.makers import put
from truepair.cli.main import main
from truepair.data.formats import record
from truepair.data.formats.record import Entries, in_runs
from truepair.errors import DataError


def rows(*kinds):
    """A row of each kind, numbered; an error where one is an error."""
    for number, kind in enumerate(kinds):
        if isinstance(kind, Exception):
            raise kind
        yield None if kind is None else (kind, number, {"caption": str(number)})


def test_rows_before_an_error_come_before_it():
    runs = in_runs(rows(one := Entries("line", "image", "caption"), one, DataError("it ends here")))

    assert next(runs).numbers == [0, 1]
    with pytest.raises(DataError, match="it ends here"):
        next(runs)


def test_an_error_at_once_is_told_at_once():
    with pytest.raises(DataError, match="it ends here"):
        list(in_runs(rows(DataError("it ends here"))))


def test_a_run_ends_where_another_kind_or_something_to_tell_comes_or_when_it_is_long(monkeypatch):
    monkeypatch.setattr(record, "_AT_ONCE", 3)
    one, other = Entries("line", "image", "caption"), Entries("line", "image", "text")

    runs = list(in_runs(rows(one, one, other, None, other, one, one, one, one)))

    assert [run.numbers for run in runs] == [[0, 1], [2], [4], [5, 6, 7], [8]]
    assert [run.caption_name for run in runs] == ["caption", "text", "text", "caption", "caption"]
    assert [entry["caption"] for run in runs for entry in run.values] == ["0", "1", "2", "4", "5", "6", "7", "8"]
    assert one.values == other.values == []


def test_of_two_faults_of_a_file_the_command_names_the_first(tmp_path, capsys):
    """A line leaves the folder; the end is cut within a character, which is known before that line is made."""
    file = tmp_path / "pairs.csv"
    good = "a.png,a dog\n" * 20  # more than the root is found by
    file.write_bytes(f"image,caption\n{good}../../b.png,a cat\n".encode("utf-16") + b"\n")
    put(tmp_path / "a.png", "the root is found by it")

    with pytest.raises(SystemExit):
        main(["doctor", str(file), "--no-pictures"])

    assert "pairs.csv line 22: image path ../../b.png leaves the image root" in capsys.readouterr().err
