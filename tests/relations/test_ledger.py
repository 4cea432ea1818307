import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from truepair.errors import DataError
from truepair.relations.actions import Mask, Relabel
from truepair.relations.batch import BatchRelations, Rule
from truepair.relations.detectors import RecordedVerdict, SameCaption, SameImage, Signals
from truepair.relations.ledger import SCHEMA, Ledger, VerdictIndex, merge_ledger, read_ledger, read_verdicts


def write(
    ledger: Ledger, images: list[int], captions: list[int], score: float = 0.9, epoch: int = 0, detector: str = "con_d"
) -> None:
    ledger.record(
        torch.tensor(images),
        torch.tensor(captions),
        torch.full((len(images),), score),
        detector=detector,
        action="relabel",
        epoch=epoch,
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        write(ledger, [2**62 + 1, 3], [7, 8], score=0.25, epoch=4)
        write(ledger, [], [])
    table = read_ledger(tmp_path / "ledger")
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        {"image_id": 3, "caption_id": 8, "detector": "con_d", "score": 0.25, "action": "relabel", "epoch": 4},
        {"image_id": 2**62 + 1, "caption_id": 7, "detector": "con_d", "score": 0.25, "action": "relabel", "epoch": 4},
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
    rows = duckdb.sql(f"select image_id, action from '{tmp_path}/*.parquet' order by image_id").fetchall()
    assert rows == [(1, "relabel"), (2, "relabel")]


def test_ranks_and_parts_are_merged_and_the_latest_verdict_counts(tmp_path: Path) -> None:
    for rank, (score, epoch) in enumerate([(0.1, 2), (0.2, 1)]):
        with Ledger(tmp_path, rank=rank) as ledger:
            write(ledger, [1], [1], score, epoch)
            ledger.flush()
            write(ledger, [1], [1], score / 10, epoch)
            write(ledger, [1], [1], 0.7, epoch, detector="guide")
            write(ledger, [10 + rank], [1])
    table = read_ledger(tmp_path)
    scores = {(r["image_id"], r["detector"]): round(r["score"], 4) for r in table.to_pylist()}
    assert scores == {(1, "con_d"): 0.01, (1, "guide"): 0.7, (10, "con_d"): 0.9, (11, "con_d"): 0.9}
    merge_ledger(tmp_path, tmp_path / "merged.parquet")
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
    next(iter(tmp_path.glob("verdicts-r00000-000000*"))).unlink()
    with pytest.raises(DataError, match="lacks part 0"):
        resumed.load_state_dict(state)


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
    ledger.record(torch.arange(10) + 10 * step, torch.arange(10), torch.ones(10), detector="d", action="mask", epoch=0)
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
    signals = Signals(
        image_ids=torch.tensor([5, 6, 5]), caption_ids=torch.tensor([1, 2, 3]), caption_keys=torch.tensor([8, 9, 9])
    )
    relations = BatchRelations.detect(signals, [Rule(SameImage(), Relabel()), Rule(SameCaption(), Mask())])
    with Ledger(tmp_path) as ledger:
        relations.record(ledger, epoch=0, detectors=["same_image"])
        relations.record(ledger, epoch=1)
    table = read_ledger(tmp_path)
    assert sorted(table["action"].to_pylist()) == ["mask", "mask", "relabel", "relabel"]
    index = VerdictIndex.from_table(table, actions=["relabel"])
    other_batch = Signals(image_ids=torch.tensor([7, 5]), caption_ids=torch.tensor([3, 9]))
    later = BatchRelations.detect(other_batch, [Rule(RecordedVerdict(index), Relabel())])
    assert later.positives("i2t").dense().tolist() == [[1, 0], [1, 1]]  # caption 3 is true of image 5
    assert len(VerdictIndex.from_table(table, detectors=["same_caption"], actions=["relabel"])) == 0
