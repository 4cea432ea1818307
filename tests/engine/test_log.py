from pathlib import Path

from truepair.engine.logs.log import JsonlLog, read_log


def test_rewind_forgets_later_records_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    with JsonlLog(path) as log:
        for step in (1, 2, 3):
            log.write("step", step, loss=step / 2)
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    with JsonlLog(path) as log:
        log.rewind(2)
        log.write("step", 3, loss=9.0)
    assert [(record["step"], record["loss"]) for record in read_log(path)] == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == []
