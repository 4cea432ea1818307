import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tasks.study.study_rows import GAINS, study_rows
from truepair.errors import DataError
from truepair.tasks.study.table import Cell, StudyTable


def test_reads_what_a_study_gathers(tmp_path):
    rows = study_rows(data_seeds=(0, 1), seeds=(5, 6))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "results.parquet")
    table = StudyTable.read(tmp_path / "results.parquet", ["oracle relabel", "never run", "GRIT"])
    assert table.arms[:3] == ["oracle relabel", "GRIT", "InfoNCE"]
    assert sorted(table.arms) == sorted(GAINS)
    assert table.data == ["2 drawings", "7 drawings"]
    assert table.tests == ["held_out", "unseen"]
    found = table.figures("GRIT", "7 drawings", "unseen", "retrieval_score")
    assert sorted(found) == [Cell(0, 5), Cell(0, 6), Cell(1, 5), Cell(1, 6)]
    right = [
        row["retrieval_score"]
        for row in rows
        if row["arm"] == "GRIT" and row["data"] == "7 drawings" and row["test"] == "unseen"
    ]
    assert list(found.values()) == right
    assert table.mean("GRIT", "7 drawings", "unseen", "retrieval_score") == pytest.approx(sum(right) / 4)
    assert table.mean("GRIT", "7 drawings", "unseen", "weight_below_07") is None
    assert table.has("weight_below_07")
    assert not table.has("itm_retrieval_score")
    assert not table.has("unheard of")


def test_files_that_are_no_results(tmp_path):
    path = tmp_path / "results.parquet"
    with pytest.raises(DataError, match="run the study first"):
        StudyTable.read(path)
    path.write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        StudyTable.read(path)
    pq.write_table(pa.table({"arm": ["a"], "data": ["b"]}), path)
    with pytest.raises(DataError, match="no column 'data_seed'"):
        StudyTable.read(path)
    pq.write_table(pa.Table.from_pylist(study_rows()).slice(0, 0), path)
    with pytest.raises(DataError, match="no rows"):
        StudyTable.read(path)
