"""What caches share: checksums that notice any change, locks that outlive damage, and no leftovers."""

import os
from pathlib import Path

import pytest
import torch

from truepair import checked
from truepair.checked import checksum, one_maker, read_checked, read_checked_json, require_whole, write_checked
from truepair.errors import DataError
from truepair.files import clear_asides, discard
from truepair.relations.ledger import Ledger


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    plain, told = tmp_path / "plain", tmp_path / "told.json"
    write_checked(plain, b"some bytes")
    checked.write_checked_json(told, {"rows": 3, "why": {"1": "missing"}})
    assert read_checked(plain) == b"some bytes" and read_checked_json(told) == {"rows": 3, "why": {"1": "missing"}}
    data = plain.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        plain.write_bytes(changed)
        with pytest.raises(ValueError, match="checksum of plain"):
            read_checked(plain)
    told.write_text(told.read_text().replace("3", "4"))
    with pytest.raises(ValueError, match=r"checksum of told\.json"):
        read_checked_json(told)


def test_a_large_file_is_read_again_where_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "_ALWAYS_READ", 4)
    file = tmp_path / "file"
    file.write_bytes(b"large enough")
    digest = checksum(file)
    assert require_whole(file, 12, digest) and not require_whole(file, 12, digest)
    file.write_bytes(b"large enougH")
    with pytest.raises(ValueError, match="checksum of file"):
        require_whole(file, 12, digest)
    with pytest.raises(ValueError, match="12 bytes in place of 13"):
        require_whole(file, 13, digest)


@pytest.mark.parametrize("damage", ["folder", "link", "pipe"])
def test_a_lock_that_is_something_else_is_made_anew(damage: str, tmp_path: Path) -> None:
    lock = tmp_path / "cache.lock"
    {"folder": lock.mkdir, "link": lambda: lock.symlink_to("/nowhere/at/all"), "pipe": lambda: os.mkfifo(lock)}[
        damage
    ]()
    with one_maker(tmp_path / "cache", "give another"):
        assert lock.is_file()


def test_a_folder_that_cannot_hold_a_cache_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused = pytest.raises(DataError, match=r"cache folder .* cannot be written \(.*\); give another")
    with refused, one_maker(tmp_path / "file" / "cache", "give another"):
        pass


def test_what_killed_processes_left_is_removed_and_what_running_ones_write_stays(tmp_path: Path) -> None:
    gone = ".verdicts-r00000-000001.parquet.4194305-0.partial"  # beyond the largest number of a process
    names = [gone, ".verdicts-r00000-000002.parquet.tmp", ".verdicts-r00000-000003.parquet.1-0.partial"]
    other = ".verdicts-r00001-000001.parquet.4194305-0.partial"
    for name in [*names, other]:
        (tmp_path / name).write_text("x")
    with Ledger(tmp_path) as ledger:
        ledger.record(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.5]), judge="judge")
    assert sorted(path.name for path in tmp_path.glob(".*")) == sorted([names[2], other])
    clear_asides(tmp_path, "verdicts-*")
    assert [path.name for path in tmp_path.glob(".*")] == [names[2]]


def test_whatever_lies_there_is_discarded(tmp_path: Path) -> None:
    inner = tmp_path / "folder" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    inner.chmod(0)
    inner.parent.chmod(0)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("folder", "link", "nothing"):
        discard(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
