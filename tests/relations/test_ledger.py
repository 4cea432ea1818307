import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import DataError
from truepair.relations.actions import Relabel
from truepair.relations.detectors import Recorded, Signals
from truepair.relations.ledger import PERSON, SCHEMA, Ledger, VerdictIndex, open_index, read_ledger, read_verdicts
from truepair.relations.rules import Rule, apply_rules


def write(
    ledger: Ledger, images: list[int], captions: list[int], score: float = 0.9, epoch: int = 0, judge: str = "judge:a"
) -> None:
    ledger.record(
        torch.tensor(images),
        torch.tensor(captions),
        torch.full((len(images),), score),
        judge=judge,
        epoch=epoch,
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        write(ledger, [2**62 + 1, 3], [7, 8], score=0.25, epoch=4)
        write(ledger, [], [])
    table = read_ledger(tmp_path / "ledger")
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        {"image_id": 3, "caption_id": 8, "judge": "judge:a", "probability": 0.25, "epoch": 4, "time": None},
        {"image_id": 2**62 + 1, "caption_id": 7, "judge": "judge:a", "probability": 0.25, "epoch": 4, "time": None},
    ]


def test_all_verdicts_on_a_pair_can_be_read(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for epoch in (0, 3):
            write(ledger, [1], [2], epoch=epoch)
            ledger.flush()
    assert read_verdicts(tmp_path)["epoch"].to_pylist() == [0, 3]
    assert read_ledger(tmp_path)["epoch"].to_pylist() == [3]


def test_pandas_and_duckdb_read_the_parts(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        write(ledger, [1, 2], [3, 4])
    assert pd.read_parquet(tmp_path)["image_id"].tolist() == [1, 2]
    rows = duckdb.sql(f"select image_id, judge from '{tmp_path}/*.parquet' order by image_id").fetchall()
    assert rows == [(1, "judge:a"), (2, "judge:a")]


def test_ranks_and_parts_are_merged_and_the_latest_verdict_counts(tmp_path: Path) -> None:
    for rank, (score, epoch) in enumerate([(0.1, 2), (0.2, 1)]):
        with Ledger(tmp_path, rank=rank) as ledger:
            write(ledger, [1], [1], score, epoch)
            ledger.flush()
            write(ledger, [1], [1], score / 10, epoch)
            write(ledger, [1], [1], 0.7, epoch, judge="judge:b")
            write(ledger, [10 + rank], [1])
    table = read_ledger(tmp_path)
    scores = {(r["image_id"], r["judge"]): round(r["probability"], 4) for r in table.to_pylist()}
    assert scores == {(1, "judge:a"): 0.01, (1, "judge:b"): 0.7, (10, "judge:a"): 0.9, (11, "judge:a"): 0.9}
    pq.write_table(table, tmp_path / "merged.parquet")
    assert read_ledger(tmp_path / "merged.parquet").equals(table)
    assert read_ledger(tmp_path).equals(table)  # the merged file beside the parts is not a part


def test_large_batches_are_written_in_parts(tmp_path: Path) -> None:
    with Ledger(tmp_path, rows_per_part=3) as ledger:
        for i in range(5):
            write(ledger, [i, i + 100], [0, 0])
    assert len(list(tmp_path.glob("*.parquet"))) == 3
    assert len(read_ledger(tmp_path)) == 10


def test_a_reopened_ledger_continues(tmp_path: Path) -> None:
    for image in (1, 2):
        with Ledger(tmp_path) as ledger:
            write(ledger, [image], [0])
    assert read_ledger(tmp_path)["image_id"].to_pylist() == [1, 2]


def test_going_back_to_a_checkpoint_removes_later_verdicts(tmp_path: Path) -> None:
    other = Ledger(tmp_path, rank=1)
    write(other, [50], [0])
    other.flush()
    ledger = Ledger(tmp_path)
    write(ledger, [1], [0])
    state = ledger.state_dict()
    write(ledger, [2], [0])
    ledger.flush()
    write(ledger, [3], [0])  # lost with the process
    resumed = Ledger(tmp_path)
    resumed.load_state_dict(state)
    assert read_ledger(tmp_path)["image_id"].to_pylist() == [1, 50]
    write(resumed, [4], [0])
    resumed.flush()
    assert read_ledger(tmp_path)["image_id"].to_pylist() == [1, 4, 50]


@pytest.mark.parametrize("fault", ["gone", "emptied", "a bit"])
def test_a_part_that_is_gone_or_damaged_is_said_and_the_others_stay(tmp_path: Path, fault: str) -> None:
    said: list[str] = []
    ledger = Ledger(tmp_path, rows_per_part=1)
    for image in (1, 2, 3):
        write(ledger, [image], [0])
    state = ledger.state_dict()
    part = tmp_path / "verdicts-r00000-000001.parquet"
    if fault == "gone":
        part.unlink()
    else:
        whole = bytearray(part.read_bytes())
        whole[60] ^= 4
        part.write_bytes(whole if fault == "a bit" else b"")
    for _ in range(2):  # the second time there is nothing to say
        resumed = Ledger(tmp_path, say=said.append)
        resumed.load_state_dict(state)
        assert read_ledger(tmp_path)["image_id"].to_pylist() == [1, 3]
        state = resumed.state_dict()
    became = "is gone" if fault == "gone" else "is damaged, and is damaged-verdicts-r00000-000001.parquet now"
    assert said == [f"{part} {became}; the run goes on without its verdicts"]
    assert (tmp_path / "damaged-verdicts-r00000-000001.parquet").exists() == (fault != "gone")


def test_a_flipped_bit_of_a_ledger_changes_no_verdict(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        write(ledger, list(range(400)), list(range(400)), score=0.75)
    (part,) = (tmp_path / "ledger").glob("*.parquet")
    whole, kept = part.read_bytes(), read_ledger(tmp_path / "ledger")
    seen, rng = 0, np.random.default_rng(0)
    for place in rng.choice(len(whole), 150, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        part.write_bytes(damaged)
        try:
            assert read_ledger(tmp_path / "ledger").equals(kept)
        except DataError as error:
            assert "is not a part of a ledger" in str(error)
            seen += 1
    assert seen > 30


def test_a_flush_that_fails_keeps_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(ValueError, match="the first"), Ledger(tmp_path) as ledger:
        write(ledger, [1], [0])
        raise ValueError("the first")
    with pytest.raises(DataError, match=r"could not write .*: No space left on device"), Ledger(tmp_path) as ledger:
        write(ledger, [1], [0])


def test_a_crash_while_writing_leaves_no_half_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    write(ledger, [1], [0])
    ledger.flush()
    write(ledger, [2], [0])

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(DataError, match="No space"):
        ledger.flush()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts-r00000-000000.parquet"]
    ledger.flush()  # nothing was forgotten
    assert read_ledger(tmp_path)["image_id"].to_pylist() == [1, 2]


def test_a_killed_process_leaves_a_readable_ledger(tmp_path: Path) -> None:
    script = f"""
import os, torch
from truepair.relations.ledger import Ledger
ledger = Ledger({str(tmp_path)!r}, rows_per_part=10)
for step in range(10**6):
    ledger.record(torch.arange(10) + 10 * step, torch.arange(10), torch.ones(10), judge="d", epoch=0)
    if step == 20:
        os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ}, check=False).returncode == -9
    assert len(read_ledger(tmp_path)) == 210


def test_broken_or_missing_ledgers_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no ledger"):
        read_ledger(tmp_path)
    with pytest.raises(DataError, match="no ledger"):
        read_ledger(tmp_path / "nowhere")
    broken = tmp_path / "verdicts-r00000-000000.parquet"
    broken.write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match=broken.name):
        read_ledger(tmp_path)
    pq.write_table(pa.table({"image_id": [1]}), broken)
    with pytest.raises(DataError, match="not a part of a ledger"):
        read_ledger(tmp_path)


def test_a_later_run_uses_the_verdicts(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        write(ledger, [5], [3], 0.9)
        write(ledger, [7], [9], 0.3)
    batch = Signals(image_ids=torch.tensor([7, 5]), caption_ids=torch.tensor([3, 9]))
    rules = [Rule(Recorded("match", 0.2, 0.8, ledger=str(tmp_path)), Relabel())]
    assert apply_rules(rules, batch).positives("i2t").dense().tolist() == [[1, 0], [1, 1]]  # caption 3, image 5
    rules = [Rule(Recorded("doubtful", 0.2, 0.8, ledger=str(tmp_path)), Relabel())]
    assert apply_rules(rules, batch).positives("i2t").dense().tolist() == [[1, 1], [0, 1]]


def test_a_verdict_is_written_once_if_asked_even_after_a_crash(tmp_path: Path) -> None:
    def record(ledger: Ledger, *images: int) -> None:
        ids = torch.tensor(images)
        ledger.record(ids, ids, torch.full((len(ids),), 0.5), judge="judge:a", once=True)

    ledger = Ledger(tmp_path)
    record(ledger, 1, 2, 2, 1)
    record(ledger, 2, 3)
    state = ledger.state_dict()
    record(ledger, 4)
    ledger.flush()
    resumed = Ledger(tmp_path)
    resumed.load_state_dict(state)
    for _ in range(3):
        record(resumed, 3, 4, 5)
    resumed.flush()
    assert read_verdicts(tmp_path)["image_id"].to_pylist() == [1, 2, 3, 4, 5]
    other = torch.tensor([1])
    resumed.record(other, other, torch.tensor([0.1]), judge="judge:b", once=True)  # another judge, another verdict
    resumed.flush()
    assert len(read_verdicts(tmp_path)) == 6


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=12))
def test_once_is_once_over_any_batches(batches: list[list[int]]) -> None:
    with TemporaryDirectory() as folder:
        with Ledger(folder) as ledger:
            for batch in batches:
                ids = torch.tensor(batch, dtype=torch.long)
                ledger.record(ids, ids + 1, torch.ones(len(ids)), judge="judge:a", once=True)
        if any(batches):
            written = read_verdicts(folder)["image_id"].to_pylist()
            assert written == list(dict.fromkeys(image for batch in batches for image in batch))


def test_what_was_read_from_a_ledger_is_noted_once_under_its_own_judge(tmp_path: Path) -> None:
    index = VerdictIndex(
        np.array([5, 6, 7]),
        np.array([1, 1, 2]),
        np.array([0.9, 0.2, 0.4]),
        np.array([0, 1, 0]),
        ["mined:a", "person:b"],
    )
    with Ledger(tmp_path) as ledger:
        for epoch in range(3):
            index.record(ledger, torch.tensor([5, 6, 8]), torch.tensor([3, 4, 1]), epoch)
    rows = [
        (row["image_id"], row["caption_id"], row["judge"], row["epoch"]) for row in read_verdicts(tmp_path).to_pylist()
    ]
    assert rows == [(5, 1, "mined:a", 0), (6, 1, "person:b", 0)]


def test_a_person_overrides_every_judge(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        write(ledger, [1, 2], [1, 1], 0.0, judge="person:ann")
        write(ledger, [1, 3], [1, 1], 0.9, epoch=7)
    index = VerdictIndex.from_table(read_ledger(tmp_path))
    found = index.within(torch.tensor([1, 2, 3]), torch.tensor([1, 9, 9]))
    values = dict(zip(found.rows.tolist(), found.values.tolist(), strict=True))
    assert values == {0: 0.0, 1: 0.0, 2: pytest.approx(0.9)}
    assert len(open_index(tmp_path).people()) == 2


def test_a_ledger_of_the_first_edition_is_read_as_what_it_says_of_probabilities(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "caption_id": 2, "detector": "con_d:ab", "score": 0.9, "action": "relabel", "epoch": 1},
        {"image_id": 1, "caption_id": 3, "detector": "con_d:ab", "score": 0.1, "action": "keep", "epoch": 1},
        {"image_id": 1, "caption_id": 4, "detector": "mined:cd", "score": 0.3, "action": "swap", "epoch": 0},
        {"image_id": 1, "caption_id": 5, "detector": "same_image", "score": 1.0, "action": "relabel", "epoch": 1},
        {"image_id": 1, "caption_id": 2, "detector": "recorded", "score": 0.9, "action": "relabel", "epoch": 1},
    ]
    types = {"image_id": pa.int64(), "caption_id": pa.int64(), "score": pa.float32(), "epoch": pa.int32()}
    names = list(rows[0])
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "verdicts-r00000-000000.parquet")
    with Ledger(tmp_path) as ledger:
        write(ledger, [9], [9], 0.5)  # and goes on in the new form
    table = read_ledger(tmp_path)
    assert table.schema == SCHEMA
    found = {(row["caption_id"], row["judge"]): round(row["probability"], 3) for row in table.to_pylist()}
    assert found == {(2, "judge:ab"): 0.9, (3, "judge:ab"): 0.1, (4, "mined:cd"): 0.3, (9, "judge:a"): 0.5}


def test_going_back_keeps_what_people_said(tmp_path: Path) -> None:
    with Ledger(tmp_path, rows_per_part=1) as ledger:
        write(ledger, [1], [2], judge="judge:a")
        write(ledger, [3], [4], judge="person:ann")
        write(ledger, [5], [6], judge="judge:a")
    again = Ledger(tmp_path)
    again.clear()
    assert read_verdicts(tmp_path)["judge"].to_pylist() == ["person:ann"]
    write(again, [7], [8], judge="judge:b")
    again.flush()
    assert read_verdicts(tmp_path)["image_id"].to_pylist() == [3, 7]
    write(again, [9], [9], judge="person:bob")
    again.flush()
    again.load_state_dict({"parts": 1})
    assert read_verdicts(tmp_path)["image_id"].to_pylist() == [3, 9]
    again.record(*(torch.tensor([3]), torch.tensor([4]), torch.ones(1)), judge="person:ann", once=True)
    again.flush()
    assert len(read_verdicts(tmp_path)) == 2


def test_a_verdict_on_one_copy_of_a_picture_holds_for_all():
    index = VerdictIndex(
        np.array([7, 9, 3, 7]),
        np.array([1, 2, 3, 4]),
        np.array([0.1, 0.2, 0.3, 0.4]),
        np.array([0, 0, 0, 1]),
        ["j", "p"],
    )
    ids, keys = np.array([5, 7, 9, 3]), np.array([5, 5, 5, 3])  # 5, 7 and 9 are one picture
    pictures = index.of_pictures(ids, keys)
    found = pictures.within(torch.tensor([5, 3]), torch.tensor([1, 2, 3, 4]))
    assert sorted(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 3), (1, 2)]
    assert index.of_pictures(ids, ids) is index


def test_people_override_judges_on_another_copy():
    index = VerdictIndex(
        np.array([5, 7]), np.array([1, 1]), np.array([0.0, 0.9]), np.array([1, 0]), ["judge:x", f"{PERSON}me"]
    )
    pictures = index.of_pictures(np.array([5, 7]), np.array([5, 5]))
    assert pictures.image_ids.tolist() == [5]
    assert pictures.probabilities.tolist() == [0.0]
